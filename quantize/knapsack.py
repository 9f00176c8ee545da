"""Which type for each tensor: the least loss whose sizes add up to at most the budget.

The multiple-choice knapsack problem (Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004, chapter 11). Lagrangian
relaxation of the size gives a bound on every partial choice and a first solution; then a list of partial choices
that none other beats in both size and loss grows tensor by tensor, without those whose bound exceeds the best
solution known. The list is short as the bound is tight: few tensors differ from the relaxation's choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Infeasible", "Option", "Solution", "solve"]

# Partial choices kept. Beyond that the answer may be off the optimum, by no more than Solution.gap says.
MOST_STATES = 50_000
# What the search does not bother to gain, as a share of the loss: the predictions are off by far more.
TOLERANCE = 1e-6
_HALVINGS = 80


@dataclass(frozen=True)
class Option:
    """A type that a tensor could have: `size` in bytes, `loss` >= 0 in any unit that adds up."""

    size: int
    loss: float


@dataclass(frozen=True)
class Solution:
    """`choices`: the index of each tensor's option. `gap`: the loss is at most this much above the least possible."""

    choices: tuple[int, ...]
    size: int
    loss: float
    gap: float


class Infeasible(ValueError):  # noqa: N818  # named for what the problem is
    """Even the smallest options exceed the budget. `least`: bytes that they take."""

    def __init__(self, least: int) -> None:
        super().__init__(f"the smallest choice takes {least} bytes")
        self.least = least


def solve(tensors: Sequence[Sequence[Option]], budget: int, max_states: int = MOST_STATES) -> Solution:
    """One option for each tensor, total size <= budget (bytes), total loss least (within TOLERANCE, else see `gap`).

    Raises Infeasible if no choice is small enough, ValueError for a tensor without options.
    """
    if any(not options for options in tensors):
        raise ValueError("a tensor has no option")
    table = [_efficient(options) for options in tensors]
    least = sum(int(sizes[0]) for sizes, _, _ in table)
    if least > budget:
        raise Infeasible(least)
    price = _price(table, budget)
    best = _fill(table, _cheapest(table, price), budget)
    picks, exact = _search(table, price, budget, best, max_states)
    size, loss = _total(table, picks)
    bound = _bound(table, price, budget)
    proven = TOLERANCE * loss if exact else loss - bound
    choices = tuple(int(index[k]) for (_, _, index), k in zip(table, picks, strict=True))
    return Solution(choices, size, loss, max(0.0, min(proven, loss - bound)))


# One tensor's options by rising size and falling loss: sizes, losses, places in the caller's list.
_Options = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]


def _efficient(options: Sequence[Option]) -> _Options:
    """Without options that another one beats in size and loss."""
    kept: list[int] = []
    for i in sorted(range(len(options)), key=lambda i: (options[i].size, options[i].loss)):
        if not kept or options[i].loss < options[kept[-1]].loss:
            kept.append(i)
    sizes = np.array([options[i].size for i in kept], np.int64)
    losses = np.array([options[i].loss for i in kept], np.float64)
    return sizes, losses, np.array(kept, np.int64)


def _cheapest(table: Sequence[_Options], price: float) -> list[int]:
    """The option of each tensor with the least loss + price * size; of equals the smaller."""
    return [int(np.argmin(losses + price * sizes)) for sizes, losses, _ in table]


def _total(table: Sequence[_Options], picks: Sequence[int]) -> tuple[int, float]:
    size = sum(int(sizes[k]) for (sizes, _, _), k in zip(table, picks, strict=True))
    return size, float(sum(losses[k] for (_, losses, _), k in zip(table, picks, strict=True)))


def _price(table: Sequence[_Options], budget: int) -> float:
    """The least price of a byte, in loss, at which the cheapest options fit: the maximum of the Lagrangian dual."""

    def fits(price: float) -> bool:
        return _total(table, _cheapest(table, price))[0] <= budget

    if fits(0.0):
        return 0.0
    steps = [np.diff(losses) / -np.diff(sizes) for sizes, losses, _ in table if len(sizes) > 1]
    low, high = 0.0, 2 * max(float(np.max(step)) for step in steps)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _bound(table: Sequence[_Options], price: float, budget: int) -> float:
    """No choice that fits has less loss than this (weak duality)."""
    return float(sum(np.min(losses + price * sizes) for sizes, losses, _ in table)) - price * budget


def _fill(table: Sequence[_Options], picks: Sequence[int], budget: int) -> list[int]:
    """Spends what is left on the steps that gain most a byte, while any fits."""
    filled = list(picks)
    left = budget - _total(table, filled)[0]
    while True:
        best_rate, best = 0.0, None
        for i, (sizes, losses, _) in enumerate(table):
            k = filled[i]
            growth = sizes[k + 1 :] - sizes[k]
            fitting = int(np.searchsorted(growth, left, side="right"))
            if fitting:
                rates = (losses[k] - losses[k + 1 : k + 1 + fitting]) / growth[:fitting]
                step = int(np.argmax(rates))
                if rates[step] > best_rate:
                    best_rate, best = float(rates[step]), (i, k + 1 + step)
        if best is None:
            return filled
        i, k = best
        left -= int(table[i][0][k] - table[i][0][filled[i]])
        filled[i] = k


def _search(
    table: Sequence[_Options], price: float, budget: int, incumbent: list[int], max_states: int
) -> tuple[list[int], bool]:
    """The best choice, and whether nothing was left out that might have been better."""
    target = _total(table, incumbent)[1] * (1 - TOLERANCE)
    # Loss + price * size of an option beyond the tensor's cheapest; a choice's loss is at least bound + the sum of
    # these + price * (bytes unspent), so that nothing with excess > slack can beat the incumbent.
    excesses = [losses + price * sizes - np.min(losses + price * sizes) for sizes, losses, _ in table]
    slack = target - _bound(table, price, budget)
    if slack <= 0:
        return incumbent, True
    allowed = [np.flatnonzero(excess <= slack) for excess in excesses]
    order = sorted(range(len(table)), key=lambda i: -len(allowed[i]))
    # Of the tensors still to come: the least bytes.
    rest = np.cumsum([int(table[i][0][allowed[i][0]]) for i in reversed(order)])[::-1]

    size, loss, excess = np.zeros(1, np.int64), np.zeros(1), np.zeros(1)
    history: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    exact = True
    for place, i in enumerate(order):
        sizes, losses, _ = table[i]
        k = allowed[i]
        after = int(rest[place + 1]) if place + 1 < len(rest) else 0
        new_size = (size[:, None] + sizes[k]).ravel()
        new_loss = (loss[:, None] + losses[k]).ravel()
        new_excess = (excess[:, None] + excesses[i][k]).ravel()
        keep = np.flatnonzero((new_size + after <= budget) & (new_excess <= slack))
        keep = keep[np.lexsort((new_loss[keep], new_size[keep]))]
        falling = np.minimum.accumulate(new_loss[keep])
        keep = keep[np.concatenate(([True], falling[1:] < falling[:-1]))] if keep.size else keep
        if keep.size > max_states:
            exact = False
            keep = np.sort(keep[np.argpartition(new_excess[keep], max_states)[:max_states]])
        size, loss, excess = new_size[keep], new_loss[keep], new_excess[keep]
        history.append((keep // len(k), k[keep % len(k)]))
    if not size.size or float(np.min(loss)) >= _total(table, incumbent)[1]:
        return incumbent, exact
    picks = [0] * len(table)
    state = int(np.argmin(loss))
    for i, (parents, options) in zip(reversed(order), reversed(history), strict=True):
        picks[i] = int(options[state])
        state = int(parents[state])
    return picks, exact
