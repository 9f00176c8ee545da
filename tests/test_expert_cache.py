"""One replay gives what a cache of every size would have held: against caches simulated one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from routing_traces import HEADER, skewed_trace, trace_of

from pygrok.expert_cache import POLICIES, hit_curve
from pygrok.route_trace import NOT_ROUTED, RouteTrace, TraceHeader

HALF_LIVES = (2.0, 9.0)


def distances(trace: RouteTrace) -> list[dict[tuple[int, int], float]]:
    """After each step (token, layer): how far off each expert is expected, by the rule's words."""
    layers, experts = trace.header.layers, trace.header.experts
    groups = [(layer, e) for layer in range(layers) for e in range(experts)]
    shares = {half_life: dict.fromkeys(groups, 0.25) for half_life in HALF_LIVES}
    losses = dict.fromkeys(HALF_LIVES, 0.0)
    result = []
    for token in range(len(trace)):
        for layer in range(layers):
            used = {int(e) for e in trace.experts[token, layer]} - {NOT_ROUTED}
            tokens = 4 + int((trace.experts[:token, layer, 0] != NOT_ROUTED).sum())
            for half_life, share in shares.items():
                if not used:
                    continue
                losses[half_life] *= 2 ** (-1 / (64 * layers))
                keep = min(2 ** (-1 / half_life), tokens / (tokens + 1))
                for e in range(experts):
                    p = min(max(share[layer, e], 0.02), 0.98)
                    losses[half_life] -= math.log(p if e in used else 1 - p) / layers
                    share[layer, e] = keep * share[layer, e] + (1 - keep) * (e in used)
            weights = {h: math.exp(min(losses.values()) - loss) for h, loss in losses.items()}
            mixed = {
                g: sum(weights[h] * shares[h][g] for h in HALF_LIVES) / sum(weights.values()) for g in groups
            }
            result.append(
                {
                    (other, e): ((other - layer - 1) % layers + 1) + (1 / max(p, 1e-4) - 1) * layers
                    for (other, e), p in mixed.items()
                }
            )
    return result


def simulated(trace: RouteTrace, policy: str, size: int) -> int:
    """Hits of a cache of this many experts, kept as a set."""
    layers = trace.header.layers
    steps = [
        (token, layer, sorted({(layer, int(e)) for e in trace.experts[token, layer]} - {(layer, NOT_ROUTED)}))
        for token in range(len(trace))
        for layer in range(layers)
    ]
    order = [group for *_, step in steps for group in step]
    expected = distances(trace) if policy == "pygrok" else []
    cache: set[tuple[int, int]] = set()
    last: dict[tuple[int, int], int] = {}
    hits = at = 0

    def priority(group: tuple[int, int], now: int, step: int) -> tuple[float, int]:
        if policy == "lru":
            return last[group], 0
        if policy == "pygrok":
            return -round(expected[step][group], 6), last[group]
        return -next((i for i in range(now, len(order)) if order[i] == group), len(order)), 0

    for number, (_, _, step) in enumerate(steps):
        hits += len(cache & set(step))
        for group in step:
            last[group] = at
            at += 1
            cache.add(group)
            if len(cache) > size:
                cache.remove(min(sorted(cache), key=lambda g: priority(g, at, number)))
    return hits


def random_trace(seed: int, tokens: int, missing: bool) -> RouteTrace:
    trace = skewed_trace(tokens, skew=0.7, seed=seed)
    if missing:
        trace.experts[np.random.default_rng(seed).random(tokens) < 0.3, -1] = NOT_ROUTED
    return trace


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_size_is_that_of_a_cache_alone(policy: str, missing: bool) -> None:
    for seed in range(4):
        trace = random_trace(seed, 40, missing)
        curve = hit_curve(trace, policy, half_lives=HALF_LIVES, cold=True)
        counted = np.count_nonzero(trace.experts != NOT_ROUTED)
        assert curve.references == counted
        for size in range(1, HEADER.layers * HEADER.experts + 1):
            assert round(curve.hit_rate[size] * counted) == simulated(trace, policy, size), (seed, size)


ONE_LAYER = TraceHeader("one layer", "", 1, 12, 1, 1, 1)


@given(st.lists(st.integers(0, 11), min_size=1, max_size=60), st.sampled_from(POLICIES), st.integers(1, 12))
def test_one_layer_is_that_of_a_cache_alone(used: list[int], policy: str, size: int) -> None:
    trace = trace_of(np.array(used).reshape(-1, 1, 1), ONE_LAYER)
    curve = hit_curve(trace, policy, half_lives=HALF_LIVES, cold=True)
    assert round(curve.hit_rate[size] * len(used)) == simulated(trace, policy, size)


def test_what_was_used_often_long_ago_is_kept_by_a_long_memory() -> None:
    trace = trace_of(np.array([0] * 9 + [1, 2, 1, 2, 0]).reshape(-1, 1, 1), ONE_LAYER)
    assert hit_curve(trace, "pygrok", half_lives=(1e6,), cold=True).hit_rate[1] == 9 / 14
    assert hit_curve(trace, "pygrok", half_lives=(1,), cold=True).hit_rate[1] == 8 / 14


def test_larger_caches_hold_more_and_none_beats_belady() -> None:
    trace = skewed_trace(300)
    curves = {policy: hit_curve(trace, policy, half_lives=(30,)) for policy in POLICIES}
    for curve in curves.values():
        assert curve.hit_rate[0] == 0
        assert curve.hit_rate[-1] == 1  # first uses are not counted
        assert (np.diff(curve.hit_rate) >= 0).all()
        assert (curve.hit_rate <= curves["belady"].hit_rate + 1e-12).all()
        assert curve.references == 300 * HEADER.layers * HEADER.used - HEADER.layers * HEADER.experts
    # Layers come round and round, which is the worst for recency.
    assert curves["pygrok"].at(0.4) > curves["lru"].at(0.4) + 0.1


def test_uniform_use_hits_with_the_part_that_is_held() -> None:
    trace = skewed_trace(3000, skew=0.0)
    assert hit_curve(trace, "pygrok", half_lives=(200,)).at(0.5) == pytest.approx(0.5, abs=0.05)


def test_skipped_rows_fill_the_cache_uncounted() -> None:
    seen: list[int] = []
    trace = skewed_trace(50)
    curve = hit_curve(trace, "lru", skip=40, cold=True, progress=seen.append)
    assert curve.references == 10 * HEADER.layers * HEADER.used
    assert curve.hit_rate[-1] == 1
    assert seen[-1] == 50
    assert hit_curve(trace_of(np.empty((0, 3, 2))), "belady").references == 0


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'fifo': choose lru, pygrok, belady"):
        hit_curve(skewed_trace(2), "fifo")
