"""Where every byte of the output lies: the headers, the parts of a split set, each tensor's place.

GGUF version 3: magic, version, counts, metadata, one info a tensor, then the tensors, each at a multiple of 32. A split
set is files NAME-00001-of-0000N.gguf; the first has the model's metadata, each has `split.no` (from 0), `split.count`
and `split.tensors.count` (of the whole set).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import gguf
from gguf.gguf_writer import WriterState

from pygrok import _core
from pygrok.quantize.units import format_bytes

__all__ = ["ALIGNMENT", "Layout", "OutputTensor", "Part", "aligned", "make_layout"]

ALIGNMENT = 32
_START = struct.Struct("<4sIQQ")  # magic, version, tensors, keys
_VERSION = 3
_MOST_PARTS = 65535  # split.count is a uint16

AddMetadata = Callable[[gguf.GGUFWriter], None]


class OutputTensor(Protocol):
    """What the layout asks of a planned tensor; `shape` in numpy order, `nbytes` in the file."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True)
class Part:
    """One file: its name, its first bytes, and the place of each of its tensors."""

    name: str
    header: bytes
    offsets: dict[str, int]  # from the start of the file
    nbytes: int


@dataclass(frozen=True)
class Layout:
    """The files of one conversion."""

    parts: tuple[Part, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(part.nbytes for part in self.parts)


def make_layout(
    name: str, tensors: Sequence[OutputTensor], add_metadata: AddMetadata, split: int | None = None
) -> Layout:
    """One file NAME.gguf, or as many parts of at most `split` bytes as the tensors take in their order.

    If all fits into one part, it is an ordinary file called `name`. Raises ValueError if `name` does not end in .gguf
    or a tensor is larger than a part can be.
    """
    if split is not None and not name.endswith(".gguf"):
        raise ValueError(f"{name}: parts need a name that ends in .gguf, as in {name}.gguf")
    metadata = _packed(add_metadata)
    whole = _part(name, tensors, [metadata])
    if split is None or whole.nbytes <= split:
        return Layout((whole,))

    groups = _fill(tensors, split, len(metadata[1]))
    if len(groups) > _MOST_PARTS:
        raise ValueError(f"parts of {format_bytes(split)} would be {len(groups)}; at most {_MOST_PARTS} work")
    parts = []
    for i, group in enumerate(groups):
        part_name = f"{name.removesuffix('.gguf')}-{i + 1:05d}-of-{len(groups):05d}.gguf"
        keys = _split_keys(i, len(groups), len(tensors))
        parts.append(_part(part_name, group, [keys] if i else [metadata, keys]))
    return Layout(tuple(parts))


def _fill(tensors: Sequence[OutputTensor], split: int, metadata_bytes: int) -> list[list[OutputTensor]]:
    """The tensors of each part: as many as fit, in order. Metadata may fill the first alone."""
    keys = len(_split_keys(0, 1, len(tensors))[1])
    fixed = _START.size + keys
    too_large = [t for t in tensors if aligned(fixed + _info_bytes(t)) + aligned(t.nbytes) > split]
    if too_large:
        largest = max(too_large, key=lambda t: t.nbytes)
        needed = aligned(fixed + _info_bytes(largest)) + aligned(largest.nbytes)
        raise ValueError(
            f"a part of {format_bytes(split)} cannot hold tensor {largest.name}, which takes {needed} bytes "
            f"with its header: split into parts of {needed} bytes or more"
        )
    header = fixed + metadata_bytes
    if aligned(header) > split:
        raise ValueError(
            f"a part of {format_bytes(split)} cannot hold the metadata: split into parts of {aligned(header)} "
            "bytes or more"
        )
    groups: list[list[OutputTensor]] = [[]]
    data = 0
    for tensor in tensors:
        header += _info_bytes(tensor)
        data += aligned(tensor.nbytes)
        if aligned(header) + data > split:
            groups.append([])
            header = fixed + _info_bytes(tensor)
            data = aligned(tensor.nbytes)
        groups[-1].append(tensor)
    return groups


def _part(name: str, tensors: Iterable[OutputTensor], metadata: Sequence[tuple[int, bytes]]) -> Part:
    numbers = {type_name: values[0] for type_name, values in _core.tensor_types().items()}
    infos = bytearray()
    relative: dict[str, int] = {}
    data = 0
    for tensor in tensors:
        relative[tensor.name] = data
        infos += _info(tensor, numbers[tensor.type], data)
        data += aligned(tensor.nbytes)
    start = _START.pack(b"GGUF", _VERSION, len(relative), sum(count for count, _ in metadata))
    header = b"".join((start, *(packed for _, packed in metadata), infos))
    header += bytes(-len(header) % ALIGNMENT)
    offsets = {tensor_name: len(header) + offset for tensor_name, offset in relative.items()}
    return Part(name, header, offsets, len(header) + data)


def _info(tensor: OutputTensor, number: int, offset: int) -> bytes:
    """Name, dimensions from fastest to slowest, type, place after the header."""
    name = tensor.name.encode()
    shape = tensor.shape[::-1]
    return struct.pack(f"<Q{len(name)}sI{len(shape)}QIQ", len(name), name, len(shape), *shape, number, offset)


def _info_bytes(tensor: OutputTensor) -> int:
    return len(_info(tensor, 0, 0))


def aligned(nbytes: int) -> int:
    """What so many bytes of a tensor take up in the file."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _split_keys(number: int, count: int, tensors: int) -> tuple[int, bytes]:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.kv_data = [{}]  # without the architecture, which the first part names
        writer.add_uint16("split.no", number)
        writer.add_uint16("split.count", count)
        writer.add_int32("split.tensors.count", tensors)

    return _packed(add)


def _packed(add_metadata: AddMetadata) -> tuple[int, bytes]:
    """Number of keys, and their bytes."""
    writer = gguf.GGUFWriter(None, "grok")
    add_metadata(writer)
    buffer = io.BytesIO()
    writer.fout = [buffer]  # type: ignore[list-item]  # any binary file will do
    writer.state = WriterState.HEADER
    writer.write_kv_data_to_file()
    packed = buffer.getvalue()
    writer.close()
    return sum(len(keys) for keys in writer.kv_data), packed
