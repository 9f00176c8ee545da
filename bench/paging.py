#!/usr/bin/env python3
"""Decoding a model that is larger than the memory it may use, beside the disk's rate, Belady's choice and llama.cpp.

    sudo python bench/paging.py MODEL.gguf [SKEWED.gguf] [--ratios 1.7,3] [--peer-python PYTHON] [--json]
    sudo python bench/paging.py MODEL.gguf --soak 30

Makes memory control groups (version 1 or 2; needs root), throws the file out of the page cache, and decodes
pseudo-random ids in a process within the group, turn by turn with direct reads of the same file, which give the disk's
rate. Time to compute is that of the same tokens without a limit, before and after. The peer runs in a group of its own
with the same limit until its time is over. Models come from bench/synthetic.py; --skew there makes unequal use.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for interpreters that leave a script's folder out

from memory_group import MemoryGroup, drop_page_cache
from paging_process import Child, Sampler
from paging_report import report, report_soak

PEER_REPORT_TOKENS = 16


def disk_rate(path: Path) -> float:
    """Bytes per second of large direct reads, now."""
    from pygrok.disk import measure_disk

    found = measure_disk(path, 1.0)
    if found.read is None:
        raise SystemExit(f"bench/paging.py: {found.about}")
    return found.read


def compute_seconds(model: Path, args: argparse.Namespace) -> float:
    """Of a token, all weights in memory and no limit: the median."""
    with Child("pygrok", sys.executable, model, {"threads": args.threads, "expert_io": "map"}) as child:
        child.ask({"phase": "decode", "tokens": args.tokens, "seed": 0})  # brings the experts in
        return statistics.median(child.ask({"phase": "decode", "tokens": args.tokens, "seed": 0})["seconds"])


def measure(model: Path, ratio: float, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One model, `ratio` times the limit."""
    size = model.stat().st_size
    limit = round(size / ratio)
    compute = [compute_seconds(model, args)] if args.compute else []
    left = drop_page_cache(model)
    trace = folder / "routes"
    options = {
        "threads": args.threads, "context": 512, "trace": str(trace), "expert_io": args.expert_io, **args.options
    }  # fmt: skip
    turns: list[dict[str, float]] = []
    totals: dict[str, float] = {}
    with MemoryGroup("pygrok-bench", limit) as group:
        with (
            Child("pygrok", sys.executable, model, options, group) as child,
            Sampler(child, group) as sampler,
        ):
            for warm in range(args.warm):  # fills the pool
                child.ask({"phase": "decode", "tokens": 1, "seed": 1000 + warm})
            for repeat in range(args.repeats):
                disk = disk_rate(model)
                got = child.ask({"phase": "decode", "tokens": args.tokens, "seed": repeat})
                disk = (disk + disk_rate(model)) / 2
                paging = got["paging"]
                for name, value in paging.items():
                    if isinstance(value, int | float) and not isinstance(value, bool):
                        totals[name] = totals.get(name, 0) + value
                missed = (paging["bytes_needed"] - paging["bytes_hit"]) / args.tokens
                turns.append(
                    {
                        "seconds": sum(got["seconds"]) / args.tokens,
                        "missed_bytes": missed,
                        "read_bytes": paging["bytes_read"] / args.tokens,
                        "disk_rate": disk,
                        "disk_seconds": missed / disk,
                    }
                )
            hello = child.hello
        figures = group.figures()
    if args.compute:
        compute.append(compute_seconds(model, args))
    floor = statistics.mean(compute) if compute else 0.0
    for turn in turns:
        turn["times_floor"] = turn["seconds"] / max(turn["disk_seconds"], floor)
    medians = {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}
    result: dict[str, Any] = {
        "model": str(model),
        "file_bytes": size,
        "limit_bytes": limit,
        "ratio": ratio,
        "cached_before": left,
        "tokens": args.tokens,
        "load_seconds": hello["load_seconds"],
        "paging": {k: v for k, v in hello["paging"].items() if not isinstance(v, float)},
        "compute_seconds": floor,
        **medians,
        "turns": turns,
        "read_over_missed": totals["bytes_read"] / max(1, totals["bytes_needed"] - totals["bytes_hit"]),
        "hit_rate": totals["bytes_hit"] / max(1, totals["bytes_needed"]),
        "prediction_accuracy": totals["predictions_right"] / max(1, totals["predictions"]),
        "process": sampler.peaks,
        "group": figures,
        **routing(trace, hello["paging"], args.warm),
    }
    if args.peer_python:
        result["peer"] = peer(model, limit, args)
        result["times_peer"] = result["peer"]["seconds"] / result["seconds"]
    return result


def routing(trace: Path, paging: dict[str, Any], warm: int) -> dict[str, Any]:
    """How experts were used, and what other policies would have had in memory, the warm-up filling it uncounted."""
    from pygrok.expert_cache import POLICIES, hit_curve
    from pygrok.expert_profile import uses
    from pygrok.route_trace import read_trace

    held = read_trace(trace)
    counts = uses(held)
    shares = counts / counts.sum(axis=1, keepdims=True)
    kept = min(1.0, paging["pool_bytes"] / (held.header.expert_bytes * counts.size))
    return {
        "experts_kept_share": kept,
        "use_shares": shares.round(4).tolist(),
        "simulated": {policy: hit_curve(held, policy, skip=warm, cold=True).at(kept) for policy in POLICIES},
    }


def peer(model: Path, limit: int, args: argparse.Namespace) -> dict[str, Any]:
    """llama.cpp under the same limit, as far as it comes in its time: at best so many seconds a token."""
    left = drop_page_cache(model)
    begin = time.perf_counter()
    seconds: list[float] = []
    with MemoryGroup("pygrok-bench-peer", limit) as group:
        with Child("llama", args.peer_python, model, {"threads": args.threads}, group) as child:
            end = time.perf_counter() + args.peer_seconds
            if child.hello is not None:
                child.tell({"phase": "decode", "tokens": PEER_REPORT_TOKENS, "seed": 0})
                while len(seconds) < PEER_REPORT_TOKENS:
                    got = child.next(end - time.perf_counter())
                    if got is None:
                        break
                    seconds += got["seconds"]
        figures = group.figures()
    waited = time.perf_counter() - begin
    finished = len(seconds) == PEER_REPORT_TOKENS
    # Unfinished: the time that has passed for the tokens that came and the one that did not, a lower bound.
    mean = statistics.median(seconds[1:] or seconds) if finished else waited / (len(seconds) + 1)
    return {
        "finished": finished, "tokens": len(seconds), "seconds": mean, "waited": waited, "turns": seconds,
        "cached_before": left, "group": figures,
    }  # fmt: skip


def soak(model: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Decoding and prefill for minutes at a limit a little above what must stay; memory is sampled all the time."""
    from pygrok._core import GgufFile
    from pygrok.footprint import footprint
    from pygrok.forecast import weights_of

    weights = weights_of(footprint(GgufFile(str(model))))
    limit = weights.file_bytes - weights.expert_bytes + round(args.above * 1e9)
    drop_page_cache(model)
    options = {"threads": args.threads, "context": 2048, "expert_io": args.expert_io, **args.options}
    decode: list[float] = []
    prefills, seed = 0, 0
    error = None
    end = time.perf_counter() + 60 * args.soak
    with MemoryGroup("pygrok-soak", limit) as group:
        with (
            Child("pygrok", sys.executable, model, options, group) as child,
            Sampler(child, group) as sampler,
        ):
            try:
                while time.perf_counter() < end:
                    seed += 1
                    if seed % 16 == 0:
                        child.ask(
                            {
                                "phase": "prefill",
                                "tokens": 64 + 40 * (seed // 16 % 10),
                                "seed": seed,
                                "apart": False,
                            }
                        )
                        prefills += 1
                    decode += child.ask({"phase": "decode", "tokens": 4, "seed": seed, "apart": False})[
                        "seconds"
                    ]
            except (EOFError, BrokenPipeError) as stop:
                error = f"the process ended: {stop}"
            paging = child.hello["paging"]
        figures = group.figures()
    third = max(1, len(decode) // 3)
    anonymous_and_mapped = sampler.peaks["resident_bytes"]
    kept = error is None and figures["kills"] == 0 and anonymous_and_mapped <= limit
    return {
        "model": str(model),
        "limit_bytes": limit,
        "always_bytes": weights.file_bytes - weights.expert_bytes,
        "minutes": args.soak,
        "tokens": len(decode),
        "prefills": prefills,
        "seconds_per_token_first_third": statistics.median(decode[:third]) if decode else None,
        "seconds_per_token_last_third": statistics.median(decode[-third:]) if decode else None,
        "process": sampler.peaks,
        "group": figures,
        "paging": paging,
        "error": error,
        "passed": kept and len(decode) > 0,
    }


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--ratios", default="1.7,3", help="file sizes in limits, comma-separated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=8, help="decoded in each turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--warm", type=int, default=8, help="tokens before the first turn")
    parser.add_argument("--expert-io", default="auto", help="as pygrok's option")
    parser.add_argument(
        "--options",
        type=json.loads,
        default={},
        help='more arguments of pygrok.load as JSON: {"lookahead": 0}',
    )
    parser.add_argument(
        "--no-compute", dest="compute", action="store_false", help="leave out the run without a limit"
    )
    parser.add_argument("--peer-python", help="an interpreter that has llama-cpp-python")
    parser.add_argument("--peer-seconds", type=float, default=120, help="time that the peer gets")
    parser.add_argument(
        "--soak", type=float, metavar="MINUTES", help="run the first model for so long instead"
    )
    parser.add_argument("--above", type=float, default=1.2, help="GB above what must stay, for --soak")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    try:
        if args.soak is not None:
            found = soak(args.models[0], args)
            print(json.dumps(found)) if args.json else report_soak(found)
            sys.exit(not found["passed"])
        with tempfile.TemporaryDirectory() as folder:
            results = [
                measure(model, float(ratio), args, Path(folder))
                for model in args.models
                for ratio in args.ratios.split(",")
            ]
    except OSError as error:
        sys.exit(f"bench/paging.py: {error}")
    print(json.dumps(results)) if args.json else report(results)


if __name__ == "__main__":
    main()
