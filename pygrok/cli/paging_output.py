"""What an engine says of its paging, in words, for `bench`, `chat` and `generate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pygrok.cli import ui

_MODES = {
    "map": "all in memory, mapped",
    "map-streamed": "experts paged in by the system",
    "direct": "experts read past the system's cache",
    "buffered": "experts read through the system's cache",
}


def figures(paging: Mapping[str, Any]) -> dict[str, Any]:
    """The counters of `Engine.paging()` as rates. None: of nothing."""
    tokens = paging["tokens"]

    def per_token(value: float) -> float | None:
        return value / tokens if tokens else None

    def share(part: float, whole: float) -> float | None:
        return part / whole if whole else None

    missed = paging["bytes_needed"] - paging["bytes_hit"]
    return {
        "tokens": tokens,
        "needed_bytes_per_token": per_token(paging["bytes_needed"]),
        "missed_bytes_per_token": per_token(missed),
        "read_bytes_per_token": per_token(paging["bytes_read"]),
        "wasted_bytes_per_token": per_token(paging["bytes_wasted"]),
        "wait_seconds_per_token": per_token(paging["wait_seconds"]),
        "hit_rate": share(paging["bytes_hit"], paging["bytes_needed"]),
        "prediction_accuracy": share(paging["predictions_right"], paging["predictions"]),
        "routes_changed_share": share(paging["routes_changed"], paging["routes"]),
        "disk_bytes_per_second": share(paging["bytes_read"], paging["read_seconds"]),
    }


def mode(paging: Mapping[str, Any]) -> str:
    """How the model's experts reach memory."""
    text = _MODES.get(paging["mode"], str(paging["mode"]))
    if paging["mode"] != "map":
        text += f", {ui.size(paging['pool_bytes'])} kept ({paging['mode']}: {paging['chosen_by']})"
    return text


def phase_rows(figures: Mapping[str, Any], phase: str | None = None) -> list[tuple[str, str]]:
    """Rows of what `figures` made, of one phase or of all."""
    of = "" if phase is None else f"{phase} "
    if figures["hit_rate"] is None or not figures["tokens"]:
        return []
    wasted = figures["wasted_bytes_per_token"]
    vain = f" ({ui.size(wasted)} in vain)" if wasted else ""
    rows = [
        (
            f"{of}reads",
            f"{ui.size(figures['read_bytes_per_token'])} a token{vain}, {figures['hit_rate']:.1%} of the routed "
            f"experts' bytes were in memory, waited {1000 * figures['wait_seconds_per_token']:.3g} ms a token",
        )
    ]
    if figures["prediction_accuracy"] is not None:
        rows.append(
            (f"{of}guesses", f"{figures['prediction_accuracy']:.1%} of the experts foreseen were used")
        )
    return rows


def pairs(paging: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Aligned rows; only the mode when nothing was streamed."""
    rows = [("experts", mode(paging))]
    if paging["budget_bytes"]:
        rows.append(
            (
                "limit",
                f"{ui.size(paging['budget_bytes'])}, {ui.size(paging['resident_bytes'])} of weights stay",
            )
        )
    found = figures(paging)
    if paging["mode"] != "map":
        rows += phase_rows(found)
    if paging["routes_changed"]:
        rows.append(("changed", f"{found['routes_changed_share']:.2%} of the routes, by --route-slack"))
    return rows
