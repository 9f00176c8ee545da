"""Importance matrices on disk: llama.cpp's GGUF files, read and written, and its older .dat files, read.

GGUF: general.type "imatrix"; imatrix.datasets (strings), imatrix.chunk_count, imatrix.chunk_size (uint32); for every
weight tensor NAME two f32 tensors, NAME.in_sum2 [matrices, columns], sums of squared activations, and
NAME.counts [matrices, 1], the rows that were summed. matrices is the number of experts, else 1.

.dat: int32 entries; each int32 length, name, int32 chunks, int32 values, f32 means times chunks; then, in most
files, int32 chunks and the dataset's length and name. Experts lie one after another; one that was never routed is
all equal values.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import FormatError
from pygrok.files import replacing

__all__ = ["Contents", "Entry", "read_file", "write_file"]

Sums = NDArray[np.float32] | NDArray[np.float64]

_DAT_CHUNK = 512  # tokens: the default of the tool that wrote such files, which hold no token counts
_LONGEST_NAME = 1024


@dataclass(frozen=True)
class Entry:
    """What entered one tensor: sums of squares [matrices, columns], and the rows summed [matrices].

    file: that `sums` is a view of; `check` it after reading them.
    """

    sums: Sums
    counts: NDArray[np.float64]
    file: _core.GgufFile | None = None

    def check(self) -> None:
        """Raises FormatError if some of the sums could not be read."""
        if self.file is not None:
            self.file.check()


@dataclass(frozen=True)
class Contents:
    """A file's tensors by name, tokens a chunk, and the texts it was made from."""

    entries: Mapping[str, Entry]
    chunk_size: int
    datasets: tuple[str, ...] = field(default=())


def read_file(path: str | os.PathLike[str]) -> Contents:
    """Read either format. Raises OSError, FormatError (one line: file, tensor, what is wrong)."""
    name = os.fspath(path)
    with Path(name).open("rb") as file:
        magic = file.read(4)
    return _read_gguf(name) if magic == b"GGUF" else _read_dat(name)


def _read_gguf(path: str) -> Contents:
    file = _core.GgufFile(path)
    kind = file.get("general.type")
    if kind != "imatrix":
        what = "a model" if file.get("general.architecture") is not None else "something else"
        raise FormatError(
            f"{path}: not an importance matrix but {what} (general.type is {kind!r}): make one with `pygrok imatrix`"
        )
    tensors = {tensor.name: tensor for tensor in file.tensors}
    entries = {}
    for name, tensor in tensors.items():
        _check_name(path, name)
        base, _, suffix = name.rpartition(".")
        partner = tensors.get(f"{base}.{'counts' if suffix == 'in_sum2' else 'in_sum2'}")
        if suffix not in ("in_sum2", "counts"):
            continue  # other statistics, which newer files may hold
        if partner is None:
            raise FormatError(
                f"{path}: {name} has no partner: every .in_sum2 needs its .counts; make the file anew"
            )
        if suffix == "counts":
            continue
        for each in (tensor, partner):
            if each.type != "f32":
                raise FormatError(f"{path}: {each.name} is {each.type}, not f32; make the file anew")
        # Views of the mapped file: for Grok-1 they are 100 MB, which stay the page cache's.
        counts = file.data(partner.name).view(np.float32).astype(np.float64)
        sums = file.data(name).view(np.float32)
        if len(counts) != math.prod(tensor.shape[:-1]) or not tensor.shape[-1]:
            raise FormatError(
                f"{path}: {name} has shape {list(tensor.shape)} but {len(counts)} counts; make the file anew"
            )
        entries[base] = Entry(sums.reshape(len(counts), -1), counts, file)
        _check(path, base, entries[base])
        file.check()
    if not entries:
        raise FormatError(f"{path}: holds no sums of activations; make one with `pygrok imatrix`")
    return Contents(entries, _chunk_size(path, file), _datasets(file))


def _chunk_size(path: str, file: _core.GgufFile) -> int:
    size = file.get("imatrix.chunk_size", _DAT_CHUNK)
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise FormatError(
            f"{path}: imatrix.chunk_size is {size!r}, not a number of tokens; make the file anew"
        )
    return size or _DAT_CHUNK


def _datasets(file: _core.GgufFile) -> tuple[str, ...]:
    names = file.get("imatrix.datasets", [])
    if not isinstance(names, list):
        return ()
    return tuple(n.decode(errors="replace") for n in names)


def _check_name(path: str, name: str) -> None:
    """Messages show names, each on one line."""
    if not name.isprintable():
        raise FormatError(f"{path}: {name!r} is no name of a tensor; make one with `pygrok imatrix`")


def _check(path: str, name: str, entry: Entry) -> None:
    for what, values in (("sums", entry.sums), ("counts", entry.counts)):
        if not np.isfinite(values).all() or bool((values < 0).any()):
            raise FormatError(
                f"{path}: {name}: its {what} are not all numbers of 0 or above; make the file anew"
            )
    if bool(entry.sums[entry.counts == 0].any()):
        raise FormatError(f"{path}: {name}: has sums of no rows (its count is 0); make the file anew")


class _Cursor:
    """Reads a .dat file front to back, never past its end."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.size = Path(path).stat().st_size
        self.file = _core.MappedFile(path) if self.size else None
        self.data = np.empty(0, np.uint8) if self.file is None else self.file.data[: self.size]
        self.at = 0

    def take(self, count: int, what: str) -> NDArray[np.uint8]:
        if count > self.size - self.at:
            raise FormatError(
                f"{self.path}: neither GGUF nor a whole .dat importance matrix: it ends at byte {self.size}, "
                f"{what} from byte {self.at} on would take {count}; make one with `pygrok imatrix`"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, what: str, low: int, high: int) -> int:
        start = self.at
        value = int(struct.unpack("<i", self.take(4, what).tobytes())[0])
        if not low <= value <= high:
            raise FormatError(
                f"{self.path}: not an importance matrix: {what} at byte {start} is {value}; make one with "
                "`pygrok imatrix`"
            )
        return value


def _read_dat(path: str) -> Contents:
    cursor = _Cursor(path)
    flat: dict[str, tuple[int, NDArray[np.float32]]] = {}
    for i in range(cursor.number("the number of entries", 1, 1 << 20)):
        raw = cursor.take(
            cursor.number(f"the name length of entry {i}", 1, _LONGEST_NAME), "a name"
        ).tobytes()
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise FormatError(
                f"{path}: not an importance matrix: the name of entry {i} is not text"
            ) from None
        _check_name(path, name)
        if name in flat:
            raise FormatError(f"{path}: holds '{name}' twice; make the file anew")
        chunks = cursor.number(f"the chunks of {name}", 0, (1 << 31) - 1)
        count = cursor.number(f"the size of {name}", 1, (1 << 31) - 1)
        flat[name] = chunks, cursor.take(4 * count, name).view(np.float32)
    datasets: tuple[str, ...] = ()
    if cursor.at < cursor.size:
        cursor.number("the number of chunks", -(1 << 31), (1 << 31) - 1)
        length = cursor.number("the dataset's length", 0, 1 << 20) if cursor.at < cursor.size else 0
        if length:
            datasets = (cursor.take(length, "the dataset's name").tobytes().decode(errors="replace"),)
    entries = {}
    for name, (chunks, values) in flat.items():
        rows = values.reshape(_experts(path, name, flat), -1)
        seen = np.full(len(rows), float(max(1, chunks) * _DAT_CHUNK))
        if len(rows) > 1:
            seen[(rows == rows[:, :1]).all(axis=1)] = 0
        means = rows.astype(np.float64) / max(1, chunks)
        entries[name] = Entry(means * seen[:, None], seen)
        _check(path, name, entries[name])
    if cursor.file is not None:
        cursor.file.check()
    return Contents(entries, _DAT_CHUNK, datasets)


def _experts(path: str, name: str, flat: Mapping[str, tuple[int, NDArray[np.float32]]]) -> int:
    """How many experts lie in one another's wake: such files do not say, but the other tensors' widths do."""
    match = re.fullmatch(r"(blk\.\d+\.)ffn_(gate|up|down)_exps\.weight", name)
    if match is None:
        return 1
    sizes = {n: len(values) for n, (_, values) in flat.items()}
    into = [f"{match[1]}ffn_{role}_exps.weight" for role in ("gate", "up")]
    total = next((sizes[n] for n in into if n in sizes), 0)
    embedding = next((sizes[n] for r in "qkv" if (n := f"{match[1]}attn_{r}.weight") in sizes), 0)
    count = total // embedding if embedding else 0
    if count < 1 or total % embedding or sizes[name] % count:
        raise FormatError(
            f"{path}: cannot tell the experts of {name} apart, since the file lacks the sizes of its layer; use a GGUF "
            "importance matrix"
        )
    return count


def write_file(path: str | os.PathLike[str], contents: Contents, chunks: int) -> None:
    """Write the GGUF form: an old file stays whole until the new one is. Raises OSError."""
    with replacing(Path(path)) as partial:
        writer = gguf.GGUFWriter(partial, "imatrix")
        for values in writer.kv_data:
            values.pop("general.architecture", None)  # the format has none
        writer.add_type("imatrix")
        writer.add_array("imatrix.datasets", list(contents.datasets) or [""])
        writer.add_uint32("imatrix.chunk_count", chunks)
        writer.add_uint32("imatrix.chunk_size", contents.chunk_size)
        for name, entry in contents.entries.items():
            writer.add_tensor(f"{name}.in_sum2", np.ascontiguousarray(entry.sums, np.float32))
            writer.add_tensor(f"{name}.counts", entry.counts.astype(np.float32).reshape(-1, 1))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
