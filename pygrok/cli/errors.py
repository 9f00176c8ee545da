"""From exceptions to one line on stderr and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer

from pygrok.errors import PygrokError

FAILURE = 1
USAGE = 2
INTERRUPTED = 130


class UsageError(Exception):
    """The command line cannot be carried out as given."""


@dataclass
class Outcome:
    """How a command ended."""

    code: int = 0


_debug = False


def set_debug(wanted: bool) -> None:
    """Show tracebacks from now on (if wanted)."""
    global _debug
    _debug = _debug or wanted


def one_line(text: str) -> str:
    """The text without line breaks."""
    return " ".join(text.split())


def _describe(error: BaseException) -> tuple[str, int]:
    """The line to print and the exit code."""
    format_message = getattr(error, "format_message", None)
    if callable(format_message):  # the command-line parser's own errors
        return str(format_message()), getattr(error, "exit_code", USAGE)
    if isinstance(error, UsageError):
        return str(error), USAGE
    if isinstance(error, PygrokError):
        return str(error), FAILURE
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}", FAILURE
    if isinstance(error, ValueError | OSError):
        return str(error), FAILURE
    if isinstance(error, MemoryError):
        return f"out of memory {error}".rstrip(), FAILURE
    return f"internal error: {type(error).__name__}: {error} (--debug shows where)", FAILURE


def _silence_stdout() -> None:
    """Point stdout at nothing, lest the interpreter's last flush complain about the closed pipe."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is not a real file, as in tests
        pass
    finally:
        os.close(null)


@contextmanager
def reporting(program: str) -> Iterator[Outcome]:
    """Turn whatever leaves the block into `program: error: ...` on stderr and an exit code in the outcome."""
    outcome = Outcome()
    global _debug
    _debug = False
    try:
        yield outcome
    except typer.Exit as stop:
        outcome.code = stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print(file=sys.stderr)
        outcome.code = INTERRUPTED
    except BrokenPipeError:  # the reader has seen enough
        _silence_stdout()
    except Exception as error:
        message, outcome.code = _describe(error)
        if _debug:
            traceback.print_exc()
        print(f"{program}: error: {one_line(message)}", file=sys.stderr)
