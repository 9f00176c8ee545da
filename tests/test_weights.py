"""Files that say the same in other words, and files that do not hold the model they describe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from source_files import write_other_architecture

import pygrok
from pygrok import _core

Tensors = dict[str, np.ndarray]
IDS = list(range(5, 40))


def rewrite(source: Path, target: Path, change: Callable[[Tensors], Tensors], **options: Any) -> Path:
    """A copy of a f32 file with other tensors; with `keys`, also with some metadata replaced (None: left out)."""
    keys: dict[str, Any] = options.pop("keys", {})
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "grok", **options)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture" or name in keys:
            continue
        inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    for name, value in keys.items():
        if value is not None:
            writer.add_float32(name, value)
    tensors = {t.name: np.array(t.data) for t in reader.tensors}
    for name, data in change(tensors).items():
        if data.dtype == np.uint8:  # already blocks
            writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q8_K)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def logits(path: Path) -> np.ndarray:
    with pygrok.load(path, kv_type="f32") as model:
        return model.logits(IDS)


def newer_norm(tensors: Tensors) -> Tensors:
    return {name.replace("layer_output_norm", "post_ffw_norm"): data for name, data in tensors.items()}


def untied(tensors: Tensors) -> Tensors:
    return {**tensors, "output.weight": tensors["token_embd.weight"].copy()}


def split_experts(tensors: Tensors) -> Tensors:
    changed: Tensors = {}
    for name, data in tensors.items():
        if "_exps" not in name:
            changed[name] = data
            continue
        for i, expert in enumerate(data):
            changed[name.replace("_exps.weight", f".{i}.weight")] = expert.copy()
    return changed


@pytest.mark.parametrize("change", [dict, newer_norm, untied, split_experts])
def test_other_spellings_compute_the_same(
    tiny_models: dict[str, Path], tmp_path: Path, change: Callable[[Tensors], Tensors]
) -> None:
    changed = rewrite(tiny_models["f32"], tmp_path / "m.gguf", change)
    np.testing.assert_array_equal(logits(changed), logits(tiny_models["f32"]))


def test_split_files_run(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    rewrite(tiny_models["f32"], tmp_path / "m.gguf", dict, split_max_tensors=7)
    shards = sorted(tmp_path.glob("m-*-of-*.gguf"))
    assert len(shards) > 2
    np.testing.assert_array_equal(logits(shards[0]), logits(tiny_models["f32"]))
    with pytest.raises(pygrok.FormatError, match="00001-of"):
        pygrok.load(shards[1])
    shards[2].unlink()
    with pytest.raises(pygrok.FormatError, match=shards[2].name):
        pygrok.load(shards[0])


def test_untied_output_is_used(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    def doubled(tensors: Tensors) -> Tensors:
        return {**tensors, "output.weight": tensors["token_embd.weight"] * 2}

    path = rewrite(tiny_models["f32"], tmp_path / "m.gguf", doubled)
    np.testing.assert_allclose(logits(path), 2 * logits(tiny_models["f32"]), rtol=1e-5, atol=1e-5)


def test_older_files_lack_the_scales(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    names = ["embedding_scale", "logit_scale", "attention.output_scale", "attn_logit_softcapping"]
    released = dict(
        zip(names, [78.38367176906169, 0.5773502691896257, 0.08838834764831845, 30.0], strict=True)
    )
    keys = {f"grok.{name}": value for name, value in released.items()}
    with_keys = rewrite(tiny_models["f32"], tmp_path / "with.gguf", dict, keys=keys)
    without = rewrite(tiny_models["f32"], tmp_path / "without.gguf", dict, keys=dict.fromkeys(keys))
    np.testing.assert_array_equal(logits(with_keys), logits(without))


def dropped(tensors: Tensors) -> Tensors:
    gone = ("blk.0.attn_q.weight", "blk.1.ffn_up_exps.weight", "output_norm.weight")
    return {name: data for name, data in tensors.items() if name not in gone}


def misshapen(tensors: Tensors) -> Tensors:
    return {**tensors, "blk.1.attn_k.weight": tensors["blk.1.attn_k.weight"][:-1].copy()}


def foreign(tensors: Tensors) -> Tensors:
    return {**tensors, "blk.0.ffn_gate.weight": np.zeros((8, 32), np.float32)}


def half_norm(tensors: Tensors) -> Tensors:
    return {**tensors, "blk.0.attn_norm.weight": tensors["blk.0.attn_norm.weight"].astype(np.float16)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            dropped,
            [
                "output_norm.weight is missing",
                "blk.0.attn_q.weight is missing",
                "blk.1.ffn_up_exps.weight is",
            ],
        ),
        (misshapen, ["blk.1.attn_k.weight has shape [63, 128], expected [64, 128]"]),
        (foreign, ["blk.0.ffn_gate.weight is not part of Grok-1"]),
        (half_norm, ["blk.0.attn_norm.weight is f16, expected f32"]),
    ],
)
def test_all_that_is_wrong_is_said_at_once(
    tiny_models: dict[str, Path], tmp_path: Path, change: Callable[[Tensors], Tensors], said: list[str]
) -> None:
    path = rewrite(tiny_models["f32"], tmp_path / "m.gguf", change)
    with pytest.raises(pygrok.ModelError) as caught:
        pygrok.load(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("grok.attn_logit_softcapping", 100.0, "attn_logit_softcapping"),
        ("grok.final_logit_softcapping", 50.0, "later Grok"),
        ("grok.embedding_scale", float("nan"), "embedding_scale"),
        ("grok.logit_scale", -1.0, "logit_scale"),
    ],
)
def test_hyperparameters_are_checked(
    tiny_models: dict[str, Path], tmp_path: Path, key: str, value: float, said: str
) -> None:
    path = rewrite(tiny_models["f32"], tmp_path / "m.gguf", dict, keys={key: value})
    with pytest.raises(pygrok.PygrokError, match=said):
        pygrok.load(path)


def test_types_that_the_engine_lacks_fail_by_name(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    _, values, size = _core.tensor_types()["q8_k"]  # exists for intermediate results only

    def foreign_blocks(tensors: Tensors) -> Tensors:
        rows, columns = tensors["blk.0.attn_output.weight"].shape
        return {**tensors, "blk.0.attn_output.weight": np.zeros((rows, columns // values * size), np.uint8)}

    path = rewrite(tiny_models["f32"], tmp_path / "m.gguf", foreign_blocks)
    assert any(tensor.type == "q8_k" for tensor in _core.GgufFile(str(path)).tensors)
    with pytest.raises(
        pygrok.ModelError, match=r"attn_output\.weight has type q8_k, which this engine cannot run"
    ):
        pygrok.load(path)


def test_other_architectures_are_named(tmp_path: Path) -> None:
    path = write_other_architecture(tmp_path / "llama.gguf")
    with pytest.raises(pygrok.ModelError, match="'llama'"):
        pygrok.load(path)


def test_damaged_models_never_crash(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    """Truncated or flipped anywhere: an error of ours, or logits of some kind."""
    good = tiny_models["q8_0"].read_bytes()
    rng = np.random.default_rng(1)
    path = tmp_path / "m.gguf"
    damaged = [good[:n] for n in rng.integers(0, len(good), 200)]
    for _ in range(2000):
        flipped = bytearray(good)
        # half of them where it matters most
        limit = len(good) if rng.integers(2) else 9000
        for place in rng.integers(0, limit, rng.integers(1, 4)):
            flipped[place] = int(rng.integers(256))
        damaged.append(bytes(flipped))
    ran = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            with pygrok.load(path, threads=1, context=8, memory_limit="64MiB") as model:
                assert model.logits([1, 2, 3]).shape == (3, model.config.vocab)
                ran += 1
        except (pygrok.PygrokError, ValueError):
            pass
    assert 0 < ran < len(damaged)
