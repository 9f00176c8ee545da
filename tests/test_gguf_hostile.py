"""GGUF files that are wrong: always one clear error line, never a crash, a hang or a grab for memory."""

from __future__ import annotations

import os
import random
import re
import resource
import struct
import time
from pathlib import Path

import pytest
from gguf_files import (
    ARRAY,
    BOOL,
    HEADER_BYTES,
    I32,
    STRING,
    U8,
    U32,
    U64,
    Entry,
    File,
    Tensor,
    small_model,
    string,
)

from pygrok._core import GgufFile
from pygrok.errors import FormatError, PygrokError

HUGE = 2**64 - 1
E1 = HEADER_BYTES  # the first entry, or the first tensor where there is no entry
DIMS = E1 + 8 + 1 + 4  # dimensions of a first tensor named with one letter
TYPE = DIMS + 8  # its type, and behind it its offset, when it has one dimension
DATA = 64  # TYPE + 12, padded


def one(**fields: object) -> File:
    """A file whose one tensor `t` is wrong in the given fields."""
    return File(tensors=[Tensor(**({"name": "t", "shape": (8,), "type": 24, "data": bytes(8)} | fields))])  # type: ignore[arg-type]


def entry(kind: int, value: object, key: str | bytes = "k") -> File:
    return File(entries=[Entry(key, kind, value)])


def aligned(value: object, kind: int = U32) -> File:
    return entry(kind, value, "general.alignment")


def two(first: int, second: int) -> File:
    """Two tensors of 40 bytes at these offsets, in a data section of 128 bytes from byte 96."""
    return File(tensors=[Tensor("a", (40,), 24, b"", first), Tensor("b", (40,), 24, bytes(128), second)])


# What is wrong -> the file, the byte that the message must name, words that it must hold.
HOSTILE: dict[str, tuple[File | bytes, int, str]] = {
    "one byte": (b"G", 0, "magic takes 4 bytes where 1 are left: the file is truncated"),
    "other file": (b"PK\3\4" + bytes(60), 0, r'magic is "PK\x03\x04", not "GGUF"'),
    "header cut": (File().encode()[:20], 16, "metadata count takes 8 bytes where 4 are left"),
    "version 0": (File(version=0), 4, "version is 0, this library reads 2 and 3: convert the model again"),
    "version 1": (File(version=1), 4, "version is 1, this library reads 2 and 3"),
    "version 4": (File(version=4), 4, "version is 4, this library reads 2 and 3"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), 4, "byte-swapped: this is a big-endian file"),
    "too many tensors": (File(tensor_count=1), 8, "tensor count is 1, more than the 8 bytes left can hold"),
    "endless tensors": (File(tensor_count=HUGE), 8, f"tensor count is {HUGE}, more than"),
    "too many entries": (File(entry_count=1), 16, "metadata count is 1, more than the 0 bytes left"),
    "endless entries": (File(entry_count=HUGE), 16, f"metadata count is {HUGE}, more than"),
    "key too long": (
        File(entry_count=1).encode() + string("k", 2**40) + bytes(16),
        E1,
        f"metadata key 1 of 1: name takes {2**40} bytes where 17 are left",
    ),
    "key wraps round": (
        File(entry_count=1).encode() + string("k", HUGE) + bytes(16),
        E1,
        f"name takes {HUGE} bytes",
    ),
    "empty key": (entry(U64, 1, ""), E1, "metadata key 1 of 1: name is empty"),
    "key of 64 KiB": (entry(U8, 1, "k" * 65536), E1, "name is 65536 bytes long, the format allows 65535"),
    "key not UTF-8": (entry(U8, 1, b"a\xc0\xaf"), E1, r'name is not valid UTF-8: "a\xc0\xaf"'),
    "duplicate key": (
        File([Entry("k", U8, 1), Entry("k", U32, 2)]),
        E1 + 14,
        'metadata key "k": name occurs twice',
    ),
    "value type": (entry(13, b"\1"), E1 + 9, 'metadata key "k": type is 13, not defined'),
    "value cut": (entry(U64, bytes(3)), E1 + 13, 'metadata key "k": value takes 8 bytes where 3 are left'),
    "value cut by one": (entry(U64, bytes(7)), E1 + 13, "value takes 8 bytes where 7 are left"),
    "string too long": (
        File(entry_count=1).encode() + string("k") + struct.pack("<I", STRING) + string("v", HUGE),
        E1 + 13,
        f'metadata key "k": value takes {HUGE} bytes where 1 are left',
    ),
    "bool of 2": (entry(BOOL, b"\2"), E1 + 13, 'metadata key "k": bool is 2, must be 0 or 1'),
    "array of bool": (entry(ARRAY, (BOOL, [b"\1", b"\7"])), E1 + 26, "bool is 7, must be 0 or 1"),
    "array of arrays": (entry(ARRAY, (ARRAY, [])), E1 + 13, "array element type is an array: nested"),
    "array of type 99": (
        entry(ARRAY, struct.pack("<IQ", 99, 0)),
        E1 + 13,
        "array element type is 99, not defined",
    ),
    "array too long": (
        entry(ARRAY, struct.pack("<IQ", I32, 2) + bytes(7)),
        E1 + 17,
        "array length is 2, more than",
    ),
    "array wraps round": (
        entry(ARRAY, struct.pack("<IQ", I32, 2**62)),
        E1 + 17,
        f"array length is {2**62}, more",
    ),
    "strings too many": (
        entry(ARRAY, struct.pack("<IQ", STRING, 2**61)),
        E1 + 17,
        f"array length is {2**61}",
    ),
    "string in array": (
        entry(ARRAY, struct.pack("<IQ", STRING, 1) + string("s", 2)),
        E1 + 25,
        'metadata key "k": string in array takes 2 bytes where 1 are left',
    ),
    "alignment 0": (aligned(0), E1, 'metadata key "general.alignment": is 0, must be a power of two'),
    "alignment 4": (aligned(4), E1, "is 4, must be a power of two from 8"),
    "alignment 24": (aligned(24), E1, "is 24, must be a power of two"),
    "alignment 2^40": (aligned(2**40, U64), E1, f"is {2**40}, must be a power of two"),
    "alignment -8": (aligned(-8, I32), E1, "is -8, must not be negative"),
    "alignment a string": (aligned("32", STRING), E1, "is a string, must be an integer"),
    "name empty": (one(name=""), E1, "tensor 1 of 1: name is empty"),
    "name not UTF-8": (one(name=b"\xff"), E1, r'tensor 1 of 1: name is not valid UTF-8: "\xff"'),
    "name too long": (
        File(tensor_count=1).encode() + string("t", HUGE) + bytes(32),
        E1,
        f"name takes {HUGE} bytes where 33",
    ),
    "rank 0": (one(rank=0), DIMS - 4, 'tensor "t": number of dimensions is 0, must be 1 to 4'),
    "rank 5": (one(shape=(1,) * 5), DIMS - 4, "number of dimensions is 5, must be 1 to 4"),
    "rank of 2^32 - 1": (one(rank=2**32 - 1), DIMS - 4, "number of dimensions is 4294967295"),
    "zero dimension": (one(shape=(0, 8)), DIMS + 8, 'tensor "t": dimension is 0'),
    "product of dims": (one(shape=(2**32, 2**32)), DIMS, "dimensions have a product beyond 64 bits"),
    "product wraps to 8": (one(shape=(8, 2**63, 2, 1)), DIMS, "dimensions have a product beyond 64 bits"),
    "product of bytes": (one(shape=(2**62,), type=0), DIMS, "dimensions have a product beyond 64 bits"),
    "unknown type": (one(type=4), TYPE, 'tensor "t": type is 4, which this library does not know'),
    "type beyond all": (one(type=2**32 - 1), TYPE, "type is 4294967295, which this library does not know"),
    "part of a block": (
        one(shape=(2, 48), type=2),
        DIMS,
        "row length is 48, not a multiple of the 32 values in a block of q4_0",
    ),
    "offset not aligned": (
        one(offset=8),
        TYPE + 4,
        'tensor "t": offset is 8, not a multiple of the alignment 32',
    ),
    "offset past the end": (
        one(offset=64),
        DATA,
        "data takes 8 bytes at offset 64 of a data section of 8 bytes",
    ),
    "offset wraps round": (one(offset=HUGE - 31), DATA, f"data takes 8 bytes at offset {HUGE - 31}"),
    "offset wraps to inside": (
        one(shape=(64,), offset=HUGE - 31, data=bytes(64)),
        DATA,
        f"data takes 64 bytes at offset {HUGE - 31} of a data section of 64 bytes",
    ),
    "data past the end": (
        one(offset=32, data=bytes(36)),
        DATA,
        "data takes 8 bytes at offset 32 of a data section of 36 bytes",
    ),
    "data cut": (
        one(data=bytes(7)),
        DATA,
        'tensor "t": data takes 8 bytes at offset 0 of a data section of 7 bytes',
    ),
    "no data": (one().encode()[:60], DATA, "of a data section of 0 bytes: the file is truncated"),
    "data without end": (one(shape=(2**62,)), DATA, f"data takes {2**62} bytes at offset 0"),
    "data overlaps": (
        two(0, 32),
        128,
        'tensor "b": data overlaps that of tensor "a", which ends at byte 136',
    ),
    "data overlaps back": (
        two(32, 0),
        128,
        'tensor "a": data overlaps that of tensor "b", which ends at byte 136',
    ),
    "data twice": (two(64, 64), 160, "data overlaps"),
    "duplicate tensor": (
        File(tensors=[Tensor("t", (8,), 24, bytes(8)), Tensor("t", (8,), 24, bytes(8))]),
        128,
        'tensor "t": occurs twice, the other at byte 96',
    ),
    "table cut": (one().encode()[: TYPE + 6], TYPE + 4, 'tensor "t": offset takes 8 bytes where 2 are left'),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_file(tmp_path: Path, case: str) -> None:
    file, place, words = HOSTILE[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(file if isinstance(file, bytes) else file.encode())
    with pytest.raises(FormatError) as caught:
        GgufFile(str(path))
    message = str(caught.value)
    assert message.startswith(f"{path}: byte {place}: "), message
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "key",
    [
        b"\x80",
        b"\xc1\xbf",
        b"\xe0\x9f\xbf",
        b"\xed\xa0\x80",
        b"\xf0\x8f\xbf\xbf",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
    ],
    ids=["stray", "overlong 2", "overlong 3", "surrogate", "overlong 4", "past U+10FFFF", "lead F5"],
)
def test_keys_that_are_not_utf8(tmp_path: Path, key: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        key.decode()
    path = tmp_path / "bad.gguf"
    path.write_bytes(entry(U8, 1, b"k" + key).encode())
    with pytest.raises(FormatError, match="byte 24: metadata key 1 of 1: name is not valid UTF-8"):
        GgufFile(str(path))


@pytest.mark.parametrize(
    "key", ["\x7f", "\u0080", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"]
)
def test_keys_at_the_edges_of_utf8(tmp_path: Path, key: str) -> None:
    path = tmp_path / "good.gguf"
    path.write_bytes(entry(U8, 1, key).encode())
    assert GgufFile(str(path)).keys() == [key]


def test_messages_stay_on_one_line(tmp_path: Path) -> None:
    """Whatever a file or a path calls itself."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\n\xff.gguf"))
    path.write_bytes(one(name="x\n\u2028\x1b[31m\x00\x7f\x85" + "y" * 500, type=5).encode())
    with pytest.raises(FormatError) as caught:
        GgufFile(str(path))
    message = str(caught.value)
    assert message.isprintable()
    assert r"/a\x0a\xff.gguf: byte " in message
    assert r'tensor "x\x0a\xe2\x80\xa8\x1b[31m\x00\x7f\xc2\x85yyy' in message
    assert len(message) < len(str(tmp_path)) + 400


def test_paths_that_hold_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "absent.gguf"))):
        GgufFile(str(tmp_path / "absent.gguf"))
    with pytest.raises(FormatError, match=re.escape(f"{tmp_path}: is a directory: name a file in it")):
        GgufFile(str(tmp_path))
    empty = tmp_path / "empty.gguf"
    empty.touch()
    with pytest.raises(
        FormatError, match=re.escape(f"{empty}: the file is empty: download or convert it again")
    ):
        GgufFile(str(empty))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(FormatError, match=re.escape(f"{fifo}: is not a regular file")):  # and does not wait
        GgufFile(str(fifo))
    with pytest.raises(FormatError, match="/dev/null: is not a regular file"):
        GgufFile("/dev/null")
    with pytest.raises(ValueError, match="null byte"):
        GgufFile("a\0b")
    with pytest.raises(TypeError, match=r"str, bytes or os\.PathLike"):
        GgufFile(7)  # type: ignore[arg-type]


def exercise(path: Path) -> bool:
    """Whether the file opens; if it does, everything in it can be read."""
    began = time.perf_counter()
    message = ""
    try:
        file = GgufFile(str(path))
    except PygrokError as error:
        message = str(error)
    else:
        for key in file.keys():  # noqa: SIM118 - not a dict
            file.get(key)
        for tensor in file.tensors:
            assert file.data(tensor.name).nbytes == tensor.bytes
            assert file.data(tensor.name).sum() >= 0
    assert time.perf_counter() - began < 2
    if message:
        assert message.startswith(f"{path}: byte ")
        assert message.isprintable()
    return not message


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = small_model().encode()
    path = tmp_path / "cut.gguf"
    before = peak_bytes()
    for length in sorted(random.Random(1).sample(range(1, len(whole)), 200)):
        path.write_bytes(whole[:length])
        assert not exercise(path), length
    assert peak_bytes() - before < 64 * 2**20


def test_random_byte_flips(tmp_path: Path) -> None:
    whole = small_model().encode()
    rng = random.Random(2)
    path = tmp_path / "flipped.gguf"
    before = peak_bytes()
    survived = 0
    for _ in range(2000):
        flipped = bytearray(whole)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            flipped[rng.randrange(len(flipped))] ^= rng.randrange(1, 256)
        path.write_bytes(flipped)
        survived += exercise(path)
    assert 100 < survived < 1900  # flips in names, values and data are no errors; others must be
    assert peak_bytes() - before < 64 * 2**20


def test_large_counts_in_a_large_file_take_no_memory(tmp_path: Path) -> None:
    """The counts fit the file's size, yet what follows is a hole."""
    before = peak_bytes()
    path = tmp_path / "hole.gguf"
    for file in (File(tensor_count=2**33), File(entry_count=2**33)):
        path.write_bytes(file.encode())
        os.truncate(path, 2**40)
        with pytest.raises(FormatError, match=r"byte 24: .* 1 of 8589934592: name is empty"):
            GgufFile(str(path))
    assert peak_bytes() - before < 64 * 2**20
