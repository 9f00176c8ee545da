"""`convert`: from a checkpoint to a GGUF file, a slice at a time."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import ModelError
from pygrok.quantize.checkpoint import open_checkpoint
from pygrok.quantize.hyperparameters import resolve_hyperparameters
from pygrok.quantize.metadata import add_metadata
from pygrok.quantize.pickle_objects import StoredArray, StoredTensor
from pygrok.quantize.plan import Plan, PlannedTensor, TypeRules, make_plan
from pygrok.quantize.tokenizer import find_tokenizer, read_vocabulary
from pygrok.quantize.writer import GgufFileWriter

__all__ = ["ConversionReport", "convert"]

# One output buffer: large enough that threads seldom wait for each other, small beside the memory bound.
SLICE_BYTES = 32 << 20
PREFETCH_BYTES = 1 << 30
_NO_TOKENIZER = "no tokenizer goes into the file, which will take and give token ids only"
# bfloat16 is unknown to numpy: its bits travel as uint16.
_NUMPY = {"int8": np.int8, "float32": np.float32, "bfloat16": np.uint16}


@dataclass(frozen=True)
class ConversionReport:
    """What was written, or with `dry_run` would be."""

    path: Path
    plan: Plan
    source_bytes: int
    seconds: float
    notices: tuple[str, ...]
    dry_run: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors written."""
        return self.plan.nbytes


def convert(
    src: str | Path,
    dst: str | Path,
    type: str = "q4_0",
    *,
    config: str | Path | None = None,
    tokenizer: str | Path | None = None,
    no_tokenizer: bool = False,
    embedding_type: str | None = None,
    threads: int | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Callable[[int, int], None] | None = None,
    notify: Callable[[str], None] | None = None,
) -> ConversionReport:
    """Converts an xAI `ckpt-0` directory (or its parent) to one GGUF file that pygrok and llama.cpp load.

    src: the checkpoint. dst: the file to write. type: f32, f16, bf16, q8_0 or q4_0; norms and router stay
    f32. config: JSON file with xAI's field names; default: Grok-1's own values if the shapes are Grok-1's,
    else config.json beside the checkpoint. tokenizer: a SentencePiece model; default: tokenizer.model beside
    or above the checkpoint. With none, or no_tokenizer, the file takes and gives token ids only, and a notice says so.
    embedding_type: type of the embedding, which is the output matrix too; default: `type`, but q8_0 for q4_0, and f32
    for q8_0: the released int8 weights fit q8_0 exactly, so that the file loses nothing.
    threads: default: all available. force: overwrite dst. dry_run: check and plan, write nothing.
    progress: called with (source bytes done, source bytes in all) after every slice. notify: called with each of the
    report's notices before the work begins.

    Anonymous memory stays below 400 MB whatever the size of the model. dst appears complete or not at all.
    Raises ValueError for a wrong argument; FormatError for a damaged or unsuitable checkpoint, config or
    tokenizer; ModelError if values do not fit `type` or another process writes dst;
    FileExistsError if dst exists; OSError if the disk is full or a file cannot be read or written.
    """
    started = time.monotonic()
    if threads is not None and threads < 1:
        raise ValueError(f"threads is {threads}, expected 1 or more")
    if no_tokenizer and tokenizer is not None:
        raise ValueError("tokenizer and no_tokenizer exclude each other")
    rules = TypeRules(type, embedding_type)
    checkpoint = open_checkpoint(src)
    model = resolve_hyperparameters(checkpoint, config)
    if tokenizer is None and not no_tokenizer:
        tokenizer = find_tokenizer(checkpoint.directory)
    vocabulary = None if tokenizer is None else read_vocabulary(tokenizer, model.vocabulary)
    plan = make_plan(checkpoint, rules)

    destination = Path(dst)
    output = GgufFileWriter(destination, plan, force)
    output.check_destination()
    notices = plan.notices if vocabulary or no_tokenizer else (_NO_TOKENIZER, *plan.notices)
    if notify is not None:
        for notice in notices:
            notify(notice)
    if not dry_run:
        name = f"Grok-1 {type}" if model.dimensions.embedding == 6144 else destination.stem
        done = 0

        def advance(nbytes: int) -> None:
            nonlocal done
            done += nbytes
            if progress is not None:
                progress(done, checkpoint.source_bytes)

        with output:
            output.write_header(lambda writer: add_metadata(writer, model, vocabulary, type, name))
            converter = _core.Converter(threads or 0)
            for tensor in plan.tensors:
                _write_tensor(output, converter, tensor, advance)
            output.finish()
    return ConversionReport(
        path=destination,
        plan=plan,
        source_bytes=checkpoint.source_bytes,
        seconds=time.monotonic() - started,
        notices=notices,
        dry_run=dry_run,
    )


def _write_tensor(
    output: GgufFileWriter, converter: _core.Converter, tensor: PlannedTensor, advance: Callable[[int], None]
) -> None:
    slice_rows = max(1, min(tensor.rows, SLICE_BYTES // tensor.row_bytes))
    buffer = np.empty((slice_rows, tensor.row_bytes), np.uint8)
    with _mapped(tensor.source) as mapping:
        mapping.prefetch(0)
        for index in range(tensor.matrices):
            if index + 1 < tensor.matrices:
                mapping.prefetch(index + 1)
            weight, scales = mapping.matrix(index)
            source_bytes = weight.nbytes + (scales.nbytes if scales is not None else 0)
            advanced = 0
            for first in range(0, tensor.rows, slice_rows):
                out = buffer[: min(slice_rows, tensor.rows - first)]
                try:
                    converter.convert(weight, scales, tensor.transpose, tensor.type, first, out)
                except ModelError as error:
                    raise ModelError(f"{tensor.source.path}: tensor {tensor.name} {error}") from None
                output.write(out)
                if not tensor.transpose:  # each slice of rows is read once
                    mapping.drop(index, first, len(out))
                now = source_bytes * (first + len(out)) // tensor.rows
                advance(now - advanced)
                advanced = now
            del weight, scales
            mapping.drop(index)
    output.end_tensor(tensor.nbytes)


class _Mapping:
    """A tensor file's payload as arrays over the mapped file, one expert (or the whole tensor) at a time."""

    def __init__(self, source: StoredTensor, fd: int, data: mmap.mmap) -> None:
        self.source = source
        self.fd = fd
        self.data = data
        shape = source.weight.shape
        self.rows = shape[-2] if len(shape) > 1 else 1
        self.matrix_bytes = source.weight.nbytes // (shape[0] if len(shape) == 3 else 1)

    def matrix(self, index: int) -> tuple[NDArray[Any], NDArray[np.uint16] | None]:
        """Weight [rows, columns] and scales [groups, columns]."""
        scales = None if self.source.scales is None else self._array(self.source.scales, index)
        return self._array(self.source.weight, index), scales

    def prefetch(self, index: int) -> None:
        """Starts reading a matrix from the disk."""
        if (
            self.matrix_bytes < PREFETCH_BYTES
        ):  # larger ones are read in order, which the system foresees itself
            self.data.madvise(mmap.MADV_WILLNEED, *self._pages(index, 0, self.rows))

    def drop(self, index: int, first: int = 0, rows: int | None = None) -> None:
        """Gives the pages of some rows back: or a large checkpoint would push all else out of memory."""
        start, length = self._pages(index, first, self.rows if rows is None else rows)
        self.data.madvise(mmap.MADV_DONTNEED, start, length)
        os.posix_fadvise(self.fd, start, length, os.POSIX_FADV_DONTNEED)

    def _array(self, stored: StoredArray, index: int) -> NDArray[Any]:
        dtype: np.dtype[Any] = np.dtype(_NUMPY[stored.dtype])
        rows = stored.shape[-2] if len(stored.shape) > 1 else 1
        columns = stored.shape[-1]
        start = stored.offset + index * rows * columns * dtype.itemsize
        return np.frombuffer(self.data, dtype, rows * columns, start).reshape(rows, columns)

    def _pages(self, index: int, first: int, rows: int) -> tuple[int, int]:
        row_bytes = self.matrix_bytes // self.rows
        begin = self.source.weight.offset + index * self.matrix_bytes + first * row_bytes
        start = begin // mmap.PAGESIZE * mmap.PAGESIZE
        return start, begin + rows * row_bytes - start


@contextmanager
def _mapped(source: StoredTensor) -> Iterator[_Mapping]:
    with source.path.open("rb") as file:
        stored_end = max(array.offset + array.nbytes for array in (source.weight, source.scales) if array)
        if os.fstat(file.fileno()).st_size < stored_end:
            raise ModelError(f"{source.path}: the file has shrunk since its header was read")
        # Not closed here: arrays over it may live on in a traceback. It is unmapped with the last of them.
        yield _Mapping(source, file.fileno(), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
