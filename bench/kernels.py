"""How fast the matmul kernels run on Grok-1's widths, held against the machine's limits of the same moment.

    python bench/kernels.py --types q4_0,q8_0 --isas avx2,avx512_vnni --tokens 1,4,64 --threads 2 [--json]

For one token: GB/s of weights, and percent of the bandwidth at which the same threads read a mapped file of
the same size. For more: GOP/s (2 per multiply-add) and percent of the rate that the table's dot product
reaches in registers (for float weights that rate is no limit: no percent is given). Limits are measured
right before and after each kernel, since a shared machine drifts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pygrok import _core

# Short windows, of which the best counts, as with the kernels: a long one is always disturbed.
WINDOW = 0.004
WINDOWS = 10
ROWS_FOR_MANY = 2048  # tokens above 16
MANY_TOKENS = 16  # from here on the engine takes the kernel for many tokens

# Where blocks keep their f16 scale and minimum, if not in their first two bytes alone.
HALVES_AT = {
    **dict.fromkeys(["q4_1", "q5_1", "q4_k", "q5_k"], (0, 2)),
    **{"q2_k": (80, 82), "q3_k": (108,), "q6_k": (208,), "tq1_0": (52,), "tq2_0": (64,)},
}


@dataclass(frozen=True)
class Measurement:
    type: str
    isa: str
    tokens: int
    gb_per_s: float  # weights
    gop_per_s: float
    bandwidth_percent: float
    dot_percent: float | None  # of quantized types


def random_weights(kind: str, rows: int, columns: int) -> NDArray[np.uint8]:
    """Rows of valid blocks: random values and scales near 1/columns."""
    rng = np.random.default_rng(0)
    if kind in ("f32", "f16", "bf16"):
        values = rng.standard_normal((rows, columns), dtype=np.float32)
        return _core.quantize_rows(kind, values, 0)
    _, values_per_block, block_bytes = _core.tensor_types()[kind]
    data = rng.integers(0, 256, (rows, columns // values_per_block, block_bytes), dtype=np.uint8)
    if kind == "mxfp4":
        data[:, :, 0] = 115
    elif kind == "iq1_m":
        data[:, :, 49::2] &= 0x0F  # the nibbles of the scale: 2^-11
        data[:, :, 55] |= 0x10
    else:
        for at in HALVES_AT.get(kind, (0,)):
            data[:, :, at : at + 2] = np.array([1 / columns], np.float16).view(np.uint8)
    return data.reshape(rows, -1)


def measure(
    kind: str,
    isa: str,
    tokens: int,
    weights: NDArray[np.uint8],
    x: NDArray[np.float32],
    file: str,
    threads: int,
    seconds: float,
) -> Measurement:
    def limits() -> tuple[float, float]:
        return (
            _core.read_bandwidth(file, 0, weights.nbytes, threads),
            max(_core.dot_rate(threads, isa, WINDOW) for _ in range(WINDOWS)),
        )

    many = tokens >= MANY_TOKENS and _core.kernels.has_many(kind, isa)

    def run(repeats: int) -> float:
        return _core.kernels.time_matmul(kind, weights, x, isa, threads, repeats, many) / repeats

    once = run(1)
    before = limits()
    best = min(run(1) for _ in range(max(3, min(50, int(seconds / once)))))
    after = limits()
    bandwidth = max(before[0], after[0])
    rate = max(before[1], after[1])
    operations = 2.0 * weights.shape[0] * x.shape[1] * tokens / best
    return Measurement(
        type=kind,
        isa=isa,
        tokens=tokens,
        gb_per_s=weights.nbytes / best / 1e9,
        gop_per_s=operations / 1e9,
        bandwidth_percent=100 * weights.nbytes / best / bandwidth,
        dot_percent=100 * operations / rate if kind not in ("f32", "f16", "bf16") else None,
    )


def measurements(args: argparse.Namespace) -> Iterator[Measurement]:
    rng = np.random.default_rng(1)
    for kind in args.types:
        weights = random_weights(kind, args.rows, args.columns)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "weights")
            weights.tofile(file)
            for isa in args.isas:
                for tokens in args.tokens:
                    x = rng.standard_normal((tokens, args.columns), dtype=np.float32)
                    part = weights if tokens <= 16 else weights[:ROWS_FOR_MANY]
                    yield measure(kind, isa, tokens, part, x, str(file), args.threads, args.seconds)


def names(text: str) -> list[str]:
    return text.split(",")


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--types", type=names, default=_core.runnable_types())
    parser.add_argument("--isas", type=names, default=_core.supported_isas())
    parser.add_argument("--tokens", type=numbers, default=[1, 2, 4, 8, 16, 64, 512])
    parser.add_argument("--rows", type=int, default=8192, help="of Grok-1's 32768 or 6144")
    parser.add_argument("--columns", type=int, default=6144)
    parser.add_argument("--threads", type=int, default=_core.available_cpus())
    parser.add_argument("--seconds", type=float, default=0.5, help="for each kernel")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    args = parser.parse_args()
    if not args.json:
        print(f"{'type':8}{'isa':13}{'tokens':>7}{'GB/s':>8}{'% read':>8}{'GOP/s':>9}{'% dots':>8}")
    for m in measurements(args):
        if args.json:
            print(json.dumps(asdict(m)), flush=True)
            continue
        percent = "" if m.dot_percent is None else f"{m.dot_percent:.0f}"
        print(
            f"{m.type:8}{m.isa:13}{m.tokens:7}{m.gb_per_s:8.1f}{m.bandwidth_percent:8.0f}"
            f"{m.gop_per_s:9.0f}{percent:>8}",
            flush=True,
        )


if __name__ == "__main__":
    main()
