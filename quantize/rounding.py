"""Rounds one matrix with second-order statistics of its inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.quantize.hessian import Doubles, blend, factor, ridge_solve
from pygrok.quantize.tensor_types import FLOATS

__all__ = ["CalibrationOptions", "Inputs", "gram", "round_matrix", "stored"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class CalibrationOptions:
    """What calibration may be told; the defaults are measured (docs/calibration.md).

    damping: of H when rounding, in parts of the mean of its diagonal. ridge: the same where weights are changed to make
    up for errors in their inputs. span: columns whose errors make up for each other; longer rows are cut into spans of
    at most this many. prior: tokens that the layer's average counts for in an expert's H, in parts of its columns.
    embedding_prior: how much the embedding's being the input counts beside its being the output matrix.
    """

    damping: float = 0.03
    ridge: float = 0.2
    span: int = 6144
    prior: float = 0.125
    embedding_prior: float = 0.3

    def __post_init__(self) -> None:
        for name in ("damping", "ridge", "prior", "embedding_prior"):
            if not 0 < getattr(self, name) <= 100:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0 and at most 100")
        if self.span < 256:
            raise ValueError(f"span is {self.span}, expected 256 or more")

    def span_of(self, columns: int) -> int:
        """The longest that divides rows of `columns`, at most `span`, in whole blocks of 256; else of 32; else all."""
        for block in (256, 32):
            if columns % block == 0:
                return max(n for n in range(block, max(self.span, block) + 1, block) if columns % n == 0)
        return columns


def stored(values: Floats) -> tuple[str, NDArray[np.uint8]]:
    """float32 [rows, columns] as `_core.Calibration` takes matrices."""
    return "f32", np.ascontiguousarray(values).view(np.uint8)


def gram(core: _core.Calibration, x: Floats, span: int, weights: Floats | None = None) -> Doubles:
    """Sum of outer products of the rows of x [n, k], diagonal blocks only: [k / span, span, span]."""
    result = np.zeros((x.shape[1] // span, span, span))
    for i in range(len(result)):
        part = np.ascontiguousarray(x[:, i * span : (i + 1) * span])
        core.add_gram(part, part, weights, result[i])
    return result


class Inputs:
    """What goes into matrices that share their input, and what it says about their rounding.

    x: [n, k] as the quantized layers before give it. average: H per token to lean on where n is small, None for none.
    """

    def __init__(
        self, core: _core.Calibration, options: CalibrationOptions, x: Floats, average: Doubles | None = None
    ) -> None:
        self.core = core
        self.options = options
        self.x = x
        self.span = options.span_of(x.shape[1])
        self._average = average
        self._hessian: Doubles | None = None
        self._factor: NDArray[np.float32] | None = None

    @property
    def hessian(self) -> Doubles:
        """H per token, float64 [spans, span, span]."""
        if self._hessian is None:
            n, columns = self.x.shape
            own = gram(self.core, self.x, self.span)
            average = self._average
            if average is None:  # white noise of the same strength
                average = np.zeros_like(own)
                average[:, range(self.span), range(self.span)] = np.einsum("bii->", own) / max(1, n) / columns
                prior = 0 if n else 1
            else:
                prior = max(1, round(self.options.prior * columns))
            self._hessian = blend(own, n, average, prior)
        return self._hessian

    @property
    def factor(self) -> NDArray[np.float32]:
        """As `hessian.factor` makes it."""
        if self._factor is None:
            self._factor = factor(self.hessian, self.options.damping)
        return self._factor


def round_matrix(inputs: Inputs, weights: Floats, missing: Floats, type: str) -> NDArray[np.uint8]:
    """weights [rows, k] as `type`, uint8 [rows, bytes of a row], so that the outputs err least.

    missing: [n, rows], wanted outputs minus weights times `inputs.x`: what the errors of all earlier layers took
    away. As far as it is a linear function of the inputs, the weights make up for it before they are rounded. f32
    stays as it is. Raises ModelError for values that do not fit the type or are not finite.
    """
    if type == "f32":
        return stored(weights)[1]
    target = _make_up(inputs, weights, missing)
    if type in FLOATS:
        return _core.quantize_rows(type, target, inputs.core.threads)
    _, block, block_bytes = _core.tensor_types()[type]
    out = np.empty((len(target), target.shape[1] // block * block_bytes), np.uint8)
    inputs.core.compensate(type, target, inputs.factor, out)
    return out


def _make_up(inputs: Inputs, weights: Floats, missing: Floats) -> Floats:
    """Span after span, each for what those before it left over: together they must not make up twice."""
    n, columns = inputs.x.shape
    if n == 0:
        return weights
    span = inputs.span
    target: Floats = weights.copy()
    left = missing
    # The fewer tokens for each weight, the more of a fit is chance.
    ridge = inputs.options.ridge * (1 + columns / n)
    for i in range(columns // span):
        x = np.ascontiguousarray(inputs.x[:, i * span : (i + 1) * span])
        cross = np.zeros((len(weights), span))
        inputs.core.add_gram(left, x, None, cross)
        change = ridge_solve(cross / n, inputs.hessian[i], ridge)
        target[:, i * span : (i + 1) * span] += change
        if (i + 1) * span < columns:
            left = left - inputs.core.multiply(stored(change), x)
    return target
