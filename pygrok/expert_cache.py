"""What share of the routed experts a cache would have held: every size at once, from one replay of a trace.

Policies that keep the experts of highest priority, where priorities do not depend on the cache's size, have nested
contents: what a small cache holds, a larger one holds as well (Mattson et al. 1970, "Evaluation techniques for storage
hierarchies"). One list of experts, each standing at the smallest size that holds it, thus replays all sizes together.
Least recent use is such a policy, so is the engine's expected distance, and so is Belady's, which looks into the future
and which none can beat (1966, "A study of replacement algorithms").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pygrok.route_trace import NOT_ROUTED

if TYPE_CHECKING:
    from pygrok.route_trace import RouteTrace

__all__ = ["HALF_LIVES", "POLICIES", "HitCurve", "hit_curve"]

# As the engine has them (csrc/io/expected_use.cc, docs/paging.md), in tokens: after how many a use counts half, each in
# a memory of its own, and the same for a memory's success; what an expert is taken to have been used before.
HALF_LIVES = (4.0, 16.0, 64.0, 256.0)
_LOSS_HALF_LIFE = 64.0
_PRIOR_SHARE, _PRIOR_TOKENS, _LEAST_SHARE, _DOUBT = 0.25, 4.0, 1e-4, 0.02
POLICIES = ("lru", "pygrok", "belady")
Progress = Callable[[int], None]
_Step: TypeAlias = tuple[int, int, NDArray[np.intp]]  # row, layer, groups used: layer * experts + expert


@dataclass(frozen=True)
class HitCurve:
    """hit_rate: float64 [layers * experts + 1], with room for 0, 1, 2, ... experts.

    references: how many were counted; each expert's first one is left out unless it was asked for.
    """

    policy: str
    references: int
    hit_rate: NDArray[np.float64]

    def at(self, share: float) -> float:
        """The hit rate with this share of all experts in memory, between two sizes in proportion."""
        sizes = np.linspace(0, 1, len(self.hit_rate))
        return float(np.interp(share, sizes, self.hit_rate))


class _Priorities(Protocol):
    """Of all groups: float64 [groups], the higher the longer kept."""

    values: NDArray[np.float64]

    def begin(self, layer: int, step: NDArray[np.intp]) -> None:
        """A token's layer routes to these groups."""

    def use(self, group: int, at: int) -> None:
        """The reference number `at`."""


class _Recency:
    def __init__(self, groups: int) -> None:
        self.values = np.zeros(groups)

    def begin(self, layer: int, step: NDArray[np.intp]) -> None:
        """Nothing changes."""

    def use(self, group: int, at: int) -> None:
        self.values[group] = at


class _Distance:
    """Layers until a group is expected to be used again, negative: from the share p of tokens that lately used it.

    Layers come in turn, so that is the way to its layer, and (1 / p - 1) rounds. p is learnt with several half-lives,
    which count by how well they foretold the routing (log loss). Of equals, the last used stays.
    """

    def __init__(self, layers: int, experts: int, half_lives: Sequence[float]) -> None:
        self._layers = layers
        self._decay = np.exp2(-1 / np.array(half_lives))[:, None]
        self._share = np.full((len(half_lives), layers, experts), _PRIOR_SHARE)
        self._seen = np.full(layers, _PRIOR_TOKENS)
        self._loss = np.zeros(len(half_lives))
        self._last = np.zeros(layers * experts)
        self.values = np.zeros(layers * experts)

    def begin(self, layer: int, step: NDArray[np.intp]) -> None:
        share = self._share[:, layer]
        used = np.zeros(share.shape[1])
        used[step - layer * len(used)] = 1
        p = np.clip(share, _DOUBT, 1 - _DOUBT)
        loss = -(used * np.log(p) + (1 - used) * np.log(1 - p)).sum(axis=1)
        self._loss *= 2 ** (-1 / (_LOSS_HALF_LIFE * self._layers))
        self._loss += loss / self._layers
        keep = np.minimum(self._decay, self._seen[layer] / (self._seen[layer] + 1))
        self._seen[layer] += 1
        self._share[:, layer] = keep * share + (1 - keep) * used
        weights = np.exp(self._loss.min() - self._loss)
        mixed = np.tensordot(weights / weights.sum(), self._share, 1)
        way = (np.arange(self._layers) - layer - 1) % self._layers + 1
        rounds = 1 / np.maximum(mixed, _LEAST_SHARE) - 1
        self.values = self._last - (way[:, None] + rounds * self._layers).ravel()

    def use(self, group: int, at: int) -> None:
        self.values[group] += 1e-9 * at - self._last[group]
        self._last[group] = 1e-9 * at


class _Future:
    def __init__(self, groups: int, steps: list[_Step]) -> None:
        self.values = np.full(groups, -np.inf)
        references = np.concatenate([groups for *_, groups in steps]) if steps else np.empty(0, np.intp)
        self._next = np.empty(len(references))
        later = np.full(groups, np.inf)
        for at in range(len(references) - 1, -1, -1):
            group = references[at]
            self._next[at] = later[group]
            later[group] = at

    def begin(self, layer: int, step: NDArray[np.intp]) -> None:
        """Nothing changes."""

    def use(self, group: int, at: int) -> None:
        self.values[group] = -self._next[at]


def hit_curve(
    trace: RouteTrace,
    policy: str = "pygrok",
    *,
    half_lives: Sequence[float] = HALF_LIVES,
    skip: int = 0,
    cold: bool = False,
    progress: Progress | None = None,
) -> HitCurve:
    """Replay a trace token by token, whatever batches it was computed in; all experts count as equally large.

    policy: "lru", "pygrok" (as the engine does, a use counting half after each of `half_lives`, in tokens) or "belady".
    skip: rows at the start that fill the cache and are not counted.
    cold: whether the first use of an expert counts, as a miss.
    progress: called with the rows done.

    What is not worth keeping passes through, piece by piece, and takes no room. Raises ValueError (unknown policy).
    """
    header = trace.header
    groups = header.layers * header.experts
    steps = list(_steps(trace))
    priorities: _Priorities
    if policy == "lru":
        priorities = _Recency(groups)
    elif policy == "pygrok":
        priorities = _Distance(header.layers, header.experts, half_lives)
    elif policy == "belady":
        priorities = _Future(groups, steps)
    else:
        raise ValueError(f"policy is {policy!r}: choose {', '.join(POLICIES)}")
    stack = _Stack(groups)
    hits = np.zeros(
        groups + 1, np.int64
    )  # [size]: references that a cache of this size is the smallest to hold
    counted = at = 0
    for token, layer, step in steps:
        priorities.begin(layer, step)
        depths = [stack.depth(int(group)) for group in step]
        for group in step:
            priorities.use(int(group), at)
            stack.use(int(group), priorities.values)
            at += 1
        if token >= skip:
            known = [depth for depth in depths if depth is not None]
            counted += len(depths) if cold else len(known)
            for depth in known:
                hits[depth + 1] += 1
        if progress is not None:
            progress(token + 1)
    return HitCurve(policy, counted, np.cumsum(hits) / max(counted, 1))


def _steps(trace: RouteTrace) -> Iterator[_Step]:
    first = np.arange(trace.header.layers)[:, None] * trace.header.experts
    for row, experts in enumerate(trace.experts):
        routed = experts != NOT_ROUTED
        groups = experts.astype(np.intp) + first
        for layer in np.flatnonzero(routed.any(axis=1)).tolist():
            yield row, layer, np.unique(groups[layer][routed[layer]])


class _Stack:
    """Experts by the size of the smallest cache that holds them."""

    def __init__(self, groups: int) -> None:
        self._order = np.empty(groups, np.intp)
        self._place = np.full(groups, -1, np.intp)
        self._count = 0

    def depth(self, group: int) -> int | None:
        """How many experts stand before it; None if it was never used."""
        place = int(self._place[group])
        return None if place < 0 else place

    def use(self, group: int, priorities: NDArray[np.float64]) -> None:
        """Each size that lacks it gives up the one of lowest priority, be it this one; the next size keeps that."""
        depth = self.depth(group)
        if depth is None:
            depth = self._count
            self._count += 1
        candidates = np.concatenate([[group], self._order[:depth]])
        held = priorities[candidates]
        lowest = np.minimum.accumulate(held)
        # Where the one given up changes: it stays with this size's cache, the one from before goes there.
        at = np.flatnonzero(np.concatenate([[True], held[1:] < lowest[:-1]]))
        moved = candidates[at]
        places = np.append(at[1:] - 1, depth)
        self._order[places] = moved
        self._place[moved] = places
