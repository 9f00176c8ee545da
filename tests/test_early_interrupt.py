"""Ctrl-C while a command still imports what it needs: one line and 130, as later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# As the console scripts do; Ctrl-C comes when the module is looked for.
SCRIPT = """
import importlib
import signal
import sys

entry, awaited, *sys.argv[1:] = sys.argv[1:]


class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == awaited:
            signal.raise_signal(signal.SIGINT)


signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupter())
sys.exit(importlib.import_module(entry).main())
"""


@pytest.mark.parametrize("awaited", ["typer", "numpy", "pygrok._core"])
@pytest.mark.parametrize(
    ("entry", "arguments"),
    [("pygrok.__main__", ["info"]), ("pygrok.quantize.__main__", ["source", "out.gguf"])],
)
def test_one_line_and_130(entry: str, arguments: list[str], awaited: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, entry, awaited, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.count("\n") == 1, done.stderr
