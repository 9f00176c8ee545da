"""From a source's matrices to the output's bytes, a slice at a time: the next is converted while one is written."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import ModelError
from pygrok.quantize.imatrix import ImportanceMatrix
from pygrok.quantize.journal import Piece
from pygrok.quantize.plan import PlannedTensor
from pygrok.quantize.tensor_reader import TensorReader, convert_rows
from pygrok.quantize.writer import OutputFiles

__all__ = ["TensorEncoder"]

# One output buffer, of two: large enough that threads seldom wait for each other, small beside the memory bound.
SLICE_BYTES = 32 << 20


class TensorEncoder:
    """A context manager: `encode` converts tensors and hands their bytes to `output`.

    importance: weights of columns, None for none. advance: called with bytes of the source that are done.
    """

    def __init__(
        self,
        output: OutputFiles,
        converter: _core.Converter,
        importance: ImportanceMatrix | None,
        advance: Callable[[int], None],
    ) -> None:
        self.skipped = 0  # bytes of the source that an earlier process had done
        self._output = output
        self._converter = converter
        self._importance = importance
        self._advance = advance
        self._thread = ThreadPoolExecutor(1, "pygrok-write")
        self._pending: Future[None] | None = None

    def __enter__(self) -> TensorEncoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown()

    def encode(self, tensor: PlannedTensor) -> None:
        """All matrices that are not finished yet. Raises ModelError naming the file for values that do not fit."""
        rows = max(1, min(tensor.rows, SLICE_BYTES // tensor.row_bytes))
        buffers = [
            np.empty((rows, tensor.row_bytes), np.uint8) for _ in range(min(2, -(-tensor.rows // rows)))
        ]
        matrix_bytes = tensor.rows * tensor.row_bytes
        left = []
        for index in range(tensor.matrices):
            if self._output.is_finished((tensor.name, index), matrix_bytes):
                self.skipped += tensor.source.matrices[index].nbytes
                self._advance(tensor.source.matrices[index].nbytes)
            else:
                left.append(index)
        if not left:
            return
        with tensor.source.open() as reader:
            reader.prefetch(left[0])
            for index, following in zip(left, [*left[1:], None], strict=True):
                if following is not None:
                    reader.prefetch(following)
                self._encode_matrix(tensor, reader, index, buffers)
                reader.drop(index)

    def _encode_matrix(
        self, tensor: PlannedTensor, reader: TensorReader, index: int, buffers: list[NDArray[np.uint8]]
    ) -> None:
        piece: Piece = (tensor.name, index)
        stored = tensor.source.matrices[index]
        matrix = reader.matrix(index)
        importance = None
        if self._importance is not None:
            expert = index if tensor.matrices > 1 else None
            importance = self._importance.importance(tensor.name, expert, columns=tensor.shape[-1])
        slice_rows = len(buffers[0])
        advanced = 0
        for number, first in enumerate(range(0, tensor.rows, slice_rows)):
            out = buffers[number % len(buffers)][: min(slice_rows, tensor.rows - first)]
            try:
                if matrix.source_type == tensor.type:  # blocks as they are
                    out[:] = matrix.weight[first : first + len(out)]
                    matrix.check()
                else:
                    convert_rows(self._converter, matrix, tensor.type, first, out, importance)
            except ModelError as error:
                raise ModelError(f"{stored.path}: tensor {tensor.name} {error}") from None
            self._write(piece, tensor, first, out)
            if not matrix.transpose:  # each slice of rows is read once
                reader.drop(index, first, len(out))
            now = stored.nbytes * (first + len(out)) // tensor.rows
            self._advance(now - advanced)
            advanced = now
        self._settle()
        self._output.end_piece(piece)

    def _write(self, piece: Piece, tensor: PlannedTensor, first: int, out: NDArray[np.uint8]) -> None:
        """In the other thread; waits for what was written before, whose buffer is the next to be filled."""
        self._settle()
        self._pending = self._thread.submit(
            self._output.write, piece, tensor.rows * tensor.row_bytes, first * tensor.row_bytes, out
        )

    def _settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()
