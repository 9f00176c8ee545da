"""The `pygrok` command: chat, generate, info, bench, plan, experts, perplexity, imatrix.

Only the terminal lives here. Modules that cost time to import (numpy, the extension, rich) are imported
inside the functions that need them, so that `pygrok --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from pygrok.cli import bench, chat, errors, experts, generate, imatrix, info, perplexity, plan, ui
from pygrok.cli.options import Debug

__all__ = ["app", "main"]

app = typer.Typer(
    name="pygrok",
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command()(chat.chat)
app.command()(generate.generate)
app.command()(info.info)
app.command()(bench.bench)
app.command()(experts.experts)
app.command()(perplexity.perplexity)
app.command()(imatrix.imatrix)
app.command()(plan.plan)


def _print_version(wanted: bool) -> None:
    if wanted:
        from pygrok import __version__

        print(f"pygrok {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    debug: Debug = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and leave.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Run xAI's open-weights Grok models on the processor.

    MODEL is a GGUF file (for a split model, its first part). Without it, the commands use the small model
    that comes with the package. `pygrok-quantize` makes GGUF files from released checkpoints.

    Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted.
    """
    del debug, version  # handled by their callbacks
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(errors.USAGE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code; never raises."""
    if "_PYGROK_COMPLETE" in os.environ:  # a shell asks for completions
        app()
    arguments = list(sys.argv[1:] if argv is None else argv)
    ui.prepare_streams()
    with errors.reporting("pygrok") as outcome:
        command = typer.main.get_command(app)
        # Not command.main(): that turns Ctrl-C and a closed pipe into exit code 1.
        with command.make_context("pygrok", arguments) as context:
            command.invoke(context)
        sys.stdout.flush()
    return outcome.code
