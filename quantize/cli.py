"""The `pygrok-quantize` command."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from pygrok.cli import errors
from pygrok.cli.errors import UsageError
from pygrok.cli.options import with_options
from pygrok.quantize.cli_options import OutputOptions, RunOptions, SourceOptions, TypeOptions
from pygrok.quantize.cli_output import ProgressBar, as_dict, print_errors, print_report

__all__ = ["app", "main"]

PROGRAM = "pygrok-quantize"
app = typer.Typer(
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.command()
@with_options
def quantize(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="xAI's `ckpt-0` directory or its parent, a Hugging Face folder, a .safetensors file or its index, or "
            "a .gguf file.",
        ),
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="GGUF file to write.")],
    *,
    types: TypeOptions,
    output: OutputOptions,
    sources: SourceOptions,
    run: RunOptions,
) -> None:
    """Convert a Grok model to GGUF, for pygrok and llama.cpp.

    Grok-1 itself (318 GB) becomes 1263 GB as f32, 631 GB as f16 or bf16, 338 GB as q8_0, 178 GB as q4_0.
    The memory needed does not depend on the model: less than 0.4 GB. Nothing in a checkpoint is executed, though
    xAI's files are Python pickles.

    DST appears when it is complete; until then, and whatever stops the conversion, it stays as it was.

    Example: `pygrok-quantize grok-1/ckpt-0 grok-1-q4_k_m.gguf --type q4_k_m --imatrix grok-1.imatrix --resume`

    Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    with _telling_what_is_left(destination, output.resume):
        _quantize(source, destination, types, output, sources, run)


@contextmanager
def _telling_what_is_left(destination: Path, resume: bool) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        kept = "; what is finished is kept for --resume" if resume else ""
        print(f"{PROGRAM}: interrupted; {destination} is as it was{kept}", file=sys.stderr, end="")
        raise


def _quantize(
    source: Path,
    destination: Path,
    types: TypeOptions,
    output: OutputOptions,
    sources: SourceOptions,
    run: RunOptions,
) -> None:
    if types.calibrate and sources.no_tokenizer:
        raise UsageError(
            "--calibrate and --no-tokenizer exclude each other: a text is calibrated on as token ids"
        )
    arguments = types.arguments() | output.arguments() | sources.arguments()
    from pygrok.quantize.conversion import convert
    from pygrok.quantize.verify import VerificationError

    try:
        with ProgressBar(sys.stderr.isatty()) as bar:
            report = convert(
                source,
                destination,
                **arguments,
                threads=run.threads,
                progress=bar.bytes_done,
                preparing=bar.preparing,
                notify=lambda notice: print(f"{PROGRAM}: note: {notice}", file=sys.stderr),
                command=_command,
            )
    except VerificationError as error:
        if not run.as_json:
            print_errors(error.errors)
        raise
    if run.as_json:
        print(json.dumps(as_dict(report)))
    else:
        print_report(report)


_command = ""  # for the report


def _terminate(signal_number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + signal_number)  # through the cleanup of everything that is open


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code."""
    global _command
    arguments = list(sys.argv[1:] if argv is None else argv)
    _command = shlex.join([PROGRAM, *arguments])
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        with errors.reporting(PROGRAM) as outcome:
            command = typer.main.get_command(app)
            # Not command.main(): that turns Ctrl-C and a closed pipe into exit code 1.
            with command.make_context(PROGRAM, arguments) as context:
                command.invoke(context)
            sys.stdout.flush()
    finally:
        signal.signal(signal.SIGTERM, before)
    return outcome.code


if __name__ == "__main__":
    sys.exit(main())
