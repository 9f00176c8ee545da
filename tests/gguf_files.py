"""Writes GGUF files, valid or wrong on purpose, from the format's definition.

Nothing here is checked: a test hands over the very counts, lengths and offsets that it wants in the file.
Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
PACK = {
    U8: "B",
    I8: "b",
    U16: "H",
    I16: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "?",
    U64: "Q",
    I64: "q",
    F64: "d",
}
HEADER_BYTES = 24  # magic, version, tensor count, metadata count: the first entry starts here


def string(text: str | bytes, length: int | None = None) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def value_bytes(kind: int, value: Any) -> bytes:
    """A metadata value; for ARRAY, `value` is (element type, elements). Ready bytes pass through."""
    if kind == ARRAY and not isinstance(value, bytes):
        element, items = value
        return struct.pack("<IQ", element, len(items)) + b"".join(
            value_bytes(element, item) for item in items
        )
    if kind == STRING:
        return string(value)
    return value if isinstance(value, bytes) else struct.pack("<" + PACK[kind], value)


@dataclass
class Entry:
    key: str | bytes
    kind: int
    value: Any

    def encode(self) -> bytes:
        return string(self.key) + struct.pack("<I", self.kind) + value_bytes(self.kind, self.value)


@dataclass
class Tensor:
    """shape is in numpy order; offset, from the start of the data, defaults to behind the one before."""

    name: str | bytes
    shape: tuple[int, ...]
    type: int = 0
    data: bytes = b""
    offset: int | None = None
    rank: int | None = None

    def encode(self, offset: int) -> bytes:
        rank = len(self.shape) if self.rank is None else self.rank
        dims = struct.pack(f"<{len(self.shape)}Q", *reversed(self.shape))
        return string(self.name) + struct.pack("<I", rank) + dims + struct.pack("<IQ", self.type, offset)


@dataclass
class File:
    entries: Sequence[Entry] = ()
    tensors: Sequence[Tensor] = ()
    version: int = 3
    magic: bytes = b"GGUF"
    alignment: int = 32
    tensor_count: int | None = None
    entry_count: int | None = None
    header_bytes: int = field(
        default=0, init=False
    )  # set by encode(): where the padding before the data starts

    def encode(self) -> bytes:
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        entry_count = len(self.entries) if self.entry_count is None else self.entry_count
        out = self.magic + struct.pack("<IQQ", self.version, tensor_count, entry_count)
        out += b"".join(entry.encode() for entry in self.entries)
        data = b""
        for tensor in self.tensors:
            data += b"\0" * (-len(data) % self.alignment)
            out += tensor.encode(len(data) if tensor.offset is None else tensor.offset)
            data += tensor.data
        self.header_bytes = len(out)
        if not self.tensors:
            return out
        return out + b"\0" * (-len(out) % self.alignment) + data


def split_entries(number: int, count: int, tensors: int) -> list[Entry]:
    """The keys of shard `number` (from 0), with the widths that the common splitter writes."""
    return [
        Entry("split.no", U16, number),
        Entry("split.count", U16, count),
        Entry("split.tensors.count", I32, tensors),
    ]


def small_model() -> File:
    """A few hundred bytes that use every metadata type and several tensor types."""
    return File(
        entries=[
            Entry("general.architecture", STRING, "grok"),
            Entry("a.u8", U8, 255),
            Entry("a.i8", I8, -128),
            Entry("a.u16", U16, 65535),
            Entry("a.i16", I16, -32768),
            Entry("a.u32", U32, 2**32 - 1),
            Entry("a.i32", I32, -(2**31)),
            Entry("a.f32", F32, 0.5),
            Entry("a.bool", BOOL, True),
            Entry("a.u64", U64, 2**64 - 1),
            Entry("a.i64", I64, -(2**63)),
            Entry("a.f64", F64, 0.1),
            Entry("a.strings", ARRAY, (STRING, [b"one", b"", b"\xff\xfe", "zwölf".encode()])),
            Entry("a.floats", ARRAY, (F32, [1.5, -2.0])),
            Entry("a.bools", ARRAY, (BOOL, [True, False, True])),
            Entry("a.empty", ARRAY, (I32, [])),
        ],
        tensors=[
            Tensor("f32", (2, 3), 0, struct.pack("<6f", *range(6))),
            Tensor("q8_0", (3, 32), 8, bytes(range(102))),
            Tensor("bf16", (2, 2, 2, 5), 30, bytes(range(80))),
            Tensor("one", (1,), 24, b"\x07"),
        ],
    )
