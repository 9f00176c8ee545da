"""What `pygrok bench` says of experts that come from the disk: by phase, beside the disk's own rate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pygrok.cli import paging_output, ui

if TYPE_CHECKING:
    from pygrok._core import Engine
    from pygrok.cli.options import RunOptions
    from pygrok.model import Model

_SAMPLE_TOKENS = 32


class PagingMeter:
    """Adds up the engine's counters by phase."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._totals: dict[str, dict[str, Any]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is computed in the block belongs to this phase."""
        self._engine.reset_paging()
        yield
        now = self._engine.paging()
        before = self._totals.get(name)
        if before is not None:
            now = {key: value + before[key] if key in _COUNTERS else value for key, value in now.items()}
        self._totals[name] = now

    def result(self, paths: Sequence[str]) -> dict[str, Any]:
        """For "paging" of the result: settings, the phases' figures and, if it streamed, the disk's rate."""
        from pygrok.disk import measure_disk

        settings = {key: value for key, value in self._engine.paging().items() if key not in _COUNTERS}
        result: dict[str, Any] = {**settings, "disk_read_bytes_per_second": None}
        for name, total in self._totals.items():
            result[name] = paging_output.figures(total)
        if settings["mode"] != "map":
            largest = max(map(Path, paths), key=lambda path: path.stat().st_size)
            result["disk_read_bytes_per_second"] = measure_disk(largest).read
        return result


_COUNTERS = frozenset(
    {
        "tokens", "bytes_needed", "bytes_hit", "bytes_read", "bytes_predicted_read", "bytes_wasted", "predictions",
        "predictions_right", "routes", "routes_changed", "wait_seconds", "read_seconds",
    }
)  # fmt: skip


def compare(result: dict[str, Any]) -> None:
    """Lower the limit of a streamed phase to what the disk gives, and say what it was."""
    disk = result["paging"]["disk_read_bytes_per_second"]
    for phase in ("prefill", "decode"):
        missed = result["paging"].get(phase, {}).get("missed_bytes_per_token")
        if not disk or not missed:
            continue
        part, bound = result[phase], disk / missed
        part["disk_limit_tokens_per_second"] = bound
        if bound < part["limit_tokens_per_second"]:
            part["limit_tokens_per_second"] = bound
            part["percent_of_limit"] = 100 * part["tokens_per_second"] / bound


def rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """For people; nothing but the mode where all is mapped."""
    paging = result["paging"]
    found = [("experts", paging_output.mode(paging))]
    for phase in ("prefill", "decode"):
        if paging["mode"] != "map" and phase in paging:
            found += paging_output.phase_rows(paging[phase], phase)
    disk = paging["disk_read_bytes_per_second"]
    if disk:
        found.append(("disk", f"{ui.scaled(disk, 'B/s')} in direct reads of the file, just now"))
    if "slack" in result:
        found.append(("routing", slack_line(result["slack"])))
    return found


def slack_line(slack: Mapping[str, float]) -> str:
    """What `slack_divergence` found."""
    return (
        f"slack: {slack['routes_changed_share']:.2%} of the routes changed; KL divergence from none over "
        f"{slack['tokens']} tokens: mean {slack['mean']:.3g} nats, maximum {slack['maximum']:.3g}, "
        f"same likeliest token {slack['top1_agreement']:.1%}"
    )


def slack_divergence(
    model: Path | None, run: RunOptions, ids: Sequence[int] | None = None
) -> dict[str, float]:
    """What --route-slack does to a sample that is fed token by token, as in decoding: its divergence from slack 0.

    ids: None takes fixed pseudo-random ones. Loads the model twice, one after the other. Raises as `RunOptions.load`.
    """
    from dataclasses import replace

    import numpy as np

    from pygrok.evaluation import divergence_of

    def logits(slack: float) -> tuple[Any, Any, dict[str, Any]]:
        with replace(run, route_slack=slack, trace=None).load(model) as loaded:
            sample = np.asarray(_sample(loaded) if ids is None else ids[:_SAMPLE_TOKENS], np.int32)
            session = loaded.session()
            loaded.engine.reset_paging()
            rows = np.stack([session.feed([int(token)]) for token in sample])
            return sample, rows, loaded.engine.paging()

    sample, ours, paging = logits(run.route_slack)
    _, exact, _ = logits(0.0)
    found = divergence_of(exact[:-1], ours[:-1], sample[1:])
    return {
        "tokens": found.tokens,
        "routes_changed_share": paging["routes_changed"] / max(paging["routes"], 1),
        "mean": found.mean,
        "standard_error": found.standard_error,
        "maximum": found.maximum,
        "top1_agreement": found.top1_agreement,
    }


def _sample(loaded: Model) -> list[int]:
    import numpy as np

    count = min(_SAMPLE_TOKENS, loaded.context)
    ids: list[int] = np.random.default_rng(7).integers(0, loaded.config.vocab, count).tolist()
    return ids
