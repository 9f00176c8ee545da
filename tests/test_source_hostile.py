"""Damaged and hostile safetensors, indices, folders and GGUF metadata: one line, FormatError, nothing else."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from checkpoints import ALIGNED, make_checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from source_files import (
    Values,
    hugging_face_tensors,
    safetensors_bytes,
    values_of,
    with_header,
    write_gguf,
    write_hugging_face,
    write_other_architecture,
)

from pygrok.errors import FormatError
from pygrok.quantize.hyperparameters import Hyperparameters
from pygrok.quantize.safetensors import MAX_HEADER_BYTES, read_header
from pygrok.quantize.source import SourceModel, open_source


@pytest.fixture(scope="module")
def xai(tmp_path_factory: pytest.TempPathFactory) -> SourceModel:
    return open_source(make_checkpoint(tmp_path_factory.mktemp("xai"), **ALIGNED))


@pytest.fixture(scope="module")
def values(xai: SourceModel) -> Values:
    return values_of(xai)


@pytest.fixture(scope="module")
def model(xai: SourceModel) -> Hyperparameters:
    return xai.hyperparameters()


def refused(path: Path, message: str, reader: Callable[[Path], object] = open_source) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        reader(path)
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text
    assert text.isprintable()
    assert len(text) < 1200


def entry(shape: Any = (2,), offsets: Any = (0, 8), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def header(**tensors: Any) -> bytes:
    return json.dumps(tensors).encode()


NESTED = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
REPEATED = b"{" + b",".join(b'"%d":0' % i for i in range(60_000)) + b',"59999":1}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are too few"),
        (b"\x08\0\0", "3 bytes are too few"),
        (struct.pack("<Q", 1 << 63), "a header of 9223372036854775808 bytes, expected at most"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1), "expected at most"),
        (struct.pack("<Q", 100) + b"{}", "a header of 100 bytes where the file has 2 left"),
        (with_header(b""), "does not begin with"),
        (with_header(b" {}"), "does not begin with"),
        (with_header(b"{"), "not JSON"),
        (with_header(b"{} x"), "not JSON"),
        (with_header(b'{"\xff": 1}'), "byte 2 is not UTF-8"),
        (with_header(b'{"a": NaN}'), "NaN is not JSON"),
        (with_header(NESTED), "nested too deeply"),
        (with_header(REPEATED), "'59999' occurs twice"),
        (with_header(b'{"a": {"dtype": "F32", "dtype": "F32"}}'), "'dtype' occurs twice"),
        (with_header(b'{"a": ' + b"9" * 5000 + b"}"), "a number of 5000 digits"),
        (with_header(header(a=1)), "tensor 'a': not an object"),
        (with_header(header(__metadata__={"a": 1})), "__metadata__ is not an object of texts"),
        (with_header(header(__metadata__=[])), "__metadata__"),
        (with_header(header(a=entry(dtype="F33")), bytes(8)), "unknown dtype 'F33'"),
        (with_header(header(a=entry(dtype=["F32"])), bytes(8)), "unknown dtype"),
        (with_header(header(a=entry(shape=2)), bytes(8)), "shape 2 is not a list"),
        (with_header(header(a=entry(shape=[-2])), bytes(8)), "is not a list of at most"),
        (with_header(header(a=entry(shape=[2.0])), bytes(8)), "is not a list of at most"),
        (with_header(header(a=entry(shape=[True, 2])), bytes(8)), "is not a list of at most"),
        (with_header(header(a=entry(shape=[1] * 9)), bytes(8)), "is not a list of at most 8"),
        (with_header(header(a=entry(shape=[2**40, 2**40])), bytes(8)), "larger than any file"),
        (with_header(header(a=entry(shape=[10**19] * 3)), bytes(8)), "larger than any file"),
        (with_header(header(a=entry(offsets=None)), bytes(8)), "data_offsets None are not two"),
        (with_header(header(a=entry(offsets=[0])), bytes(8)), "are not two offsets"),
        (with_header(header(a=entry(offsets=[0, 8.0])), bytes(8)), "are not two offsets"),
        (with_header(header(a=entry(offsets=[8, 0])), bytes(8)), "do not lie within the 8 bytes"),
        (with_header(header(a=entry(offsets=[0, 9])), bytes(8)), "do not lie within the 8 bytes"),
        (with_header(header(a=entry(offsets=[0, 2**63])), bytes(8)), "do not lie within"),
        (
            with_header(header(a=entry(shape=[3])), bytes(8)),
            r"8 bytes for shape \[3\] of F32, which takes 12",
        ),
        (with_header(header(a=entry(dtype="F4", shape=[1], offsets=[0, 1])), bytes(1)), "which takes 1"),
        (with_header(header(a=entry(), b=entry()), bytes(8)), "tensor 'b' overlaps"),
        (with_header(header(a=entry(), b=entry(offsets=[4, 12])), bytes(12)), "tensor 'b' overlaps"),
        (with_header(header(a=entry(), b=entry(offsets=[12, 20])), bytes(20)), "tensor 'b' leaves a hole"),
        (with_header(header(a=entry(offsets=[4, 12])), bytes(12)), "tensor 'a' leaves a hole"),
        (with_header(header(a=entry()), bytes(9)), "1 bytes after the last tensor"),
        (with_header(header()), "no tensor has a name of Grok-1's"),
        (with_header(header(**{"\ud800\n": entry()}), bytes(8)), "is not part of Grok-1"),
        (with_header(header(**{"x" * 100_000: entry()}), bytes(8)), "is not part of Grok-1"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_headers(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    started = time.monotonic()
    refused(path, message)
    assert time.monotonic() - started < 5


names = st.text(max_size=6)
arrays = st.builds(
    lambda shape: np.zeros(shape, np.float32), st.lists(st.integers(0, 3), max_size=3).map(tuple)
)


@given(
    st.dictionaries(names.filter(lambda name: name != "__metadata__"), arrays, max_size=5), st.integers(0, 40)
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, NDArray[np.float32]], padding: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.safetensors"
    content = safetensors_bytes(tensors)
    length = struct.unpack("<Q", content[:8])[0]
    path.write_bytes(with_header(content[8 : 8 + length] + b" " * padding, content[8 + length :]))
    found = read_header(path)
    assert {name: tensor.shape for name, tensor in found.items()} == {n: a.shape for n, a in tensors.items()}
    assert sum(tensor.nbytes for tensor in found.values()) == len(content) - 8 - length


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_headers(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    content = bytearray(safetensors_bytes({"a": np.zeros((2, 3), np.float32), "b": np.zeros(5, np.float32)}))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(content)
    found, message = {}, ""
    try:
        found = read_header(path)
    except FormatError as error:
        message = str(error)
    assert "\n" not in message
    assert sum(tensor.nbytes for tensor in found.values()) <= len(content)
    assert all(t.offset > 8 and t.offset + t.nbytes <= len(content) for t in found.values())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8), JSON | st.builds(entry, JSON, JSON, JSON), max_size=4))
@settings(max_examples=200, deadline=None)
def test_any_json_header(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(with_header(json.dumps(tensors).encode(), bytes(16)))
    with pytest.raises(FormatError) as caught:  # 16 bytes that no random header accounts for
        read_header(path)
    assert "\n" not in str(caught.value)


def test_every_length_of_a_truncated_model(tmp_path: Path, values: Values, model: Hyperparameters) -> None:
    folder = write_hugging_face(tmp_path / "hf", values, model)
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for length in {int(n) for n in np.geomspace(1, len(content) - 1, 60)}:
        path.write_bytes(content[:length])
        refused(path, "download")


def rewrite(folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """Changes the index."""
    index = folder / "model.safetensors.index.json"
    root = json.loads(index.read_text())
    edit(root)
    index.write_text(json.dumps(root))
    return index


def test_indices(tmp_path: Path, values: Values, model: Hyperparameters) -> None:
    folder = write_hugging_face(tmp_path / "hf", values, model, shards=2)
    index = folder / "model.safetensors.index.json"
    good = index.read_text()
    name = "model.layers.0.attn.q_proj.weight"
    file = json.loads(good)["weight_map"][name]
    other = {"1": "model-00002-of-00002.safetensors", "2": "model-00001-of-00002.safetensors"}[file[10]]

    def put(key: str, value: Any) -> Callable[[dict[str, Any]], object]:
        return lambda root: root["weight_map"].__setitem__(key, value)

    outside = tmp_path / "outside.safetensors"
    outside.write_bytes((folder / file).read_bytes())
    for edit, message in [
        (put(name, other), f"{name}' is in {file}, not in {other}; download"),
        (put("model.layers.9.attn.q_proj.weight", file), f"layers.9.*is missing from {file}"),
        (lambda root: root["weight_map"].pop(name), f"{name}' of {file} is not listed"),
        (put(name, "../outside.safetensors"), "'../outside.safetensors', expected the name.*do not trust"),
        (put(name, str(outside)), "do not trust"),
        (put(name, "..\\outside.safetensors"), "do not trust"),
        (put(name, "/etc/passwd"), "do not trust"),
        (put(name, "x\n.safetensors"), "do not trust"),
        (put(name, "x\0.safetensors"), "do not trust"),
        (put(name, 7), "do not trust"),
        (put(name, "model-00003-of-00003.safetensors"), "1 of the 3 files missing: model-00003"),
        (lambda root: root.__setitem__("weight_map", []), "no object weight_map"),
        (lambda root: root.__setitem__("weight_map", {}), "weight_map is empty"),
        (lambda root: root.pop("weight_map"), "no object weight_map"),
    ]:
        index.write_text(good)
        refused(rewrite(folder, edit), message)
        with pytest.raises(FormatError):
            open_source(folder)
    index.write_text("[]")
    refused(index, "expected a JSON object")
    index.write_bytes(b" " * (9 << 20))
    refused(index, "larger than")


def test_a_tensor_in_two_shards(tmp_path: Path, values: Values, model: Hyperparameters) -> None:
    folder = write_hugging_face(tmp_path / "hf", values, model, shards=2)
    name = "model-0000{}-of-00002.safetensors"
    (folder / name.format(2)).write_bytes((folder / name.format(1)).read_bytes())
    with pytest.raises(FormatError, match=f"{name.format(2)}: tensor .* is in {name.format(1)} too"):
        open_source(folder)


Tensors = dict[str, NDArray[np.float32]]
Q = "model.layers.1.attn.q_proj.weight"
EXPERT = "model.layers.1.moe_block.experts.{}.linear_1.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(Q), "the query of layer 1 is missing"),
        (lambda t: t.update({Q: t[Q][:, :-1]}), rf"{Q} has shape \(256, 127\), expected \(256, 128\)"),
        (lambda t: t.update({Q: t[Q].T}), "has shape"),
        (lambda t: t.pop(EXPERT.format(3)), "the expert_down of layer 1 lacks expert 3"),
        (lambda t: t.update({EXPERT.format(4): t[EXPERT.format(3)]}), "lacks expert 4"),
        (lambda t: t.update({EXPERT.format(99999): t[EXPERT.format(3)]}), "is beyond"),
        (lambda t: t.update({"model.layers.5000.attn.q_proj.weight": t[Q]}), "is beyond"),
        (
            lambda t: t.update({"model.layers.3.attn.q_proj.weight": t[Q]}),
            "the attention_norm of layer 2 is missing",
        ),
        (lambda t: t.update({Q.replace("attn", "self_attn"): t[Q]}), "both .* and .* are there"),
        (lambda t: t.update({"model.layers.0.mlp.up_proj.weight": t[Q]}), "is not part of Grok-1"),
        (lambda t: t.pop("model.embed_tokens.weight"), "neither an embedding nor layers"),
        (lambda t: t.pop("model.norm.scale"), "the output_norm is missing"),
        (lambda t: t.pop("model.layers.0.attn.k_proj.weight"), "layer 0 has no key"),
        (lambda t: t.update({"model.embed_tokens.weight": t[Q][0]}), "expected .vocabulary, embedding"),
        (lambda t: t.update({Q: t[Q][:0]}), r"has shape \(0, 128\)"),
    ],
)
def test_wrong_tensors(
    tmp_path: Path, values: Values, edit: Callable[[Tensors], object], message: str
) -> None:
    tensors = hugging_face_tensors(values, "hpcai")
    edit(tensors)
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(tensors))
    refused(path, message)


def test_frequencies_do_not_matter(tmp_path: Path, values: Values) -> None:
    tensors = hugging_face_tensors(values, "mixtral")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(8, np.float32)
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(tensors))
    assert len(open_source(path).tensors) == 26


def test_other_types(tmp_path: Path, values: Values) -> None:
    def as_int32(root: dict[str, Any]) -> None:
        root[Q]["dtype"] = "I32"

    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(hugging_face_tensors(values, "hpcai"), edit=as_int32))
    refused(path, f"{Q} is I32, expected F32, F16, BF16")


def test_places_without_a_model(tmp_path: Path, values: Values, model: Hyperparameters) -> None:
    with pytest.raises(FileNotFoundError, match="ckpt-0 directory"):
        open_source(tmp_path / "nowhere")
    refused(tmp_path, "no tensor files")
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path / "notes.txt", "neither GGUF nor safetensors")
    (tmp_path / "tensor00000_000").write_bytes(b"x")
    refused(tmp_path / "tensor00000_000", "give the ckpt-0 directory that holds it")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "pytorch_model-00001-of-00019.bin").write_bytes(b"x")
    refused(folder, "save the model as safetensors")
    (folder / "a.gguf").write_bytes(b"x")
    refused(folder, "give one of them: a.gguf")
    refused(folder / "a.gguf", "GGUF|too short|magic|bytes")
    several = tmp_path / "several"
    several.mkdir()
    for name in ("a", "b"):
        (several / f"{name}.safetensors").write_bytes(b"x")
    refused(several, "several models; give the file of one: a.safetensors, b.safetensors")


def test_gguf_of_another_kind(tmp_path: Path, values: Values, model: Hyperparameters) -> None:
    refused(write_other_architecture(tmp_path / "llama.gguf"), "architecture is 'llama'")
    less = {name: array for name, array in values.items() if name != "blk.1.attn_q.weight"}
    refused(write_gguf(tmp_path / "less.gguf", less, model), "the query of layer 1 is missing")
    more = {**values, "blk.0.ffn_up.weight": np.zeros((4, 32), np.float32)}
    refused(write_gguf(tmp_path / "more.gguf", more, model), "'blk.0.ffn_up.weight' is not part of Grok-1")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.add_array("tokenizer.ggml.tokens", ["a", "b"]), "expected 96 pieces"),
        (lambda w: w.add_uint32("tokenizer.ggml.tokens", 1), "expected the pieces"),
        (lambda w: w.add_uint32("tokenizer.ggml.x", 1), "tokenizer.ggml.tokens is missing"),
        (
            lambda w: w.add_uint32("grok.attn_logit_softcapping", 0),
            "attn_logit_softcapping is 0, expected a positive",
        ),
        (lambda w: w.add_string("grok.rope.freq_base", "x"), "rope.freq_base is 'x', expected a positive"),
        (lambda w: w.add_int32("grok.attention.key_length", -16), "key_length is -16, expected a positive"),
    ],
)
def test_gguf_metadata(
    tmp_path: Path,
    values: Values,
    model: Hyperparameters,
    edit: Callable[[gguf.GGUFWriter], object],
    message: str,
) -> None:
    def change(writer: gguf.GGUFWriter) -> None:
        writer.add_string("tokenizer.ggml.model", "llama")
        edit(writer)

    # Where the tokenizer is not the point, there is none.
    plain = "tokenizer" not in message and "piece" not in message
    refused(write_gguf(tmp_path / "a.gguf", values, model, edit=edit if plain else change), message)
