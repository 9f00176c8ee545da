"""Running the commands in tests, in this process or as one of their own."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from pygrok.cli import main

# pytest in a shell's background ignores Ctrl-C, and the commands it starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

TEXT = "Once upon a time, the quick brown fox jumped over 12 lazy dogs.\nAnd then? "


def outcome(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command in this process."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main([str(a) for a in arguments])
    return code, out.getvalue(), err.getvalue()


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[bytes]:
    """The command as a process. Not from the tree, where Python would find pygrok without its extension."""
    return subprocess.Popen(
        [sys.executable, "-m", "pygrok", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
    )


def assert_one_line(err: str, *parts: str) -> None:
    """One line of error, holding all parts."""
    assert err.startswith("pygrok: error: "), err
    assert err.count("\n") == 1, err
    for part in parts:
        assert part in err
