"""The `pygrok-quantize` command."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from pygrok.cli import errors
from pygrok.cli.options import AsJson, Debug

if TYPE_CHECKING:
    from pygrok.quantize.conversion import ConversionReport

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.command()
def quantize(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="xAI's `ckpt-0` directory, or the directory that holds it.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="GGUF file to write.")],
    type: Annotated[
        str,
        typer.Option(
            "--type", help="Type of the weights: f32, f16, bf16, q8_0 or q4_0; norms and router stay f32."
        ),
    ] = "q4_0",
    embedding_type: Annotated[
        str | None,
        typer.Option(
            "--embedding-type",
            help="Type of the embedding (and output matrix); default: as --type, but q8_0 for q4_0, f32 for q8_0.",
            show_default=False,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="JSON file with xAI's field names; default: Grok-1's own values if the shapes are "
            "Grok-1's, else config.json beside or above the tensor files.",
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            help="SentencePiece model; default: tokenizer.model beside or above the tensor files.",
            show_default=False,
        ),
    ] = None,
    no_tokenizer: Annotated[
        bool, typer.Option("--no-tokenizer", help="Write none: the file takes and gives token ids only.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", "-t", min=1, max=1024, help="Threads; default: all available.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite DST.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Check everything and print the plan; write nothing.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Convert a Grok-1 checkpoint to one GGUF file, for pygrok and llama.cpp.

    Grok-1 itself (318 GB) becomes 1263 GB as f32, 631 GB as f16 or bf16, 338 GB as q8_0, 178 GB as q4_0.
    The memory needed does not depend on the model: less than 0.4 GB. Nothing in the checkpoint is executed,
    though its files are Python pickles.

    DST appears when it is complete; until then, and whatever stops the conversion, it stays as it was.

    Example: `pygrok-quantize grok-1/ckpt-0 grok-1-q4_0.gguf --type q4_0`

    Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    del debug  # handled by its callback
    from pygrok.quantize.conversion import convert
    from pygrok.quantize.plan import TYPES

    for option, name in (("--type", type), ("--embedding-type", embedding_type)):
        if name is not None and name not in TYPES:
            raise errors.UsageError(f"{option} {name}: unknown type; choose one of {', '.join(TYPES)}")
    if no_tokenizer and tokenizer is not None:
        raise errors.UsageError("--tokenizer and --no-tokenizer exclude each other")
    try:
        with _progress_bar(not dry_run) as progress:
            report = convert(
                source,
                destination,
                type,
                config=config,
                tokenizer=tokenizer,
                no_tokenizer=no_tokenizer,
                embedding_type=embedding_type,
                threads=threads,
                force=force,
                dry_run=dry_run,
                progress=progress,
                notify=lambda notice: print(f"pygrok-quantize: note: {notice}", file=sys.stderr),
            )
    except KeyboardInterrupt:
        print(f"pygrok-quantize: interrupted; {destination} is as it was", file=sys.stderr, end="")
        raise
    if as_json:
        print(json.dumps(_as_dict(report)))
    else:
        _print(report)


@contextmanager
def _progress_bar(wanted: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Bytes, rate and remaining time on stderr, if that is a terminal."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("converting", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(report: ConversionReport) -> None:
    from pygrok.quantize.writer import format_bytes

    tensors = report.plan.tensors
    if report.dry_run:
        width = max(len(tensor.name) for tensor in tensors)
        print(f"{'tensor':{width}}  {'type':5} {'shape':>18} {'size':>10}")
        for tensor in tensors:
            shape = " x ".join(str(n) for n in tensor.shape)
            print(f"{tensor.name:{width}}  {tensor.type:5} {shape:>18} {format_bytes(tensor.nbytes):>10}")
    by_type: Counter[str] = Counter()
    for tensor in tensors:
        by_type[tensor.type] += tensor.nbytes
    types = ", ".join(f"{name} {format_bytes(size)}" for name, size in by_type.most_common())
    verb = "would write" if report.dry_run else "wrote"
    print(f"{verb} {report.path}: {format_bytes(report.nbytes)} in {len(tensors)} tensors ({types})")
    if not report.dry_run:
        rate = format_bytes(round(report.source_bytes / max(report.seconds, 1e-9)))
        print(f"from {format_bytes(report.source_bytes)} in {report.seconds:.1f} s, {rate}/s")


def _as_dict(report: ConversionReport) -> dict[str, object]:
    return {
        "path": str(report.path),
        "dry_run": report.dry_run,
        "bytes": report.nbytes,
        "source_bytes": report.source_bytes,
        "seconds": round(report.seconds, 3),
        "notices": list(report.notices),
        "tensors": [
            {"name": t.name, "type": t.type, "shape": list(t.shape), "bytes": t.nbytes}
            for t in report.plan.tensors
        ],
    }


def _terminate(signal_number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signal_number)  # through the cleanup of everything that is open


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        with errors.reporting("pygrok-quantize") as outcome:
            command = typer.main.get_command(app)
            # Not command.main(): that turns Ctrl-C and a closed pipe into exit code 1.
            with command.make_context("pygrok-quantize", arguments) as context:
                command.invoke(context)
            sys.stdout.flush()
    finally:
        signal.signal(signal.SIGTERM, before)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
