"""Tables of what bench/paging.py found."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def report(results: list[dict[str, Any]]) -> None:
    for r in results:
        paging = r["paging"]
        shares = [share for layer in r["use_shares"] for share in layer]
        print(
            f"{Path(r['model']).name}, {r['file_bytes'] / 1e9:.2f} GB, limit {r['limit_bytes'] / 1e9:.2f} GB "
            f"(1/{r['ratio']:g}), {paging['mode']} (chosen by {paging['chosen_by']}), "
            f"{r['experts_kept_share']:.0%} of the experts kept; an expert takes {min(shares):.1%} to "
            f"{max(shares):.1%} of its layer's routes; load {r['load_seconds']:.1f} s"
        )
    print()
    print("| | " + " | ".join(f"{Path(r['model']).stem} 1/{r['ratio']:g}" for r in results) + " |")
    print("|---|" + "---:|" * len(results))
    lines = {
        "time a token": lambda r: f"{r['seconds']:.3f} s",
        "missed bytes / disk rate": lambda r: f"{r['disk_seconds']:.3f} s",
        "computing, all in memory": lambda r: f"{r['compute_seconds']:.3f} s",
        "time / the longer of both": lambda r: f"{r['times_floor']:.2f}",
        "missed a token": lambda r: f"{r['missed_bytes'] / 1e6:.0f} MB",
        "read / missed": lambda r: f"{r['read_over_missed']:.3f}",
        "disk, direct reads": lambda r: f"{r['disk_rate'] / 1e9:.2f} GB/s",
        "hit rate": lambda r: f"{r['hit_rate']:.1%}",
        "simulated as the engine does": lambda r: f"{r['simulated']['pygrok']:.1%}",
        "least recently used": lambda r: f"{r['simulated']['lru']:.1%}",
        "best possible (Belady)": lambda r: f"{r['simulated']['belady']:.1%}",
        "predictions right": lambda r: f"{r['prediction_accuracy']:.1%}",
        "peak anonymous + mapped": lambda r: f"{r['process']['resident_bytes'] / 1e9:.2f} GB",
        "peak of the group, page cache included": lambda r: f"{r['group']['peak_bytes'] / 1e9:.2f} GB",
        "killed for want of memory": lambda r: str(r["group"]["kills"]),
    }
    if all("peer" in r for r in results):
        lines["llama.cpp, time a token"] = _peer
        lines["llama.cpp / pygrok"] = lambda r: (
            f"{'' if r['peer']['finished'] else '> '}{r['times_peer']:.1f}"
        )
    for name, cell in lines.items():
        print(f"| {name} | " + " | ".join(cell(r) for r in results) + " |")


def _peer(r: dict[str, Any]) -> str:
    peer = r["peer"]
    if peer["finished"]:
        return f"{peer['seconds']:.2f} s"
    return f"> {peer['seconds']:.0f} s ({peer['tokens']} tokens in {peer['waited']:.0f} s)"


def report_soak(r: dict[str, Any]) -> None:
    gb = 1e9
    print(
        f"{Path(r['model']).name}: limit {r['limit_bytes'] / gb:.2f} GB, {r['always_bytes'] / gb:.2f} GB of it always "
        f"in use, {r['minutes']:g} minutes: {r['tokens']} tokens, {r['prefills']} prefills"
    )
    if r["tokens"]:
        print(
            f"seconds a token: {r['seconds_per_token_first_third']:.3f} in the first third, "
            f"{r['seconds_per_token_last_third']:.3f} in the last"
        )
    print(
        f"peak anonymous + mapped {r['process']['resident_bytes'] / gb:.3f} GB ({r['process']['samples']} samples), "
        f"swapped {r['process']['swapped_bytes'] / gb:.3f} GB; group {r['group']['peak_bytes'] / gb:.3f} GB, "
        f"kills {r['group']['kills']}"
    )
    print("passed" if r["passed"] else f"FAILED: {r['error'] or 'beyond the limit, or killed'}")
