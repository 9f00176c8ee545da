"""What `pygrok experts` found, as JSON and as text for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from pygrok.cli import ui
from pygrok.expert_profile import entropy, repeated, uses

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pygrok.expert_cache import HitCurve
    from pygrok.route_trace import RouteTrace

_SHADES = " ░▒▓█"
_SHARES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
NAMES = {"lru": "lru", "pygrok": "pygrok", "belady": "best"}


def as_dict(trace: RouteTrace, curves: list[HitCurve]) -> dict[str, Any]:
    """For `--json`. uses [layers][experts] in tokens, entropy_bits [layers], hit_rate [layers * experts + 1]."""
    header, counts = trace.header, uses(trace)
    same = repeated(trace)
    return {
        "model": header.model,
        "tokens": len(trace),
        "layers": header.layers,
        "experts": header.experts,
        "experts_used": header.used,
        "expert_bytes": header.expert_bytes,
        "always_bytes": header.always_bytes,
        "uses": counts.tolist(),
        "entropy_bits": entropy(counts).tolist(),
        "repeated": None if math.isnan(same) else same,
        "hit_rates": {
            NAMES[curve.policy]: {"references": curve.references, "hit_rate": curve.hit_rate.tolist()}
            for curve in curves
        },
    }


def print_all(trace: RouteTrace, curves: list[HitCurve]) -> None:
    """A table of use, then one of hit rates."""
    header, counts = trace.header, uses(trace)
    same = repeated(trace)
    used = f"{header.used} of {header.experts} experts in each of {header.layers} layers"
    pairs = [
        ("model", ui.harmless(header.model) or "-"),
        ("tokens", f"{len(trace)}, {used}"),
        ("one expert", ui.size(header.expert_bytes)),
    ]
    if not math.isnan(same):
        by_chance = header.used / header.experts
        pairs.append(("as the token before", f"{same:.0%} of the routes ({by_chance:.0%} by chance)"))
    ui.print_pairs(pairs)
    _print_use(counts)
    _print_rates(trace, curves)


def _print_use(counts: NDArray[np.int64]) -> None:
    layers, experts = counts.shape
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    most = max(float(shares.max()), 1e-9)
    print("\nUse: percent of a layer's routes by expert; entropy in bits")
    bits = entropy(counts)
    rows = []
    for layer in range(layers):
        cells = [
            f"{100 * share:.0f}{_SHADES[min(len(_SHADES) - 1, int(share / most * len(_SHADES)))]}"
            for share in shares[layer].tolist()
        ]
        rows.append([f"  {layer}", *cells, f"{bits[layer]:.2f}"])
    ui.print_table(["  layer", *(f"{e} " for e in range(experts)), f"of {math.log2(experts):.2f}"], rows)


def _print_rates(trace: RouteTrace, curves: list[HitCurve]) -> None:
    header = trace.header
    groups = header.layers * header.experts
    routed = header.layers * header.used * header.expert_bytes
    print("\nHit rate: the part of the routed experts found in memory, by how many are kept there")
    rows = []
    for share in _SHARES:
        rates = [curve.at(share) for curve in curves]
        ours = next(curve for curve in curves if curve.policy == "pygrok").at(share)
        rows.append(
            [
                f"  {share:.1%}",
                ui.size(share * groups * header.expert_bytes),
                ui.size(share * groups * header.expert_bytes + header.always_bytes),
                *(f"{rate:.1%}" for rate in rates),
                ui.size((1 - ours) * routed),
            ]
        )
    ui.print_table(
        ["  kept", "experts", "with the rest", *(NAMES[c.policy] for c in curves), "missed a token"], rows
    )
    print("  Cache of keys and values, buffers and the program come on top; missed: with pygrok's choice.")
    if curves[0].references == 0:
        print("  No expert was used twice: a longer trace would tell.")
