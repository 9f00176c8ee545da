"""What a GGUF source carries over to the file made from it: tokenizer, names, hyperparameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from checkpoints import ALIGNED, make_checkpoint
from source_files import values_of, write_gguf

import pygrok
from pygrok import _core
from pygrok.errors import FormatError
from pygrok.quantize.hyperparameters import Hyperparameters
from pygrok.quantize.metadata import FILE_TYPES, add_metadata
from pygrok.quantize.source import SourceModel, open_source


@pytest.fixture(scope="module")
def xai(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    return open_source(make_checkpoint(tmp_path_factory.mktemp("xai"), vocabulary=400, **ALIGNED))


def add_unusual_keys(writer: gguf.GGUFWriter) -> None:
    writer.add_string("general.name", "My Grok")
    writer.add_string("general.author", "someone")
    writer.add_array("general.tags", ["a", "b"])
    writer.add_uint32("general.file_type", 0)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_uint32("tokenizer.ggml.bos_token_id", 1)
    writer.add_uint32("tokenizer.ggml.eot_token_id", 5)
    writer.add_int32("tokenizer.ggml.minus", -3)
    writer.add_uint64("tokenizer.ggml.large", 2**40)
    writer.add_float32("tokenizer.ggml.third", 1 / 3)
    writer.add_float64("tokenizer.ggml.exact_third", 1 / 3)
    writer.add_array("tokenizer.ggml.flags", [True, False])
    writer.add_string("tokenizer.chat_template", "{{ messages }}")
    writer.add_string("quantize.imatrix.file", "left behind")


def rewritten(source: SourceModel, path: Path) -> _core.GgufFile:
    """A file with the source's metadata and no tensors worth mention."""
    writer = gguf.GGUFWriter(path, "grok")
    add_metadata(writer, source.hyperparameters(), source.vocabulary(), "q4_k_m", "unnamed", source.metadata)
    writer.add_tensor("x", np.zeros(1, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return _core.GgufFile(str(path))


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    return type(a) is type(b) and bool(a == b)


def test_tokenizer_and_names_are_carried_over(tmp_path: Path, xai: SourceModel, tiny_tokenizer: Path) -> None:
    model, vocabulary = xai.hyperparameters(), xai.vocabulary(tiny_tokenizer)
    assert vocabulary is not None

    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_string("tokenizer.ggml.model", "llama")
        writer.add_array("tokenizer.ggml.tokens", vocabulary.pieces)
        writer.add_array("tokenizer.ggml.scores", vocabulary.scores)
        writer.add_array("tokenizer.ggml.token_type", vocabulary.types)
        add_unusual_keys(writer)

    path = write_gguf(tmp_path / "source.gguf", values_of(xai), model, edit=edit)
    source = open_source(path)
    found = source.vocabulary()
    assert found is not None
    assert (found.pieces, found.types) == (vocabulary.pieces, vocabulary.types)
    assert found.scores == pytest.approx(vocabulary.scores)

    before, after = _core.GgufFile(str(path)), rewritten(source, tmp_path / "result.gguf")
    keys = [key for key in before.keys() if key.startswith(("tokenizer.", "general."))]  # noqa: SIM118
    assert len(keys) == 18
    for key in keys:
        if key not in ("general.file_type", "general.architecture"):
            assert same(before.get(key), after.get(key)), key
    assert after.get("general.file_type") == 15
    assert after.get("quantize.imatrix.file") is None
    assert [key for key in after.keys() if key.startswith("tokenizer.")] == [  # noqa: SIM118
        key for key in keys if key.startswith("tokenizer.")
    ]
    text = "Layers 2048 of the model,  and\nmore ü"
    assert pygrok.Tokenizer.from_gguf(after).encode(text) == pygrok.Tokenizer.from_gguf(before).encode(text)
    assert pygrok.Tokenizer.from_gguf(after).add_bos

    # Another tokenizer may be given.
    other = source.vocabulary(tiny_tokenizer)
    assert other is not None
    assert other.carried is None


def test_hyperparameters_survive(tmp_path: Path, xai: SourceModel) -> None:
    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_float32("grok.rope.freq_base", 5e5)
        writer.add_float32("grok.attention.layer_norm_rms_epsilon", 1e-6)
        writer.add_float32("grok.attn_logit_softcapping", 20)

    path = write_gguf(tmp_path / "source.gguf", values_of(xai), xai.hyperparameters(), edit=edit)
    source = open_source(path)
    found = source.hyperparameters()
    assert (found.rope_base, found.attention_soft_cap) == (5e5, 20)
    assert found.rms_epsilon == np.float32(1e-6)
    after = rewritten(source, tmp_path / "result.gguf")
    assert after.get("grok.rope.freq_base") == 5e5
    assert after.get("grok.attention.layer_norm_rms_epsilon") == np.float32(1e-6)
    assert after.get("grok.attn_logit_softcapping") == 20
    assert after.get("general.name") == "unnamed"


@pytest.mark.parametrize(
    ("name", "stays"), [("Grok-1 f16", False), ("grok-1-Q4_K_M", False), ("Grok-1", True)]
)
def test_a_name_that_ends_in_a_type_goes(tmp_path: Path, xai: SourceModel, name: str, stays: bool) -> None:
    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_string("general.name", name)

    path = write_gguf(tmp_path / "source.gguf", values_of(xai), xai.hyperparameters(), edit=edit)
    after = rewritten(open_source(path), tmp_path / "result.gguf")
    assert after.get("general.name") == (name if stays else "unnamed")


@pytest.mark.parametrize("kind", [None, "none", "no_vocab"])
def test_no_tokenizer(tmp_path: Path, xai: SourceModel, kind: str | None) -> None:
    def edit(writer: gguf.GGUFWriter) -> None:
        if kind:
            writer.add_string("tokenizer.ggml.model", kind)

    path = write_gguf(tmp_path / "source.gguf", values_of(xai), xai.hyperparameters(), edit=edit)
    source = open_source(path)
    assert source.vocabulary() is None
    assert rewritten(source, tmp_path / "result.gguf").get("tokenizer.ggml.model") == "no_vocab"


def test_tokenizer_beside_a_checkpoint(tmp_path: Path, tiny_tokenizer: Path) -> None:
    source = open_source(make_checkpoint(tmp_path / "400", vocabulary=400, **ALIGNED))
    assert source.vocabulary() is None
    (tmp_path / "400" / "tokenizer.model").write_bytes(tiny_tokenizer.read_bytes())
    found = source.vocabulary()
    assert found is not None
    assert len(found.pieces) == 400
    other = open_source(make_checkpoint(tmp_path / "96", **ALIGNED))
    with pytest.raises(FormatError, match="400 pieces, but the model has 96 tokens"):
        other.vocabulary(tiny_tokenizer)


def test_config_for_a_gguf_file(tmp_path: Path, xai: SourceModel) -> None:
    path = write_gguf(tmp_path / "source.gguf", values_of(xai), xai.hyperparameters(), old=True)
    source = open_source(path)
    model: Hyperparameters = source.hyperparameters(xai.directory.parent / "config.json")
    assert model == xai.hyperparameters()
    assert source.hyperparameters() != model


def test_file_types_are_those_of_the_gguf_package() -> None:
    known = {
        kind.name.removeprefix("MOSTLY_").removeprefix("ALL_").lower(): kind for kind in gguf.LlamaFileType
    }
    for name, number in FILE_TYPES.items():
        alias = {"q3_k": "q3_k_s", "q4_k": "q4_k_s", "q5_k": "q5_k_s", "mxfp4": "mxfp4_moe"}.get(name, name)
        if alias in known:
            assert number == known[alias], name
    assert len(set(FILE_TYPES) & set(known)) > 20
