"""Refuses, before any work begins, what could not be written after it."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from pathlib import Path

from pygrok.errors import FormatError
from pygrok.quantize.plan_file import load_plan_file

__all__ = ["check_destination", "check_distinct", "check_plan_destination"]


def check_destination(destination: Path, *, force: bool, maybe_unfinished: bool) -> None:
    """Of a single file or the name of a set, as far as it can be told without a plan; `OutputFiles` checks the rest.

    maybe_unfinished: it may exist, as the file may be one of a set, or be gone on with. Raises IsADirectoryError,
    FileExistsError, FileNotFoundError.
    """
    if destination.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory; give a file name", str(destination))
    if destination.exists() and not force and not maybe_unfinished:
        raise FileExistsError(errno.EEXIST, "exists; --force overwrites it", str(destination))
    _check_folder(destination)


def check_plan_destination(path: Path, force: bool) -> None:
    """Where --save-plan writes: an older plan gives way, another file only to --force. Raises as above."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory; give a file name for the plan", str(path))
    if path.exists() and not force and not _is_plan(path):
        raise FileExistsError(errno.EEXIST, "exists and is no plan; --force overwrites it", str(path))
    _check_folder(path)


def check_distinct(written: Mapping[str, Path | None], read: Iterable[Path]) -> None:
    """Raises ValueError if two outputs are the same file, or one beside the model (""), is one that is read."""
    seen: dict[Path, str] = {}
    sources = {path.resolve() for path in read}
    for option, path in written.items():
        if path is None:
            continue
        place = path.resolve()
        if option and place in sources:
            raise ValueError(f"{option} {path}: is read, too; give another file")
        if place in seen:
            raise ValueError(f"{option} {path}: is {seen[place] or 'DST'}, too; give another file")
        seen[place] = option


def _is_plan(path: Path) -> bool:
    try:
        load_plan_file(path)
    except (FormatError, OSError):
        return False
    return True


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such directory", str(path.parent))
