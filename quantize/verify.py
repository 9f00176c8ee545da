"""Reads a written file back and compares every value with the source.

A slice of a tensor (about a million values) is wrong if a value is NaN or infinite, or if its relative error is above
`limit_of` its type: four times what the type has on normally distributed values, and at most 0.95, since zeros
have 1. Four is what lies between normal values and the worst that a block scaled by its largest value can hold; with
importance given, codecs rightly spend the error on columns that matter little, so the smaller of the plain and
the weighted error counts. Calibration changes weights on purpose, to make up for errors of layers before, so there the
limit is 0.95 for all that it rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import ModelError
from pygrok.quantize.compensated import is_calibrated
from pygrok.quantize.imatrix import ImportanceMatrix
from pygrok.quantize.plan import PlannedTensor
from pygrok.quantize.tensor_reader import SourceMatrix, convert_rows

__all__ = ["TensorError", "VerificationError", "limit_of", "measure_errors"]

SLICE_VALUES = 1 << 20
MOST_ABOVE_NORMAL = 4.0
LARGEST_LIMIT = 0.95
_PLAIN: dict[str, type[np.generic]] = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}


@dataclass(frozen=True)
class TensorError:
    """How far a written tensor is from its source.

    error: sqrt(sum (x - q)^2 / sum x^2) over all values. weighted: the same with each square weighted by the importance
    of its column, None without importance. worst: the largest error of a slice, the smaller of both kinds.
    problem: what is wrong, with the place; None if nothing is.
    """

    name: str
    type: str
    error: float
    weighted: float | None
    worst: float
    problem: str | None


class VerificationError(ModelError):
    """The file that was written is not what it should be. errors: of all tensors."""

    def __init__(self, destination: Path, errors: Sequence[TensorError]) -> None:
        wrong = [error.problem for error in errors if error.problem]
        super().__init__(
            f"{destination}: not put in place, as {len(wrong)} of {len(errors)} tensors are wrong: {wrong[0]}"
            f"{', ...' if len(wrong) > 1 else ''}; convert again, and if it stays so, check the source, disk and memory"
        )
        self.errors = tuple(errors)


class _Sums:
    """Squares of errors and of values, plain and weighted."""

    def __init__(self) -> None:
        self.error = self.value = self.weighted_error = self.weighted_value = 0.0

    def add(
        self, error: NDArray[np.float64], value: NDArray[np.float64], weights: NDArray[np.float64] | None
    ) -> None:
        """Sums over rows, by column."""
        self.error += float(error.sum())
        self.value += float(value.sum())
        if weights is not None:
            self.weighted_error += float(error @ weights)
            self.weighted_value += float(value @ weights)

    @property
    def plain(self) -> float:
        return _ratio(self.error, self.value)

    @property
    def weighted(self) -> float:
        return _ratio(self.weighted_error, self.weighted_value)


def measure_errors(
    path: Path,
    tensors: Iterable[PlannedTensor],
    converter: _core.Converter,
    importance: ImportanceMatrix | None = None,
    *,
    calibrated: bool = False,
    advance: Callable[[int], None] = lambda nbytes: None,
) -> list[TensorError]:
    """Compares each tensor of the GGUF file (or set) at `path` with its source; advance: bytes of the source done.

    calibrated: matrices were changed on purpose.

    Memory stays within tens of MB. Raises FormatError if the file is not the GGUF file that was planned, OSError.
    """
    file = _core.GgufFile(str(path))
    infos = {info.name: info for info in file.tensors}
    errors = []
    for tensor in tensors:
        info = infos.get(tensor.name)
        if info is None or (info.type, info.shape, info.bytes) != (tensor.type, tensor.shape, tensor.nbytes):
            found = "is missing" if info is None else f"is {info.type} {info.shape}"
            problem = f"{tensor.name} {found} in the file, planned as {tensor.type} {tensor.shape}"
            errors.append(TensorError(tensor.name, tensor.type, math.inf, None, math.inf, problem))
            continue
        limit = limit_of(tensor.type)
        if calibrated and is_calibrated(tensor) and tensor.type != "f32":
            limit = LARGEST_LIMIT
        errors.append(_measure(file, tensor, converter, importance, limit, advance))
    return errors


def _measure(
    file: _core.GgufFile,
    tensor: PlannedTensor,
    converter: _core.Converter,
    importance: ImportanceMatrix | None,
    limit: float,
    advance: Callable[[int], None],
) -> TensorError:
    columns = tensor.shape[-1]
    slice_rows = max(64, SLICE_VALUES // columns // 64 * 64)  # whole cache lines of a transposed source
    total = _Sums()
    worst, problem = 0.0, None
    weighs = False
    with tensor.source.open() as reader:
        for index in range(tensor.matrices):
            source = reader.matrix(index)
            written = _written(file, tensor, index)
            weights = None
            if importance is not None:
                expert = index if tensor.matrices > 1 else None
                found = importance.importance(tensor.name, expert, columns=columns)
                weights = None if found is None else found.astype(np.float64)
                weighs = weighs or weights is not None
            for first in range(0, tensor.rows, slice_rows):
                rows = min(slice_rows, tensor.rows - first)
                place = f"rows {first} to {first + rows - 1}" + (
                    f" of expert {index}" if tensor.matrices > 1 else ""
                )
                try:
                    squares = _squares(converter, source, written, first, rows, columns)
                except ModelError as wrong:
                    problem = problem or f"{tensor.name} {wrong} in {place}"
                    worst = math.inf
                    continue
                total.add(*squares, weights)
                part = _Sums()
                part.add(*squares, weights)
                off = part.plain if weights is None else min(part.plain, part.weighted)
                worst = max(worst, off)
                if off > limit:
                    problem = problem or (
                        f"{tensor.name} has a relative error of {off:.3g} in {place}, {tensor.type} should have "
                        f"at most {limit:.3g}"
                    )
            del source
            reader.drop(index)
            advance(tensor.source.matrices[index].nbytes)
    error = total.plain if math.isfinite(worst) else math.inf
    return TensorError(tensor.name, tensor.type, error, total.weighted if weighs else None, worst, problem)


def _squares(
    converter: _core.Converter,
    source: SourceMatrix,
    written: SourceMatrix,
    first: int,
    rows: int,
    columns: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums over some rows, by column, of the squares of the errors and of the source's values."""
    values, back = (np.empty((rows, columns * 4), np.uint8) for _ in range(2))
    convert_rows(converter, source, "f32", first, values)
    convert_rows(converter, written, "f32", first, back)
    x, q = values.view(np.float32), back.view(np.float32)
    np.subtract(q, x, out=q)
    # float32 products overflow from 1.8e19 on, which float32 weights may hold
    return np.einsum("ij,ij->j", q, q, dtype=np.float64), np.einsum("ij,ij->j", x, x, dtype=np.float64)


def _written(file: _core.GgufFile, tensor: PlannedTensor, index: int) -> SourceMatrix:
    size = tensor.rows * tensor.row_bytes
    matrix: NDArray[Any] = file.data(tensor.name)[index * size : (index + 1) * size]
    plain = _PLAIN.get(tensor.type)
    if plain is not None:
        return SourceMatrix(matrix.view(plain).reshape(tensor.rows, -1), None, False, None, file)
    return SourceMatrix(matrix.reshape(tensor.rows, tensor.row_bytes), None, False, tensor.type, file)


@cache
def limit_of(type: str) -> float:
    """The largest relative error of a slice that is not wrong; 0 for f32, which is exact."""
    rows = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    packed = _core.quantize_rows(type, rows, 1, np.ones(1024, np.float32))
    back = _core.dequantize_rows(type, packed, 1024)
    return min(
        MOST_ABOVE_NORMAL * float(np.sqrt(np.sum((back - rows) ** 2) / np.sum(rows**2))), LARGEST_LIMIT
    )


def _ratio(error: float, value: float) -> float:
    if value == 0:
        return 0.0 if error == 0 else math.inf
    return math.sqrt(error / value)
