"""How fast tensors of Grok-1's widths are quantized, beside llama.cpp's quantizer: same rows, importance and run.

    python bench/quantize_speed.py --threads 2 [--types q4_k,q6_k] [--repeats 5] [--json]

Rows are slices of a gate matrix (6144 values) and of a down matrix (32768), normal with a few outliers. Both are timed
in turn, and the medians count. Needs llama-cpp-python.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import llama_peer
import numpy as np
from numpy.typing import NDArray

from pygrok import _core

Floats = NDArray[np.float32]

WIDTHS = {6144: 512, 32768: 96}  # values of a row: rows
# llama.cpp manages a million values a second with these, so they get fewer rows.
SLOW = {"iq2_xxs": 8, "iq2_xs": 16, "iq2_s": 24, "iq3_xxs": 4, "iq3_s": 4}


@dataclass(frozen=True)
class Speed:
    """Medians; MB are of float32 values read."""

    type: str
    ours_mb_s: float
    theirs_mb_s: float
    ratio: float
    ours_error: float
    theirs_error: float


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def tensor_set(divide: int) -> list[tuple[Floats, Floats]]:
    """Rows and the importance of their columns."""
    rng = np.random.default_rng(1)
    pairs = []
    for width, rows in WIDTHS.items():
        x = rng.standard_normal((max(32, rows // divide), width), dtype=np.float32) / np.sqrt(
            np.float32(width)
        )
        x *= np.where(rng.random(x.shape) < 1e-3, np.float32(6), np.float32(1))
        pairs.append((x, np.exp(rng.standard_normal(width)).astype(np.float32)))
    return pairs


def weighted_error(type: str, pairs: list[tuple[Floats, Floats]], blocks: list[NDArray[np.uint8]]) -> float:
    """sqrt(sum w (x - q)^2 / sum w x^2)."""
    lost = total = 0.0
    for (x, w), data in zip(pairs, blocks, strict=True):
        off = _core.dequantize_rows(type, data, x.shape[1]) - x
        lost += float(np.sum(off * off * w, dtype=np.float64))
        total += float(np.sum(x * x * w, dtype=np.float64))
    return float(np.sqrt(lost / total))


def measure(type: str, threads: int, repeats: int) -> Speed:
    pairs = tensor_set(SLOW.get(type, 1))

    def ours() -> list[NDArray[np.uint8]]:
        return [_core.quantize_rows(type, x, threads, w) for x, w in pairs]

    def theirs() -> list[NDArray[np.uint8]]:
        return [llama_peer.quantize_rows(type, x, w, threads) for x, w in pairs]

    errors = [weighted_error(type, pairs, quantize()) for quantize in (ours, theirs)]  # also warms both up
    times = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    megabytes = sum(x.nbytes for x, _ in pairs) / 1e6
    mine, peer = (statistics.median(t[i] for t in times) for i in (0, 1))
    return Speed(type, megabytes / mine, megabytes / peer, peer / mine, *errors)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--types", default=",".join(llama_peer.PURE), help="comma-separated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = [measure(type, args.threads, args.repeats) for type in args.types.split(",")]
    if args.json:
        print(json.dumps([asdict(result) for result in results]))
        return
    print("| type | pygrok MB/s | llama.cpp MB/s | ratio | relative error | llama.cpp's |")
    print("|---|---:|---:|---:|---:|---:|")
    for r in results:
        print(
            f"| {r.type} | {r.ours_mb_s:.0f} | {r.theirs_mb_s:.1f} | {r.ratio:.1f} "
            f"| {r.ours_error:.5f} | {r.theirs_error:.5f} |"
        )


if __name__ == "__main__":
    main()
