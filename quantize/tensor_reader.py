"""Tensors of a source as arrays over the mapped files, a matrix at a time."""

from __future__ import annotations

import mmap
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import ModelError

__all__ = ["SourceMatrix", "StoredMatrix", "StoredScales", "TensorReader", "convert_rows"]

PREFETCH_BYTES = 1 << 30  # larger matrices are read in order, which the system foresees itself
# numpy does not know bfloat16: its bits travel as uint16.
_NUMPY: dict[str, np.dtype[Any]] = {
    "int8": np.dtype(np.int8),
    "f32": np.dtype("<f4"),
    "f16": np.dtype("<f2"),
    "bf16": np.dtype("<u2"),
}


@dataclass(frozen=True)
class StoredScales:
    """bfloat16 `[groups, columns]` in the file of the matrix: group g scales rows from g * rows / groups on."""

    offset: int
    groups: int


@dataclass(frozen=True)
class StoredMatrix:
    """Where one matrix lies: rows one after the other from `offset` on, at any alignment.

    dtype: "int8", "f32", "f16", "bf16" or a GGUF block type. rows, columns: as stored, transposed or not.
    """

    path: Path
    offset: int
    dtype: str
    rows: int
    columns: int
    scales: StoredScales | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of a stored row."""
        if self.dtype in _NUMPY:
            return self.columns * _NUMPY[self.dtype].itemsize
        _, block, block_bytes = _core.tensor_types()[self.dtype]
        return self.columns // block * block_bytes

    @property
    def nbytes(self) -> int:
        """Bytes in the file, scales included."""
        return self.rows * self.row_bytes + (2 * self.scales.groups * self.columns if self.scales else 0)

    @property
    def end(self) -> int:
        """The first byte of the file behind all of it."""
        end = self.offset + self.rows * self.row_bytes
        return (
            end
            if self.scales is None
            else max(end, self.scales.offset + 2 * self.scales.groups * self.columns)
        )


@dataclass(frozen=True)
class SourceMatrix:
    """One matrix over the mapped file: what `_core.Converter.convert` takes.

    weight: [rows, columns] as stored (int8, float32, float16, or uint16 for the bits of bfloat16), or uint8
    [rows, bytes of a row] for a GGUF block type. scales: bits of bfloat16 [groups, columns] or None. transpose: stored
    [in, out]. source_type: the GGUF block type, None for plain numbers. file: that the arrays are views of, None if
    they are in memory.
    """

    weight: NDArray[Any]
    scales: NDArray[np.uint16] | None
    transpose: bool
    source_type: str | None
    file: _core.MappedFile | _core.GgufFile | None = None

    def check(self) -> None:
        """Raises FormatError if some of what was read of the file could not be read: it was zeros instead.

        To be called after reading, before what was made of it is used; `convert_rows` does.
        """
        if self.file is not None:
            self.file.check()


class TensorReader:
    """A context manager. Its arrays may outlive it; an array keeps its file mapped, not in memory.

    Raises OSError or FormatError if a file cannot be opened, ModelError if one has shrunk since its header was read.
    """

    def __init__(self, name: str, matrices: tuple[StoredMatrix, ...], transpose: bool) -> None:
        self.name = name
        self.matrices = matrices
        self.transpose = transpose
        self._files: dict[Path, tuple[int, _core.MappedFile]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The mappings are not closed: arrays over them may live on in a traceback. They go with the last of them.
        self._files.clear()
        self._stack.close()

    def matrix(self, index: int) -> SourceMatrix:
        """Matrix `index` of the tensor: 0, or the expert."""
        stored = self.matrices[index]
        _, file = self._file(stored)
        data = file.data
        scales = None
        if stored.scales is not None:
            count = stored.scales.groups * stored.columns
            bits = np.frombuffer(data, "<u2", count, stored.scales.offset)
            scales = bits.reshape(stored.scales.groups, stored.columns)
        plain = _NUMPY.get(stored.dtype)
        if plain is not None:
            values = np.frombuffer(data, plain, stored.rows * stored.columns, stored.offset)
            return SourceMatrix(
                values.reshape(stored.rows, stored.columns), scales, self.transpose, None, file
            )
        blocks = np.frombuffer(data, np.uint8, stored.rows * stored.row_bytes, stored.offset)
        return SourceMatrix(
            blocks.reshape(stored.rows, stored.row_bytes), scales, self.transpose, stored.dtype, file
        )

    def values(
        self, converter: _core.Converter, index: int, first: int = 0, rows: int | None = None
    ) -> NDArray[np.float32]:
        """Exact values float32 [rows, columns] of some rows of matrix `index`, turned as GGUF has them.

        Raises ModelError for NaN and infinity.
        """
        stored = self.matrices[index]
        height, width = (stored.columns, stored.rows) if self.transpose else (stored.rows, stored.columns)
        out = np.empty((height - first if rows is None else rows, width * 4), np.uint8)
        convert_rows(converter, self.matrix(index), "f32", first, out)
        return out.view(np.float32)

    def prefetch(self, index: int) -> None:
        """Starts reading a matrix from the disk."""
        stored = self.matrices[index]
        if stored.nbytes < PREFETCH_BYTES:
            _, file = self._file(stored)
            file.prefetch(*_pages(stored, 0, stored.rows))

    def drop(self, index: int, first: int = 0, rows: int | None = None) -> None:
        """Gives back the pages of some stored rows: a large model would push all else out of memory."""
        stored = self.matrices[index]
        fd, file = self._file(stored)
        start, length = _pages(stored, first, stored.rows - first if rows is None else rows)
        file.drop(start, length)
        os.posix_fadvise(fd, start, length, os.POSIX_FADV_DONTNEED)

    def _file(self, stored: StoredMatrix) -> tuple[int, _core.MappedFile]:
        known = self._files.get(stored.path)
        if known is not None:
            return known
        file = self._stack.enter_context(stored.path.open("rb"))
        needed = max(matrix.end for matrix in self.matrices if matrix.path == stored.path)
        opened = (file.fileno(), _core.MappedFile(stored.path))
        if len(opened[1]) < needed:
            raise ModelError(f"{stored.path}: the file has shrunk since its header was read")
        self._files[stored.path] = opened
        return opened


def _pages(stored: StoredMatrix, first: int, rows: int) -> tuple[int, int]:
    begin = stored.offset + first * stored.row_bytes
    start = begin // mmap.PAGESIZE * mmap.PAGESIZE
    return start, begin + rows * stored.row_bytes - start


def convert_rows(
    converter: _core.Converter,
    matrix: SourceMatrix,
    type: str,
    first: int,
    out: NDArray[np.uint8],
    importance: NDArray[np.float32] | None = None,
) -> None:
    """Rows [first, first + len(out)) of a matrix, turned as GGUF has them, as `type` into out [rows, bytes of a row].

    importance: float32 [columns of the result]. Raises as `_core.Converter.convert` does, and FormatError for a
    matrix that could not be read.
    """
    options: dict[str, Any] = {}
    if importance is not None:
        options["importance"] = importance
    if matrix.source_type is not None:
        options["source_type"] = matrix.source_type
    converter.convert(matrix.weight, matrix.scales, matrix.transpose, type, first, out, **options)
    matrix.check()
