"""What `pygrok-quantize` prints."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pygrok.quantize.units import format_bytes

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pygrok.quantize.conversion import ConversionReport
    from pygrok.quantize.verify import TensorError

__all__ = ["ProgressBar", "as_dict", "print_errors", "print_report"]


class ProgressBar:
    """A context manager: steps before the conversion, then bytes, rate and remaining time, on stderr."""

    def __init__(self, wanted: bool) -> None:
        """Draws nothing if not wanted."""
        self._stack = ExitStack()
        self._wanted = wanted
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._label = ""

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def preparing(self, label: str, done: int, total: int) -> None:
        """Steps of what comes before."""
        self._show(label, done, total, in_bytes=False)

    def bytes_done(self, done: int, total: int) -> None:
        """Of the conversion."""
        self._show("converting", done, total, in_bytes=True)

    def _show(self, label: str, done: int, total: int, in_bytes: bool) -> None:
        if not self._wanted:
            return
        if label != self._label:
            self._stack.close()
            self._bar = self._stack.enter_context(_bar(in_bytes))
            self._task = self._bar.add_task(label, total=total)
            self._label = label
        assert self._bar is not None
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total)


def _bar(in_bytes: bool) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amounts: list[ProgressColumn] = (
        [DownloadColumn(), TransferSpeedColumn()] if in_bytes else [MofNCompleteColumn()]
    )
    columns = (TextColumn("{task.description}"), BarColumn(), *amounts, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def print_report(report: ConversionReport) -> None:
    """The plan, tensor by tensor in a dry run; errors if they were measured; sizes and speed."""
    plan = report.plan
    if report.dry_run:
        width = max(len(tensor.name) for tensor in plan.tensors)
        print(f"{'tensor':{width}}  {'type':7} {'shape':>18} {'size':>10}")
        for tensor in plan.tensors:
            shape = " x ".join(str(n) for n in tensor.shape)
            print(f"{tensor.name:{width}}  {tensor.type:7} {shape:>18} {format_bytes(tensor.nbytes):>10}")
        print()
    width = max(len(row.role) for row in plan.rows())
    for row in plan.rows():
        what = f"{row.tensors} tensor{'s' if row.tensors > 1 else ''}"
        print(f"{row.role:{width}}  {row.type:7} {what:>11} {format_bytes(row.nbytes):>10}")
    if report.fit is not None:
        print()
        print(
            f"fitted to {format_bytes(report.fit.budget)}: predicted KL {report.fit.predicted_kl:.4g} nats, from "
            f"{report.fit.sensitivities.method} sensitivities"
        )
    if report.errors is not None:
        print()
        print_errors(report.errors)
    print()
    verb = "would write" if report.dry_run else "wrote"
    others = f" and {len(report.paths) - 1} more" if len(report.paths) > 1 else ""
    print(
        f"{verb} {report.path}{others}: {format_bytes(report.file_bytes)} in {len(plan.tensors)} tensors, "
        f"{report.bits_per_weight:.3f} bits per weight"
    )
    if not report.dry_run:
        done = report.source_bytes - report.resumed_bytes
        rate = format_bytes(round(done / max(report.seconds, 1e-9)))
        before = f" ({format_bytes(report.resumed_bytes)} was done before)" if report.resumed_bytes else ""
        print(f"from {format_bytes(done)}{before} in {report.seconds:.1f} s, {rate}/s")
        if report.errors is not None:
            print(f"verified in {report.verify_seconds:.1f} s")


def print_errors(errors: Sequence[TensorError]) -> None:
    """One line a tensor; what is wrong is marked."""
    weighted = any(error.weighted is not None for error in errors)
    width = max(len(error.name) for error in errors)
    print(
        f"{'tensor':{width}}  {'type':7} {'error':>9}{'   weighted' if weighted else ''}  {'worst slice':>11}"
    )
    for error in errors:
        more = ""
        if weighted:
            more = f"  {error.weighted:9.3g}" if error.weighted is not None else " " * 11
        mark = "  wrong" if error.problem else ""
        print(f"{error.name:{width}}  {error.type:7} {error.error:9.3g}{more}  {error.worst:11.3g}{mark}")


def as_dict(report: ConversionReport) -> dict[str, Any]:
    """For --json. Sizes in bytes."""
    tensors: list[dict[str, Any]] = [
        {"name": t.name, "type": t.type, "shape": list(t.shape), "bytes": t.nbytes}
        for t in report.plan.tensors
    ]
    for tensor, error in zip(tensors, report.errors or (), strict=False):
        tensor |= {"error": error.error, "weighted_error": error.weighted, "worst_error": error.worst}
    return {
        "path": str(report.path),
        "paths": [str(path) for path in report.paths],
        "dry_run": report.dry_run,
        "bytes": report.nbytes,
        "file_bytes": report.file_bytes,
        "bits_per_weight": round(report.bits_per_weight, 6),
        "source_bytes": report.source_bytes,
        "resumed_bytes": report.resumed_bytes,
        "seconds": round(report.seconds, 3),
        "verify_seconds": round(report.verify_seconds, 3),
        "predicted_kl": None if report.fit is None else report.fit.predicted_kl,
        "notices": list(report.notices),
        "tensors": tensors,
    }
