"""Traces of routing made up for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrok.route_trace import RouteTrace, TraceHeader

HEADER = TraceHeader("made up", "0123", 3, 4, 2, 1000, 500)


def trace_of(experts: NDArray[Any], header: TraceHeader = HEADER) -> RouteTrace:
    """One session's tokens, in order; experts [n, layers, used]."""
    n = len(experts)
    return RouteTrace(
        header, np.zeros(n, np.int32), np.arange(n, dtype=np.int32), experts.astype(np.uint8), None
    )


def skewed_trace(
    tokens: int, header: TraceHeader = HEADER, *, skew: float = 1.0, seed: int = 0
) -> RouteTrace:
    """Expert k of a layer is drawn in proportion to 1 / (k + 1)^skew, in an order of the layer's own."""
    rng = np.random.default_rng(seed)
    weights = (1.0 + np.arange(header.experts)) ** -skew
    ranks = np.argsort(rng.gumbel(size=(tokens, header.layers, header.experts)) + np.log(weights), axis=2)
    order = np.stack([rng.permutation(header.experts) for _ in range(header.layers)])
    taken = ranks[:, :, ::-1][:, :, : header.used]
    return trace_of(np.take_along_axis(order[None].repeat(tokens, 0), taken, axis=2), header)
