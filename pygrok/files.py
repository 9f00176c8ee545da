"""Text files, and files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["decoded", "read_text", "replacing"]


def read_text(path: Path) -> str:
    """A UTF-8 file, line ends as they are. Raises OSError, ValueError as `decoded`."""
    return decoded(path.read_bytes(), path)


def decoded(data: bytes, where: str | Path) -> str:
    """The text. Raises ValueError naming `where` and the first byte that is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not UTF-8 at byte {error.start}; convert it with iconv") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the path of a file beside `path`, to be written and closed, which then takes its place.

    Until its bytes are on the disk, and after an error, `path` is as it was. Raises OSError.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with suppress(OSError):  # lest it hide the error that matters
            partial.unlink(missing_ok=True)
