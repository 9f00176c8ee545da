"""Text files that a command line names."""

from __future__ import annotations

import sys
from pathlib import Path

from pygrok import files


def read_text(name: str | Path) -> str:
    """A UTF-8 file, or standard input for "-"; line ends as they are.

    Raises OSError, and ValueError naming the file and the first byte that is not UTF-8.
    """
    if str(name) == "-":
        return files.decoded(sys.stdin.buffer.read(), "standard input")
    return files.read_text(Path(name))
