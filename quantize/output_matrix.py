"""Rounding of the output matrix, which in Grok is the embedding too."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.quantize.exact_model import ExactModel
from pygrok.quantize.hessian import Doubles, factor
from pygrok.quantize.rounding import CalibrationOptions, Floats, gram, stored

__all__ = ["round_output", "similar_rows"]

_MOST_WORK = 5e12  # multiply-adds of all groups' Cholesky factors
_ROWS = 16  # of a group, at least: what is rounded together
_SHARED = 0.3  # weight of all groups' H in that of each
_LEAST_DAMPING = 1e-6
_KEPT = 0.99  # of a group's importance: most states matter to few tokens


def similar_rows(weights: Floats, groups: int) -> list[NDArray[np.intp]]:
    """Indices of rows of weights [rows, k] that point the same way, in `groups` groups, a power of two, of like size.

    Groups are halved along their first principal axis, again and again.
    """
    norms = np.sqrt(np.square(weights).sum(1, keepdims=True))
    directions = weights / np.where(norms > 0, norms, 1)
    result = [np.arange(len(weights))]
    while len(result) < groups:
        halves = []
        for group in result:
            rows = directions[group].astype(np.float64)
            rows -= rows.mean(0)
            _, axes = np.linalg.eigh(rows.T @ rows)
            order = group[np.argsort(rows @ axes[:, -1], kind="stable")]
            halves += [order[: len(order) // 2], order[len(order) // 2 :]]
        result = halves
    return result


def round_output(
    exact: ExactModel, states: Floats, type: str, role: str, options: CalibrationOptions
) -> NDArray[np.uint8]:
    """The matrix of that role, "output" or "embedding", as `type`: uint8 [rows, bytes of a row].

    states: [n, embedding], its exact inputs. A token's row is rounded for the states in which its logit matters, with
    those of similar tokens together: their outer products are weighted by p (1 - p), see `ExactModel.uncertainty`. As
    an embedding, a row's error is felt by all that follows, in all directions alike.
    """
    weights = exact.values(role, None)
    if type == "f32":
        return stored(weights)[1]
    if type in ("f16", "bf16"):
        return _core.quantize_rows(type, weights, exact.core.threads)
    rows, columns = weights.shape
    span = options.span_of(columns)
    groups = similar_rows(weights, _group_count(rows, columns, span))
    importance = exact.uncertainty(states, groups, role)
    shared = _scaled(gram(exact.core, states, span, importance.sum(1)))
    prior = np.eye(span) * (options.embedding_prior if role == "embedding" else options.damping)

    _, block, block_bytes = _core.tensor_types()[type]
    result = np.empty((rows, columns // block * block_bytes), np.uint8)
    for index, group in enumerate(groups):
        heavy = _heavy(importance[:, index])
        own = _scaled(gram(exact.core, states[heavy], span, importance[heavy, index]))
        out = np.empty((len(group), result.shape[1]), np.uint8)
        exact.core.compensate(
            type, weights[group], factor(own + _SHARED * shared + prior, _LEAST_DAMPING), out
        )
        result[group] = out
    return result


def _group_count(rows: int, columns: int, span: int) -> int:
    """The largest power of two that rows and work allow."""
    work = columns * span**2
    return 1 << max(0, int(min(rows / _ROWS, _MOST_WORK / work)).bit_length() - 1)


def _heavy(weights: Floats) -> NDArray[np.intp]:
    """The fewest indices, rising, whose weights are nearly all of them."""
    order = np.argsort(-weights, kind="stable")
    sums = np.cumsum(weights[order], dtype=np.float64)
    return np.sort(order[: int(np.searchsorted(sums, _KEPT * sums[-1])) + 1])


def _scaled(hessian: Doubles) -> Doubles:
    """With a diagonal of 1 on average."""
    mean = np.einsum("bii->", hessian) / (hessian.shape[0] * hessian.shape[1])
    result: Doubles = hessian / mean if mean > 0 else hessian
    return result
