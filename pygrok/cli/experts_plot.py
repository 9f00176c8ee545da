"""The picture of `pygrok experts --plot`: use by layer and expert, hit rate by memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pygrok.cli.experts_output import NAMES
from pygrok.expert_profile import uses
from pygrok.files import replacing

if TYPE_CHECKING:
    from pygrok.expert_cache import HitCurve
    from pygrok.route_trace import RouteTrace


def draw(trace: RouteTrace, curves: list[HitCurve], path: Path) -> None:
    """Write it, in the format that the name ends in. Raises OSError."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    header = trace.header
    counts = uses(trace)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(11, max(4.0, min(14.0, 1.5 + 0.16 * header.layers))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.4))
    image = left.imshow(shares, aspect="auto", cmap="viridis", vmin=0)
    left.set(xlabel="expert", ylabel="layer", title=f"Use over {len(trace)} tokens")
    left.set_xticks(range(header.experts))
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=left, label="% of the layer's routes")
    sizes = np.arange(header.layers * header.experts + 1) * header.expert_bytes
    unit, name = (2**30, "GiB") if sizes[-1] >= 2**30 else (2**20, "MiB")
    for curve in curves:
        right.plot(sizes / unit, 100 * curve.hit_rate, label=NAMES[curve.policy])
    right.set(
        xlabel=f"memory for experts ({name})",
        ylabel="found in memory (% of the routed experts)",
        title=f"Hit rate; {header.always_bytes / unit:.2f} {name} for the rest come on top",
        xlim=(0, max(sizes[-1] / unit, 1e-3)),
        ylim=(0, 101),
    )
    right.grid(alpha=0.3)
    right.legend()
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:].lower(), dpi=120)
