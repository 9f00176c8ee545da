"""Whole conversions: every value exact, the plan, hyperparameters, metadata, tokenizer, disk space."""

from __future__ import annotations

import errno
import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from checkpoints import (
    ALIGNED,
    array_bytes,
    bfloat16,
    dequantized,
    from_bfloat16,
    make_checkpoint,
    tensor_path,
)
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

import pygrok.quantize
from pygrok import _core
from pygrok.errors import FormatError, ModelError
from pygrok.quantize.checkpoint import Checkpoint, open_checkpoint, source_of
from pygrok.quantize.hyperparameters import GROK_1, expert_width, resolve_hyperparameters
from pygrok.quantize.pickle_objects import StoredArray, StoredTensor
from pygrok.quantize.plan import TypeRules, make_plan
from pygrok.quantize.writer import OutputFiles

NAMES = [
    *("ffn_gate_exps", "ffn_down_exps", "ffn_up_exps"),
    *("attn_k", "attn_output", "attn_q", "attn_v"),
    *("attn_norm", "attn_output_norm", "ffn_norm", "layer_output_norm", "ffn_gate_inp"),
]


def stored_values(stored: StoredTensor) -> Any:
    """float32(weight) * float32(scale), as the checkpoint has it."""

    def array(part: StoredArray) -> Any:
        dtype = {"int8": np.int8, "float32": np.float32, "bfloat16": np.uint16}[part.dtype]
        return np.array(np.memmap(stored.path, dtype, "r", part.offset, part.shape))

    weight = array(stored.weight)
    if stored.weight.dtype == "bfloat16":
        weight = from_bfloat16(weight)
    if stored.scales is None:
        return weight
    repeats = weight.shape[-2] // stored.scales.shape[-2]
    return weight.astype(np.float32) * np.repeat(from_bfloat16(array(stored.scales)), repeats, axis=-2)


def expected_tensors(directory: Path) -> dict[str, Any]:
    """GGUF name -> values in numpy order, from file numbers alone: layers sorted as strings."""
    files = sorted((directory / "ckpt-0").glob("tensor*"))
    order = sorted(range((len(files) - 2) // 12), key=str)
    checkpoint = open_checkpoint(directory)
    stored = {
        tensor.path.name: tensor for part in (checkpoint.top, *checkpoint.layers) for tensor in part.values()
    }
    expected = {}
    for i, path in enumerate(files):
        values = stored_values(stored[path.name])
        if i < 2:
            expected[("token_embd.weight", "output_norm.weight")[i]] = values
            continue
        name = f"blk.{order[(i - 2) // 12]}.{NAMES[(i - 2) % 12]}.weight"
        expected[name] = np.swapaxes(values, -1, -2) if values.ndim > 1 else values
    return expected


def read_gguf(path: Path) -> dict[str, Any]:
    reader = gguf.GGUFReader(path)
    return {t.name: t for t in reader.tensors}


def metadata(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def check_exact(directory: Path, path: Path) -> None:
    expected = expected_tensors(directory)
    tensors = read_gguf(path)
    assert set(tensors) == set(expected)
    for name, values in expected.items():
        assert tuple(tensors[name].shape[::-1]) == values.shape, name
        np.testing.assert_array_equal(tensors[name].data.reshape(values.shape), values, name)


@pytest.mark.parametrize("name", ["grok-a", "grok-b"])
def test_fixtures_convert_exactly(shared: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "out.gguf"
    pygrok.quantize.convert(shared / "fixtures" / name, path, "f32", no_tokenizer=True)
    check_exact(shared / "fixtures" / name, path)


def test_made_checkpoint_converts_exactly(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, layers=11)
    report = pygrok.quantize.convert(directory / "ckpt-0", tmp_path / "out.gguf", "f32", no_tokenizer=True)
    check_exact(directory, tmp_path / "out.gguf")
    checkpoint = open_checkpoint(directory)
    parts = (checkpoint.top, *checkpoint.layers)
    assert report.source_bytes == sum(tensor.nbytes for part in parts for tensor in part.values())
    assert report.nbytes == sum(t.n_bytes for t in read_gguf(tmp_path / "out.gguf").values())


def test_plain_float_weights_stand_for_quantized_ones(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path)
    rng = np.random.default_rng(1)
    gate = rng.standard_normal((4, 64, 128)).astype(np.float32)
    tensor_path(directory, 2).write_bytes(array_bytes(gate))
    tensor_path(directory, 7).write_bytes(array_bytes(bfloat16(gate[0, :, :64])))
    pygrok.quantize.convert(directory, tmp_path / "out.gguf", "f32", no_tokenizer=True)
    check_exact(directory, tmp_path / "out.gguf")


@pytest.mark.parametrize(
    ("kind", "embedding", "worst"),
    [("f16", "f16", 5e-4), ("bf16", "bf16", 4e-3), ("q8_0", "f32", 0), ("q4_0", "q8_0", 0.2)],
)
def test_types(tmp_path: Path, kind: str, embedding: str, worst: float) -> None:
    directory = make_checkpoint(tmp_path, **ALIGNED)
    pygrok.quantize.convert(directory, tmp_path / "out.gguf", kind, no_tokenizer=True, threads=2)
    expected = expected_tensors(directory)
    for name, tensor in read_gguf(tmp_path / "out.gguf").items():
        wanted = kind
        if "norm" in name or "gate_inp" in name:
            wanted = "f32"
        elif name == "token_embd.weight":
            wanted = embedding
        assert tensor.tensor_type.name.lower() == wanted, name
        values = dequantize(tensor.data, tensor.tensor_type).reshape(expected[name].shape)
        error = np.sqrt(np.mean((values - expected[name]) ** 2) / np.mean(expected[name] ** 2))
        assert error <= (worst if wanted != "f32" else 0), name
    pygrok.quantize.convert(directory, tmp_path / "again.gguf", kind, no_tokenizer=True, threads=1)
    # general.name is the file's; everything else must be the same for any number of threads
    again = (tmp_path / "again.gguf").read_bytes()
    assert (tmp_path / "out.gguf").read_bytes()[-(1 << 16) :] == again[-(1 << 16) :]


def test_q8_0_falls_back_where_it_would_lose(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path)  # scales change every 16 values
    report = pygrok.quantize.convert(directory, tmp_path / "out.gguf", "q8_0", no_tokenizer=True)
    tensors = read_gguf(tmp_path / "out.gguf")
    assert tensors["blk.0.ffn_down_exps.weight"].tensor_type.name == "F32"
    assert tensors["blk.0.ffn_up_exps.weight"].tensor_type.name == "Q8_0"
    assert any("f32" in notice and "scales change" in notice for notice in report.notices)


@pytest.mark.parametrize("exponent", [-130, -33, -24, -15, -1, 15, 16, 100])
def test_q8_0_of_scales_at_the_edges_of_half(exponent: int) -> None:
    weight = np.tile(np.arange(-128, 128, dtype=np.int8)[:, None], (1, 4))
    exact = np.float32(2.0) ** exponent
    scales = bfloat16(np.array([[exact, exact * 1.5, exact * 1.9921875, 0]], np.float32))
    if exponent > 15:  # beyond what a block's scale can say
        with pytest.raises(ModelError, match="range of q8_0"):
            _convert_q8_0(weight, scales)
        return
    values = dequantize(_convert_q8_0(weight, scales), GGMLQuantizationType.Q8_0)
    expected = dequantized(weight, scales).T
    if -17 <= exponent <= 15:  # all four scales are halves
        np.testing.assert_array_equal(values, expected)
    else:
        np.testing.assert_allclose(
            values, expected, rtol=0, atol=np.abs(expected).max() / 200 + 128 * 2.0**-25
        )


def _convert_q8_0(weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
    out = np.empty((weight.shape[1], weight.shape[0] // 32 * 34), np.uint8)
    _core.Converter(1).convert(weight, scales, True, "q8_0", 0, out)
    return out


def test_embedding_type_and_unknown_types(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path)
    pygrok.quantize.convert(
        directory, tmp_path / "out.gguf", "q8_0", no_tokenizer=True, embedding_type="q4_0"
    )
    tensors = read_gguf(tmp_path / "out.gguf")
    assert tensors["token_embd.weight"].tensor_type.name == "Q4_0"
    assert tensors["blk.0.attn_q.weight"].tensor_type.name == "Q8_0"
    for arguments in ({"type": "q9_k"}, {"type": "f32", "embedding_type": "int4"}):
        with pytest.raises(ValueError, match=r"unknown .*type '\w+'; choose .*f32, f16, bf16, q8_0"):
            pygrok.quantize.convert(directory, tmp_path / "x.gguf", no_tokenizer=True, **arguments)


def test_rows_that_do_not_divide_fall_back(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, embedding=72)  # expert width 144
    report = pygrok.quantize.convert(directory, tmp_path / "out.gguf", "q4_0", no_tokenizer=True)
    kinds = {name: t.tensor_type.name for name, t in read_gguf(tmp_path / "out.gguf").items()}
    assert kinds["token_embd.weight"] == kinds["blk.0.ffn_down_exps.weight"] == "F16"
    assert kinds["blk.1.attn_output.weight"] == "Q4_0"  # rows of 4 heads x 16
    assert any("rows of 144" in notice and "f16" in notice for notice in report.notices)


def test_grok_1_plan_has_the_sizes_that_the_readme_states(tmp_path: Path) -> None:
    path = tmp_path / "no config here" / "ckpt-0"

    def stored(role: str) -> StoredTensor:
        return StoredTensor(path, StoredArray("int8", GROK_1.dimensions.shape_of(role), 0, 1), None)

    checkpoint = open_checkpoint(make_checkpoint(tmp_path))
    top = {role: stored(role) for role in checkpoint.top}
    layer = {role: stored(role) for role in checkpoint.layers[0]}
    grok_1 = Checkpoint(path, GROK_1.dimensions, top, (layer,) * 64)
    sizes = {
        kind: round(make_plan(source_of(grok_1), TypeRules(kind)).nbytes / 1e9)
        for kind in ("f32", "bf16", "q8_0", "q4_0")
    }
    assert sizes == {"f32": 1263, "bf16": 631, "q8_0": 338, "q4_0": 178}
    assert resolve_hyperparameters(grok_1) == GROK_1
    assert expert_width(6144, 8) == 32768


def test_metadata(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path)
    pygrok.quantize.convert(directory, tmp_path / "tiny.gguf", "q8_0", no_tokenizer=True)
    found = metadata(tmp_path / "tiny.gguf")
    expected = {
        "general.architecture": "grok",
        "general.name": "tiny",
        "general.file_type": 7,
        "general.quantization_version": 2,
        "grok.block_count": 2,
        "grok.context_length": 32,
        "grok.embedding_length": 64,
        "grok.feed_forward_length": 128,
        "grok.attention.head_count": 4,
        "grok.attention.head_count_kv": 2,
        "grok.attention.key_length": 16,
        "grok.attention.value_length": 16,
        "grok.rope.dimension_count": 16,
        "grok.expert_count": 4,
        "grok.expert_used_count": 2,
        "grok.vocab_size": 96,
        "grok.embedding_scale": 8.0,
        "grok.attention.output_scale": 0.25,
        "grok.attn_logit_softcapping": 30.0,
        "grok.router_logit_softcapping": 30.0,
        "grok.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "no_vocab",
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found["grok.logit_scale"] == pytest.approx(0.5773502691896257, rel=1e-7)
    assert found["grok.attention.layer_norm_rms_epsilon"] == pytest.approx(1e-5, rel=1e-6)
    with (tmp_path / "tiny.gguf").open("rb") as file:
        file.seek(0, 2)
        assert all(t.data_offset % 32 == 0 for t in read_gguf(tmp_path / "tiny.gguf").values())
    assert len(_core.GgufFile(str(tmp_path / "tiny.gguf")).tensors) == 2 + 12 * 2


def test_tokenizer_metadata(shared: Path, tmp_path: Path) -> None:
    model = shared / "tokenizer" / "grok-1" / "tokenizer.model"
    directory = make_checkpoint(tmp_path, layers=1, vocabulary=131072, embedding=16, widening=12)
    shutil.copy(model, directory / "tokenizer.model")  # found above ckpt-0
    pygrok.quantize.convert(directory, tmp_path / "out.gguf", "f32")
    file = _core.GgufFile(str(tmp_path / "out.gguf"))
    tokens, types = file.get("tokenizer.ggml.tokens"), file.get("tokenizer.ggml.token_type")
    assert len(tokens) == len(types) == len(file.get("tokenizer.ggml.scores")) == 131072
    assert tokens[:5] == [b"[PAD]", b"[BOS]", b"[EOS]", b"[UNK]", b"\n"]
    assert list(types[:5]) == [3, 3, 3, 2, 4]
    assert np.bincount(types, minlength=7)[[2, 3, 4, 6]].tolist() == [1, 3, 65, 256]
    for key, value in (
        ("model", "llama"),
        ("bos_token_id", 1),
        ("eos_token_id", 2),
        ("padding_token_id", 0),
        ("unknown_token_id", 3),
        ("add_bos_token", False),
        ("add_space_prefix", True),
        ("remove_extra_whitespaces", False),
    ):
        assert file.get(f"tokenizer.ggml.{key}") == value, key

    small = make_checkpoint(tmp_path / "small")
    with pytest.raises(FormatError, match=r"131072 pieces.*96 tokens.*--tokenizer"):
        pygrok.quantize.convert(small, tmp_path / "x.gguf", tokenizer=model)


def test_missing_and_wrong_tokenizers(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "deep" / "er")
    said: list[str] = []
    report = pygrok.quantize.convert(directory, tmp_path / "none.gguf", notify=said.append)
    assert tuple(said) == report.notices
    assert "token ids only" in said[0]
    for content in (b"", b"not a model" * 9, b"\x0a\x03\x0a\x01"):
        (directory / "tokenizer.model").write_bytes(content)
        with pytest.raises(FormatError, match="not a SentencePiece model"):
            pygrok.quantize.convert(directory, tmp_path / "out.gguf")
    with pytest.raises(ValueError, match="exclude"):
        pygrok.quantize.convert(directory, tmp_path / "out.gguf", tokenizer="x", no_tokenizer=True)
    assert not (tmp_path / "out.gguf").exists()


def test_hyperparameters_need_a_config_unless_grok_1(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path)
    config = directory / "config.json"
    given = json.loads(config.read_text())
    config.unlink()
    with pytest.raises(FormatError, match=r"not Grok-1's \(layers 2, vocabulary 96, .*--config"):
        pygrok.quantize.convert(directory, tmp_path / "x.gguf", no_tokenizer=True)

    elsewhere = tmp_path / "elsewhere.json"
    cases: list[tuple[Any, str]] = [
        ("{", "not JSON"),
        ([], "expected an object"),
        ({**given, "vocab_size": 97}, "vocab_size is 97 in the config, 96 in the tensors"),
        ({**given, "vocab_size": "96"}, "vocab_size is '96', expected a positive whole number"),
        ({**given, "sequence_len": 0}, "sequence_len is 0"),
        ({**given, "embedding_multiplier_scale": float("nan")}, "embedding_multiplier_scale is nan"),
        ({**given, "model": {**given["model"], "num_layers": 3}}, "num_layers is 3 in the config, 2"),
        ({**given, "model": {**given["model"], "num_selected_experts": 5}}, "above num_experts 4"),
        ({**given, "model": {**given["model"], "key_size": 15}}, "odd"),
        ({**given, "model": {}}, "model.emb_size is missing.*model.attn_output_multiplier is missing"),
    ]
    for content, message in cases:
        elsewhere.write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(FormatError, match=message):
            pygrok.quantize.convert(directory, tmp_path / "x.gguf", config=elsewhere, no_tokenizer=True)
    elsewhere.write_text(json.dumps(given))
    pygrok.quantize.convert(directory, tmp_path / "x.gguf", config=elsewhere, no_tokenizer=True)
    assert metadata(tmp_path / "x.gguf")["grok.context_length"] == 32


def test_bad_values_name_the_file_and_leave_nothing(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path)
    bad = np.zeros((96, 64), np.float32)
    bad[95, 63] = np.nan
    tensor_path(directory, 0).write_bytes(array_bytes(bad))
    with pytest.raises(ModelError, match=r"tensor00000_000: tensor token_embd.weight holds NaN"):
        pygrok.quantize.convert(directory, tmp_path / "out.gguf", no_tokenizer=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ckpt-0", "config.json"]


def test_progress_reaches_the_end(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path)
    calls: list[tuple[int, int]] = []
    report = pygrok.quantize.convert(
        directory, tmp_path / "x.gguf", no_tokenizer=True, progress=lambda *call: calls.append(call)
    )
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert calls[-1] == (report.source_bytes, report.source_bytes)


Usage = namedtuple("Usage", "total used free")


def test_too_small_disk_is_told_before_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make_checkpoint(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(OSError, match=r"needs \d+\.\d kB, the disk has 1.0 kB free") as caught:
        pygrok.quantize.convert(directory, tmp_path / "out.gguf", no_tokenizer=True)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ckpt-0", "config.json"]


def test_full_disk_in_the_middle_leaves_the_destination(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_checkpoint(tmp_path)
    (tmp_path / "out.gguf").write_bytes(b"before")
    write, calls = OutputFiles.write, 0

    def failing(self: OutputFiles, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, *arguments)

    monkeypatch.setattr(OutputFiles, "write", failing)
    with pytest.raises(OSError, match="free space or write to another disk") as caught:
        pygrok.quantize.convert(directory, tmp_path / "out.gguf", no_tokenizer=True, force=True)
    assert caught.value.errno == errno.ENOSPC
    assert (tmp_path / "out.gguf").read_bytes() == b"before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ckpt-0", "config.json", "out.gguf"]
