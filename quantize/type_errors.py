"""The relative error of each tensor in each type, from encoding a sample of its rows."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import ModelError
from pygrok.quantize.plan import Importance
from pygrok.quantize.source import SourceTensor

__all__ = ["relative_error", "type_errors"]

# Enough for 1 % of the error, which is a mean over many blocks.
_SAMPLED_VALUES = 1 << 16
_BAND = 16  # rows that lie together: what encoders take at once, and what a transposed source reads at once
_MOST_MATRICES = 4  # experts of one tensor resemble each other


def type_errors(
    tensor: SourceTensor,
    types: Iterable[str],
    importance: Importance | None,
    converter: _core.Converter,
) -> dict[str, float]:
    """Type -> sum of a_j (w_ij - q_ij)^2 over sum of a_j w_ij^2, with a_j the importance of column j, 1 without one.

    types: such as the tensor's rows divide into; one that cannot hold the values is left out. Raises ModelError for
    weights that are not numbers, or if no type is left; OSError.
    """
    total: dict[str, float] = dict.fromkeys(types, 0.0)
    energy = 0.0
    with closing(_sample_rows(tensor, importance, converter)) as samples:
        for rows, weights in samples:
            energy += _energy(rows, weights)
            for name in list(total):
                try:
                    data = _core.quantize_rows(name, rows, converter.threads, importance=weights)
                except ModelError:
                    del total[name]
                    if not total:
                        raise
                    continue
                decoded = _core.dequantize_rows(name, data, rows.shape[1])
                total[name] += _energy(decoded - rows, weights)
    return {name: error / energy if energy else 0.0 for name, error in total.items()}


def relative_error(
    rows: NDArray[np.float32], decoded: NDArray[np.float32], weights: NDArray[np.float32] | None
) -> float:
    """As in `type_errors`, of float32 [rows, columns] and what became of them."""
    energy = _energy(rows, weights)
    return _energy(decoded - rows, weights) / energy if energy else 0.0


def _sample_rows(
    tensor: SourceTensor, importance: Importance | None, converter: _core.Converter
) -> Generator[tuple[NDArray[np.float32], NDArray[np.float32] | None], None, None]:
    """Bands of rows [n, columns] spread over the tensor's matrices, each with its columns' importance."""
    count = len(tensor.matrices)
    chosen = sorted({i * count // _MOST_MATRICES for i in range(min(count, _MOST_MATRICES))})
    bands = max(1, _SAMPLED_VALUES // (_BAND * tensor.columns * len(chosen)))
    bands = min(bands, -(-tensor.rows // _BAND))
    with tensor.open() as reader:
        for index in chosen:
            weights = None
            if importance is not None:
                weights = importance.importance(tensor.name, index if count > 1 else None)
            parts = []
            for band in range(bands):
                first = band * tensor.rows // bands
                parts.append(reader.values(converter, index, first, min(_BAND, tensor.rows - first)))
            reader.drop(index)
            yield np.concatenate(parts), weights


def _energy(values: NDArray[np.float32], weights: NDArray[np.float32] | None) -> float:
    columns = np.sum(values.astype(np.float64) ** 2, axis=0)
    return float(columns.sum() if weights is None else columns @ weights.astype(np.float64))
