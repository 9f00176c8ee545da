"""Linear algebra of error-compensated rounding, in float64.

H is the sum over tokens of the outer products of a matrix's inputs: the squared error of its outputs is
sum over rows of (w - q) H (w - q)^T. Where rows are longer than `span` columns, H is taken as block-diagonal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pygrok.errors import ModelError

__all__ = ["blend", "factor", "ridge_solve"]

Doubles = NDArray[np.float64]


def factor(hessian: Doubles, damping: float) -> NDArray[np.float32]:
    """U float32 [spans, span, span], upper triangular, with (H + damping)^-1 = U^T U, of H [spans, span, span].

    damping: added to the diagonal, in parts of its mean; it stands for what the tokens seen do not tell, so that inputs
    that never occurred cost a little too. Where nothing occurred at all, all columns count alike: plain rounding.
    Raises ModelError if H is not finite or is no sum of outer products.
    """
    spans, span, _ = hessian.shape
    result = np.empty((spans, span, span), np.float32)
    for i, block in enumerate(hessian):
        mean = float(np.trace(block)) / span
        if not np.isfinite(block).all():
            raise ModelError("the calibration text leads to NaN or infinite activations")
        if mean <= 0:
            result[i] = np.eye(span, dtype=np.float32)
            continue
        # Of scale 1, so that neither U nor its squares leave float32.
        damped = block / mean
        damped[np.diag_indices(span)] += damping
        try:
            inverse = np.linalg.inv(np.linalg.cholesky(damped))
            result[i] = np.linalg.cholesky(inverse.T @ inverse).T
        except np.linalg.LinAlgError:
            raise ModelError(
                "activations of the calibration text give no positive Hessian; raise damping"
            ) from None
    return result


def blend(hessian: Doubles, count: int, average: Doubles, prior: int) -> Doubles:
    """H per token, [spans, span, span]: the sum `hessian` over `count` tokens, and `average` as if seen `prior` times.

    An expert to which few tokens were routed does not know its inputs: with no tokens it takes the average of
    the layer's, with many its own, between them in proportion.
    """
    result: Doubles = (hessian + prior * average) / (count + prior)
    return result


def ridge_solve(cross: Doubles, hessian: Doubles, ridge: float) -> NDArray[np.float32]:
    """cross [rows, k] times (H + ridge)^-1, H [k, k]: the change of weights that least squares asks for.

    ridge: in parts of the mean of H's diagonal. All zero if H is. Raises ModelError for values that are not finite.
    """
    k = len(hessian)
    mean = float(np.trace(hessian)) / k
    if mean == 0:
        return np.zeros(cross.shape, np.float32)
    if not (np.isfinite(hessian).all() and np.isfinite(cross).all()):
        raise ModelError("the calibration text leads to NaN or infinite activations")
    damped = hessian.copy()
    damped[np.diag_indices(k)] += ridge * mean
    try:
        solution: NDArray[np.float32] = np.linalg.solve(damped, cross.T).T.astype(np.float32)
    except np.linalg.LinAlgError:
        raise ModelError(
            "activations of the calibration text give no positive Hessian; raise ridge"
        ) from None
    return solution
