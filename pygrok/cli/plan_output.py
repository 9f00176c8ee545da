"""The forecasts of `pygrok plan` as JSON, and as text for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pygrok.cli import ui

if TYPE_CHECKING:
    from pygrok.cli.plan import Measured
    from pygrok.forecast import ModelWeights, Streamed

# Tokens in the cache when the speeds hold; the whole context of Grok-1 takes 4 % more bytes a token at q4_0.
_SPEED_POSITIONS = 512
# Below this, starting threads takes longer than reading weights.
_SMALL_TOKEN_BYTES = 128 << 20
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def machine(measured: Measured) -> dict[str, Any]:
    """For `--json`. Bytes, bytes per second; null: not known."""
    return {
        "threads": measured.threads,
        "isa": measured.isa,
        "memory": measured.memory._asdict(),
        "bandwidth": measured.machine.bandwidth,
        "bandwidth_about": measured.bandwidth_about,
        "decode_bytes_per_second": dict(measured.machine.decode),
        "disk_read": measured.disk.read,
        "disk_write": measured.disk.write,
        "disk_about": measured.disk.about,
        "disk_free_bytes": measured.free_disk,
    }


def forecast(weights: ModelWeights, measured: Measured, kv_width: float, context: int) -> dict[str, Any]:
    """All that is foretold of one model, with a cache for `context` positions of numbers of `kv_width` bytes."""
    from pygrok import forecast as f

    here = measured.machine
    kv_bytes = int(weights.kv_values * kv_width * context)
    kv_read = int(weights.kv_values * kv_width * min(context, _SPEED_POSITIONS))
    fits = f.fits(weights, here, kv_bytes)
    least = f.memory_to_stream(weights, kv_bytes)
    result: dict[str, Any] = {
        "name": weights.name,
        "file_bytes": weights.file_bytes,
        "always_bytes_per_token": weights.always_bytes,
        "expert_bytes_per_token": weights.routed_bytes,
        "context": context,
        "kv_bytes": kv_bytes,
        "memory_needed": f.memory_for_all(weights, kv_bytes),
        "memory_needed_to_stream": least,
        "fits": fits,
        "runs": fits or least <= here.memory,
        "resident_tokens_per_second": 1 / f.compute_seconds(weights, here, kv_read),
        "needs_importance": weights.needs_importance,
    }
    if here.disk is None:
        return result
    result["load_seconds"] = min(weights.file_bytes, here.memory) / here.disk
    result["first_token_seconds"] = (weights.always_bytes + weights.routed_bytes) / here.disk
    result["streamed"] = [_plain(f.streamed(weights, here, rate, kv_read)) for rate in f.HIT_RATES]
    if not fits and least <= here.memory:
        # At the positions that the speeds hold for.
        rates = {
            "uniform": f.uniform_hit_rate(weights, here, kv_read),
            "skewed": f.skewed_hit_rate(weights, here, kv_read),
        }
        result["here"] = {
            name: _plain(f.streamed(weights, here, rate, kv_read)) for name, rate in rates.items()
        }
    if measured.conversion:
        write = measured.disk.write or here.disk
        computing, copying = f.conversion_seconds(weights, measured.conversion, here.disk, write)
        result["conversion"] = {
            "source_bytes": f.RELEASE_BYTES,
            "disk_bytes": f.RELEASE_BYTES + weights.file_bytes,
            "computing_seconds": computing,
            "disk_seconds": copying,
            "seconds": max(computing, copying),
        }
    return result


def _plain(streamed: Streamed | None) -> dict[str, float]:
    return {} if streamed is None else asdict(streamed)


def print_machine(measured: Measured) -> None:
    """What the forecasts rest on."""
    from pygrok.memory import usable

    memory, here = measured.memory, measured.machine
    disk = "-" if here.disk is None else f"{ui.scaled(here.disk, 'B/s')} read"
    if measured.disk.write is not None:
        disk += f", {ui.scaled(measured.disk.write, 'B/s')} written"
    kernels = ", ".join(f"{name} {ui.scaled(rate, 'B/s')}" for name, rate in here.decode.items())
    available = "as given" if memory.limit == "as given" else f"of {ui.size(memory.total)}, {memory.limit}"
    print("Machine")
    ui.print_pairs(
        [
            (
                "memory",
                f"{ui.size(memory.available)} ({available}), {ui.size(usable(memory.available))} for a model",
            ),
            ("bandwidth", f"{ui.scaled(here.bandwidth, 'B/s')} ({measured.bandwidth_about})"),
            ("decoding", f"{kernels} ({measured.threads} threads, {measured.isa})"),
            ("disk", f"{disk} ({measured.disk.about})"),
        ],
        indent="  ",
    )


def print_one(result: dict[str, Any], measured: Measured) -> None:
    """Everything about one model."""
    print(f"\n{ui.harmless(result['name'])}")
    cache = f"{ui.size(result['kv_bytes'])} for {result['context']} positions"
    pairs = [
        ("file", _both(result["file_bytes"])),
        ("per token", f"{_both(_per_token(result))} read: {_both(result['always_bytes_per_token'])} always,"),
        ("", f"{_both(result['expert_bytes_per_token'])} of routed experts"),
        ("cache", f"{cache}, {ui.size(result['kv_bytes'] / max(result['context'], 1) * 1024)} for 1024"),
        ("fits", _verdict(result)),
        ("in memory", f"{ui.scaled(result['resident_tokens_per_second'])} tokens/s"),
    ]
    if "here" in result:
        pairs += [(f"here, {name}", _streamed(part)) for name, part in result["here"].items()]
    if "load_seconds" in result:
        first, all_ = duration(result["first_token_seconds"]), duration(result["load_seconds"])
        pairs.append(("load", f"at once; from a cold disk {first} to the first token, {all_} to fill memory"))
    if "conversion" in result:
        pairs += _conversion(result, measured)
    ui.print_pairs(pairs, indent="  ")
    if "streamed" in result:
        print("\nExperts streamed from the disk, at best, by the part of them that is found in memory")
        ui.print_table(
            ["  found", "read per token", "tokens/s"],
            [
                [
                    f"  {part['hit_rate']:.0%}",
                    ui.size(part["missed_bytes"]),
                    ui.scaled(part["tokens_per_second"]),
                ]
                for part in result["streamed"]
            ],
        )
    _print_notes(result)


def print_many(results: list[dict[str, Any]], measured: Measured) -> None:
    """One line for each model."""
    print()
    ui.print_table(
        ["model", "file", "read/token", "fits", "in memory", "here, uniform", "skewed"],
        [
            [
                result["name"],
                f"{result['file_bytes'] / 1e9:.0f} GB",
                f"{_per_token(result) / 1e9:.1f} GB",
                "yes" if result["fits"] else "no",
                f"{ui.scaled(result['resident_tokens_per_second'])} tokens/s",
                *(_short(result, kind) for kind in ("uniform", "skewed")),
            ]
            for result in results
        ],
    )
    print(f"\nDisk: {ui.size(measured.free_disk)} free; `--type NAME` alone tells more of one.")
    _print_notes(*results)


def duration(seconds: float) -> str:
    """As in `40 ms`, `45 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    for limit, unit, name in ((2 * _MINUTE, 1, "s"), (2 * _HOUR, _MINUTE, "min"), (2 * _DAY, _HOUR, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{1 if seconds / unit < 10 else 0}f} {name}"
    return f"{seconds / _DAY:.1f} days"


def _both(count: float) -> str:
    """Disks are sold in powers of ten, memory in powers of two."""
    return f"{ui.scaled(count, 'B')} ({ui.size(count)})"


def _per_token(result: dict[str, Any]) -> int:
    return int(result["always_bytes_per_token"] + result["expert_bytes_per_token"])


def _verdict(result: dict[str, Any]) -> str:
    needed = ui.size(result["memory_needed"])
    if result["fits"]:
        return f"yes: {needed} of memory with the cache"
    least = ui.size(result["memory_needed_to_stream"])
    if result["runs"]:
        return f"no: {needed} of memory for all, at least {least} to stream the experts"
    return f"no, not even streamed: that takes at least {least}"


def _streamed(part: dict[str, float]) -> str:
    return (
        f"{ui.scaled(part['tokens_per_second'])} tokens/s at best: {part['hit_rate']:.0%} of the routed experts in "
        f"memory, {ui.size(part['missed_bytes'])} a token from the disk"
    )


def _short(result: dict[str, Any], kind: str) -> str:
    if result["fits"]:
        return "-"
    if not result["runs"]:
        return "no"
    if "here" not in result:
        return "?"
    part = result["here"][kind]
    return f"{ui.scaled(part['tokens_per_second'])} ({part['hit_rate']:.0%})"


def _conversion(result: dict[str, Any], measured: Measured) -> list[tuple[str, str]]:
    part = result["conversion"]
    room = "" if part["disk_bytes"] <= measured.free_disk else ", which is too little"
    return [
        (
            "convert",
            f"about {duration(part['seconds'])}: computing {duration(part['computing_seconds'])}, "
            f"disk {duration(part['disk_seconds'])}",
        ),
        (
            "disk space",
            f"{ui.scaled(part['disk_bytes'], 'B')}, {ui.scaled(part['source_bytes'], 'B')} of them the release; "
            f"{ui.scaled(measured.free_disk, 'B')} free{room}",
        ),
    ]


def _print_notes(*results: dict[str, Any]) -> None:
    if any(_per_token(result) < _SMALL_TOKEN_BYTES for result in results):
        print(
            "\nThis model is so small that what the forecast leaves out takes most of the time: see 'pygrok bench'."
        )
    if any("here" in result for result in results):
        print(
            "\nuniform: all experts are used alike; skewed: the k-th most used one of a layer 1/k as often. What a text"
            "\nreally uses: 'pygrok experts MODEL TEXT'."
        )
    if any(not result["fits"] and "streamed" not in result for result in results):
        print("\nWithout the disk's rate (--disk, --disk-rate) nothing is known of streaming.")
    if any(result["needs_importance"] for result in results):
        print(
            "\niq2 and iq3 types need an importance matrix, and that a q8_0 file (338 GB) once: docs/quantize.md."
        )
