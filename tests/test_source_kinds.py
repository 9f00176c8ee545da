"""One small model as xAI's checkpoint, in Hugging Face folders and in GGUF files: the same values from all of them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoints import ALIGNED, make_checkpoint
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from source_files import (
    DTYPES,
    SPELLINGS,
    Values,
    hugging_face_config,
    tensor_values,
    values_of,
    write_gguf,
    write_hugging_face,
)

from pygrok import _core
from pygrok.errors import FormatError, ModelError
from pygrok.quantize.hyperparameters import GROK_1, Hyperparameters
from pygrok.quantize.source import SourceModel, open_source


@pytest.fixture(scope="module")
def xai(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    return open_source(make_checkpoint(tmp_path_factory.mktemp("xai"), layers=12, **ALIGNED))


@pytest.fixture(scope="module")
def values(xai: SourceModel) -> Values:
    return values_of(xai)


@pytest.fixture(scope="module")
def model(xai: SourceModel) -> Hyperparameters:
    return xai.hyperparameters()


def assert_same(source: SourceModel, expected: Values) -> None:
    assert [tensor.name for tensor in source.tensors] == list(expected)
    for name, array in values_of(source).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_order_and_shapes_are_those_of_the_gguf_file(xai: SourceModel) -> None:
    names = [tensor.name for tensor in xai.tensors]
    assert names[:4] == [
        "token_embd.weight",
        "output_norm.weight",
        "blk.0.attn_norm.weight",
        "blk.0.attn_q.weight",
    ]
    assert [name for name in names if "attn_q" in name] == [f"blk.{i}.attn_q.weight" for i in range(12)]
    gate, down = xai.tensor("blk.2.ffn_gate_exps.weight"), xai.tensor("blk.2.ffn_down_exps.weight")
    assert (gate.shape, down.shape) == ((4, 256, 128), (4, 128, 256))
    assert (gate.kind, gate.role, gate.layer, gate.dtype, gate.transpose) == (
        "expert",
        "expert_gate",
        2,
        "int8",
        True,
    )
    assert (gate.rows, gate.columns, gate.values) == (256, 128, 4 * 256 * 128)
    assert gate.matrices[0].path.name == f"tensor{2 + 12 * 4:05d}_000"  # layer 2 comes fifth: 0, 1, 10, 11, 2
    assert not any(tensor.quantized for tensor in xai.tensors)
    assert xai.source_bytes == sum(tensor.nbytes for tensor in xai.tensors)
    with pytest.raises(KeyError):
        xai.tensor("blk.12.attn_q.weight")


def test_scales_are_where_the_blocks_end(xai: SourceModel) -> None:
    assert not any(tensor.splits_scales(32) for tensor in xai.tensors)
    down = xai.tensor("blk.0.ffn_down_exps.weight")  # 8 groups of 32 rows
    assert not down.splits_scales(32)
    assert down.splits_scales(64)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_hugging_face_spellings(
    tmp_path: Path, values: Values, model: Hyperparameters, xai: SourceModel, spelling: str
) -> None:
    source = open_source(write_hugging_face(tmp_path / "hf", values, model, spelling=spelling))
    assert_same(source, values)
    assert (source.kind, source.dimensions) == ("hugging-face", xai.dimensions)
    assert source.hyperparameters() == model
    assert len(source.tensor("blk.3.ffn_up_exps.weight").matrices) == 4
    assert not any(tensor.transpose for tensor in source.tensors)
    assert source.vocabulary() is None


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_half_precision(tmp_path: Path, values: Values, model: Hyperparameters, dtype: str) -> None:
    source = open_source(write_hugging_face(tmp_path / "hf", values, model, dtype=dtype))
    assert {tensor.dtype for tensor in source.tensors} == {dtype.lower()}
    assert_same(
        source, {name: array.astype(DTYPES[dtype]).astype(np.float32) for name, array in values.items()}
    )


def test_what_else_lies_in_the_folder(tmp_path: Path, values: Values, model: Hyperparameters) -> None:
    folder = write_hugging_face(tmp_path / "hf", values, model)
    (folder / "tensorboard").mkdir()
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert open_source(folder).kind == "hugging-face"


@pytest.mark.parametrize("given", ["folder", "index", "shard"])
def test_shards(tmp_path: Path, values: Values, model: Hyperparameters, given: str) -> None:
    folder = write_hugging_face(tmp_path / "hf", values, model, shards=3, spelling="mixtral")
    names = {
        "folder": folder,
        "index": folder / "model.safetensors.index.json",
        "shard": folder / "model-00002-of-00003.safetensors",
    }
    source = open_source(names[given])
    assert len(source.files) == 3
    # Experts of one tensor lie in different files.
    assert len({m.path for m in source.tensor("blk.0.ffn_gate_exps.weight").matrices}) == 3
    assert_same(source, values)


def test_shards_without_an_index(tmp_path: Path, values: Values, model: Hyperparameters) -> None:
    folder = write_hugging_face(tmp_path / "hf", values, model, shards=2)
    (folder / "model.safetensors.index.json").unlink()
    assert_same(open_source(folder), values)
    (folder / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(FormatError, match=r"1 of the 2 files missing: model-00001-of-00002"):
        open_source(folder)


@pytest.mark.parametrize("type", ["f32", "f16", "bf16", "q8_0", "q4_0"])
@pytest.mark.parametrize("old", [False, True])
def test_gguf(tmp_path: Path, values: Values, model: Hyperparameters, type: str, old: bool) -> None:
    source = open_source(write_gguf(tmp_path / "a.gguf", values, model, type=type, old=old))
    number = GGMLQuantizationType[type.upper()]
    plain = {name for name in values if "norm" in name or "gate_inp" in name}
    expected = {
        name: array if name in plain else dequantize(quantize(array, number), number)
        for name, array in values.items()
    }
    assert_same(source, expected)
    assert any(tensor.quantized for tensor in source.tensors) == (type == "q4_0")
    assert source.tensor("blk.1.attn_k.weight").dtype == type
    found = source.hyperparameters()
    if old:  # then the release's values hold
        assert found.embedding_multiplier == GROK_1.embedding_multiplier
        assert found.attention_multiplier == GROK_1.attention_multiplier
    else:
        assert found.embedding_multiplier == np.float32(model.embedding_multiplier)
    assert (
        replace(
            found,
            embedding_multiplier=model.embedding_multiplier,
            output_multiplier=model.output_multiplier,
            attention_multiplier=model.attention_multiplier,
        )
        == model
    )


def test_rows_in_slices(tmp_path: Path, values: Values, model: Hyperparameters, xai: SourceModel) -> None:
    converter = _core.Converter(1)
    for source in (xai, open_source(write_gguf(tmp_path / "a.gguf", values, model))):
        tensor = source.tensor("blk.5.ffn_down_exps.weight")
        with tensor.open() as reader:
            for index in range(4):
                reader.prefetch(index)
                np.testing.assert_array_equal(
                    reader.values(converter, index, 17, 40), values[tensor.name][index, 17:57]
                )
                reader.drop(index)
            reader.drop(0, 3, 5)  # dropping twice, or in part, harms nothing
            np.testing.assert_array_equal(reader.values(converter, 0), values[tensor.name][0])


def test_arrays_outlive_the_reader(xai: SourceModel, values: Values) -> None:
    with xai.tensor("blk.0.attn_norm.weight").open() as reader:
        matrix = reader.matrix(0)
    np.testing.assert_array_equal(matrix.weight[0], values["blk.0.attn_norm.weight"])


def test_a_file_that_shrinks(tmp_path: Path, values: Values, model: Hyperparameters) -> None:
    path = write_gguf(tmp_path / "a.gguf", values, model)
    source = open_source(path)
    os.truncate(path, path.stat().st_size - 100_000)
    with pytest.raises(ModelError, match="has shrunk"):
        tensor_values(source.tensors[-2], _core.Converter(1))


def test_untied_output(tmp_path: Path, values: Values, model: Hyperparameters) -> None:
    tied = open_source(
        write_hugging_face(tmp_path / "tied", {**values, "output.weight": values["token_embd.weight"]}, model)
    )
    assert_same(tied, values)  # a copy of the embedding says nothing new
    untied = {**values, "output.weight": values["token_embd.weight"][::-1].copy()}
    order = [*list(values)[:2], "output.weight", *list(values)[2:]]
    expected = {name: untied[name] for name in order}
    assert_same(open_source(write_hugging_face(tmp_path / "untied", untied, model)), expected)
    source = open_source(write_gguf(tmp_path / "untied.gguf", untied, model))
    assert_same(source, expected)
    assert (source.tensors[2].kind, source.tensors[2].role) == ("embedding", "output")


def test_fingerprint(tmp_path: Path, values: Values, model: Hyperparameters) -> None:
    folder = write_hugging_face(tmp_path / "hf", values, model, shards=2)
    before = open_source(folder).fingerprint()
    assert open_source(folder).fingerprint() == before
    moved = folder.rename(tmp_path / "moved")
    assert open_source(moved).fingerprint() == before
    file = moved / "model-00002-of-00002.safetensors"
    status = file.stat()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert open_source(moved).fingerprint() != before


def test_config_of_hugging_face(tmp_path: Path, values: Values, model: Hyperparameters) -> None:
    folder = write_hugging_face(tmp_path / "hf", values, model)
    source = open_source(folder)
    config = hugging_face_config(model)

    def read(**changed: object) -> Hyperparameters:
        fields = {key: value for key, value in {**config, **changed}.items() if value != "absent"}
        (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
        return source.hyperparameters()

    other = {"num_experts": "absent", "num_local_experts": 4, "num_experts_per_tok": "absent"}
    assert read(**other, num_selected_experts=2) == model
    assert read(head_dim="absent") == model
    assert read(rms_norm_eps=1e-6).rms_epsilon == 1e-6
    assert read(rope_parameters={"rope_theta": 5e5, "rope_type": "default"}).rope_base == 5e5
    assert read(max_attn_value=20.0).attention_soft_cap == 20.0
    assert read(rope_scaling=None, final_logit_softcapping=None) == model
    for changed, message in [
        ({"hidden_size": 64}, "hidden_size is 64 in the config, 128 in the tensors"),
        ({"num_hidden_layers": "absent"}, "num_hidden_layers is missing, expected a positive whole number"),
        ({"num_experts": "absent"}, "num_experts or num_local_experts is missing"),
        ({"attn_output_multiplier": "absent"}, "attn_output_multiplier is missing"),
        ({"num_experts_per_tok": 9}, "9, is above num_experts 4"),
        ({"final_logit_softcapping": 50.0}, "later Grok"),
        ({"rope_scaling": {"type": "yarn"}}, "later Grok"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1, expected a positive number"),
        ({"vocab_size": True}, "vocab_size is True"),
    ]:
        with pytest.raises(FormatError, match=message) as caught:
            read(**changed)
        assert "\n" not in str(caught.value)


def test_metadata_that_contradicts_the_tensors(
    tmp_path: Path, values: Values, model: Hyperparameters
) -> None:
    for changed, message in [
        (replace(model, layers=11), "layers is 11 in the metadata, 12 in the tensors"),
        (replace(model, heads=8, head_size=8), "query is 64 in the metadata, 256"),
        (replace(model, experts_used=5), "5, is above num_experts 4"),
        (replace(model, embedding_multiplier=-1.0), "embedding_scale is -1.0, expected a positive number"),
    ]:
        path = write_gguf(tmp_path / "a.gguf", values, changed)
        with pytest.raises(FormatError, match=message) as caught:
            open_source(path)
        assert str(path) in str(caught.value)

    def later(writer: gguf.GGUFWriter) -> None:
        writer.add_float32("grok.final_logit_softcapping", 50.0)

    with pytest.raises(FormatError, match="later Grok"):
        open_source(write_gguf(tmp_path / "a.gguf", values, model, edit=later))
