"""Text files that a command line names."""

from __future__ import annotations

import sys
from pathlib import Path


def read_text(name: str | Path) -> str:
    """A UTF-8 file, or standard input for "-"; line ends as they are.

    Raises OSError, and ValueError naming the file and the first byte that is not UTF-8.
    """
    standard = str(name) == "-"
    data = sys.stdin.buffer.read() if standard else Path(name).read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        where = "standard input" if standard else name
        raise ValueError(f"{where}: not UTF-8 at byte {error.start}; convert it with iconv") from error
