"""GGUF files that are as they should be."""

from __future__ import annotations

import gc
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES
from gguf_files import (
    ARRAY,
    BOOL,
    F32,
    F64,
    I8,
    I16,
    I32,
    I64,
    PACK,
    STRING,
    U8,
    U16,
    U32,
    U64,
    Entry,
    File,
    Tensor,
    small_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from pygrok._core import GgufFile, tensor_types

INTEGERS = {U8: (0, 2**8), I8: (-(2**7), 2**7), U16: (0, 2**16), I16: (-(2**15), 2**15), U32: (0, 2**32)}
INTEGERS |= {I32: (-(2**31), 2**31), U64: (0, 2**64), I64: (-(2**63), 2**63)}
DTYPES = {
    U8: "u1",
    I8: "i1",
    U16: "u2",
    I16: "i2",
    U32: "u4",
    I32: "i4",
    U64: "u8",
    I64: "i8",
    F32: "f4",
    F64: "f8",
}
DTYPES[BOOL] = "?"


def opened(path: Path, file: File) -> GgufFile:
    path.write_bytes(file.encode())
    return GgufFile(str(path))


def assert_value(found: Any, kind: int, value: Any) -> None:
    if kind != ARRAY:
        assert found == (value.decode(errors="replace") if isinstance(value, bytes) else value)
        assert type(found) is {STRING: str, BOOL: bool, F32: float, F64: float}.get(kind, int)
    elif value[0] == STRING:
        assert found == [v if isinstance(v, bytes) else v.encode() for v in value[1]]
    else:
        assert found.dtype == np.dtype(DTYPES[value[0]])
        np.testing.assert_array_equal(found, np.array(value[1], found.dtype))


def assert_same(found: GgufFile, file: File) -> None:
    assert found.version == file.version
    assert found.keys() == sorted((str(e.key) for e in file.entries), key=str.encode)
    for entry in file.entries:
        assert_value(found.get(str(entry.key)), entry.kind, entry.value)
    names = {number: name for name, (number, _, _) in tensor_types().items()}
    assert [(t.name, t.shape, t.type, t.bytes) for t in found.tensors] == [
        (t.name, t.shape, names[t.type], len(t.data)) for t in file.tensors
    ]
    for tensor in file.tensors:
        assert found.data(str(tensor.name)).tobytes() == tensor.data


@pytest.mark.parametrize("version", [2, 3])
def test_every_metadata_type(tmp_path: Path, version: int) -> None:
    file = small_model()
    file.version = version
    found = opened(tmp_path / "m.gguf", file)
    assert_same(found, file)
    assert found.paths == [str(tmp_path / "m.gguf")]
    assert found.file_bytes == (tmp_path / "m.gguf").stat().st_size
    assert {t.shard for t in found.tensors} == {0}


@pytest.mark.parametrize("kind", sorted(DTYPES))
def test_arrays_of_every_type(tmp_path: Path, kind: int) -> None:
    low, high = INTEGERS.get(kind, (0, 2))
    file = File(entries=[Entry("k", U8, 1), Entry("array", ARRAY, (kind, [low, high - 1, 1]))])
    assert_value(opened(tmp_path / "m.gguf", file).get("array"), ARRAY, (kind, [low, high - 1, 1]))


def test_scalar_text_that_is_not_utf8(tmp_path: Path) -> None:
    assert (
        opened(tmp_path / "m.gguf", File([Entry("k", STRING, b"a\xffb")])).get("k")
        == "a\N{REPLACEMENT CHARACTER}b"
    )


def test_absent_names(tmp_path: Path) -> None:
    found = opened(tmp_path / "m.gguf", small_model())
    assert found.get("absent") is None
    assert found.get("absent", 7) == 7
    with pytest.raises(KeyError, match="no tensor named absent"):
        found.data("absent")


def test_no_metadata_and_no_tensors(tmp_path: Path) -> None:
    found = opened(tmp_path / "m.gguf", File())
    assert (found.keys(), found.tensors, found.file_bytes) == ([], [], 24)


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_alignment(tmp_path: Path, alignment: int) -> None:
    tensors = [Tensor("a", (3,), 24, b"abc"), Tensor("b", (5,), 24, b"defgh")]
    file = File([Entry("general.alignment", U32, alignment)], tensors, alignment=alignment)
    found = opened(tmp_path / "m.gguf", file)
    assert_same(found, file)
    assert [t.offset % alignment for t in found.tensors] == [0, 0]
    assert found.tensors[1].offset - found.tensors[0].offset == alignment


def test_names_with_any_characters(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff \xc3\xa4\n.gguf"))
    file = File([Entry("ключ\n", U8, 1)], [Tensor("tensor \N{SNOWMAN}\0", (1,), 24, b"x")])
    found = opened(path, file)
    assert_same(found, file)
    assert found.paths == [str(path)]


def test_tensor_geometry_is_the_formats() -> None:
    """Q8_1 stands apart: its block is two f16 and 32 int8, the gguf package still counts two f32."""
    wanted = {t.name.lower(): (int(t), *sizes) for t, sizes in GGML_QUANT_SIZES.items()}
    assert wanted.pop("q8_1") == (9, 32, 40)
    found = tensor_types()
    assert found.pop("q8_1") == (9, 32, 36)
    assert {name: found[name] for name in wanted} == wanted


@pytest.mark.parametrize("name", sorted(tensor_types()))
def test_every_tensor_type_opens(tmp_path: Path, name: str) -> None:
    number, block, size = tensor_types()[name]
    file = File(tensors=[Tensor("t", (2, 3 * block), number, bytes(6 * size))])
    assert_same(opened(tmp_path / "m.gguf", file), file)


def test_views_are_read_only_and_keep_the_mapping(tmp_path: Path) -> None:
    file = small_model()
    view = opened(tmp_path / "m.gguf", file).data("q8_0")
    (tmp_path / "m.gguf").unlink()
    gc.collect()
    assert view.tobytes() == file.tensors[1].data
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.setflags(write=True)


def test_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    found = opened(tmp_path / "m.gguf", small_model())
    peer = gguf.GGUFReader(tmp_path / "m.gguf")
    keys = [key for key in peer.fields if not key.startswith("GGUF.")]
    assert found.keys() == sorted(keys)
    for key in keys:
        field = peer.fields[key]
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            parts = [field.parts[i].tobytes() for i in field.data]
            value = found.get(key)
            assert (value if isinstance(value, list) else [v.tobytes() for v in value]) == parts
        else:
            assert found.get(key) == field.contents()
    wanted = [(t.name, tuple(t.shape.tolist()[::-1]), t.n_bytes, t.data_offset) for t in peer.tensors]
    assert [(t.name, t.shape, t.bytes, t.offset) for t in found.tensors] == wanted
    assert [t.type for t in found.tensors] == [t.tensor_type.name.lower() for t in peer.tensors]
    for t in peer.tensors:
        assert found.data(t.name).tobytes() == t.data.tobytes()


def test_reads_what_the_gguf_package_writes(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "grok")
    writer.add_uint32("grok.block_count", 64)
    writer.add_token_list(["a", "b"])
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    writer.add_tensor("w", weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = GgufFile(str(tmp_path / "m.gguf"))
    assert found.get("grok.block_count") == 64
    assert found.get("tokenizer.ggml.tokens") == [b"a", b"b"]
    assert found.tensors[0].shape == (3, 4)
    np.testing.assert_array_equal(found.data("w").view(np.float32).reshape(3, 4), weights)


def scalars(kind: int) -> st.SearchStrategy[Any]:
    if kind in INTEGERS:
        low, high = INTEGERS[kind]
        return st.integers(low, high - 1)
    if kind == BOOL:
        return st.booleans()
    if kind == STRING:
        return st.binary(max_size=12)
    return st.floats(width=32 if kind == F32 else 64, allow_nan=False)


KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda k: k != "general.alignment"
)
SCALARS = st.sampled_from([*PACK, STRING])
VALUES = SCALARS.flatmap(lambda k: st.tuples(st.just(k), scalars(k))) | SCALARS.flatmap(
    lambda k: st.tuples(st.just(ARRAY), st.tuples(st.just(k), st.lists(scalars(k), max_size=5)))
)


@st.composite
def files(draw: st.DrawFn) -> File:
    metadata = draw(st.dictionaries(KEYS, VALUES, max_size=8))
    entries = [
        Entry(key, kind, value) for key, (kind, value) in metadata.items() if not key.startswith("split.")
    ]
    tensors = []
    for name in draw(st.lists(KEYS, unique=True, max_size=5)):
        number, block, size = tensor_types()[draw(st.sampled_from(sorted(tensor_types())))]
        *outer, blocks = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
        total = size * blocks * int(np.prod(outer, dtype=np.int64))
        data = draw(st.binary(min_size=1, max_size=8)) * total
        tensors.append(Tensor(name, (*outer, blocks * block), number, data[:total]))
    return File(entries, tensors, version=draw(st.sampled_from([2, 3])))


@settings(deadline=None, max_examples=200)
@given(file=files())
def test_round_trip(file: File) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert_same(opened(Path(folder) / "m.gguf", file), file)


def mapped_and_resident(path: Path) -> tuple[int, int]:
    """Bytes of this file that this process maps, and those of them in memory."""
    size = rss = 0
    ours = False
    for line in Path("/proc/self/smaps").read_text(errors="replace").splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = line.endswith(str(path))
        elif ours and line.startswith(("Size:", "Rss:")):
            size += int(line.split()[1]) * 1024 if line.startswith("Size:") else 0
            rss += int(line.split()[1]) * 1024 if line.startswith("Rss:") else 0
    return size, rss


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc/self/smaps")
def test_opening_reads_the_header_only(tmp_path: Path) -> None:
    path = tmp_path / "huge.gguf"
    header = File(tensors=[Tensor("huge", (2**20, 2**20), 24)]).encode()
    path.write_bytes(header)
    try:
        os.truncate(path, len(header) + 2**40)
    except OSError as error:
        pytest.skip(f"this file system has no sparse files of 1 TiB: {error}")
    found = GgufFile(str(path))
    size, resident = mapped_and_resident(path)
    assert size >= 2**40
    assert 0 < resident <= 2**20
    assert path.stat().st_blocks * 512 <= 2**20
    view = found.data("huge")
    assert view.nbytes == 2**40
    assert int(view[-4096:].sum()) == 0
