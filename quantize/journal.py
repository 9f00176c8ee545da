"""What of an unfinished conversion is done: lines of JSON beside the partial files.

The first line says which conversion this is; then comes one line for each matrix that is written, with the CRC-32 of
its bytes. A line is appended when its bytes are written, not when they have reached the disk: whoever reads the
journal compares the sums, so that neither a kill nor a power cut can pass off what is not there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

__all__ = ["Journal", "JournalContent", "Piece"]

FORMAT = "pygrok-journal"
VERSION = 1

Piece = tuple[str, int]  # tensor name and matrix: 0, or the expert


@dataclass(frozen=True)
class JournalContent:
    """What a journal says. `fingerprint` is empty if there is none that can be read."""

    fingerprint: Mapping[str, str] = field(default_factory=dict)
    checksums: Mapping[Piece, int] = field(default_factory=dict)
    placing: bool = False  # the files were being moved to their final places
    nbytes: int = 0  # of whole lines


class Journal:
    """An open, locked journal file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self) -> JournalContent:
        """All whole lines, up to the first that makes no sense: a kill may cut the last."""
        self._file.seek(0)
        fingerprint: dict[str, str] = {}
        checksums: dict[Piece, int] = {}
        placing = False
        nbytes = 0
        for number, line in enumerate(self._file.readlines()):
            entry = _parse(line)
            if entry is None:
                break
            if number == 0:
                if entry.get("format") != FORMAT or entry.get("version") != VERSION:
                    break
                given = entry.get("fingerprint")
                if not isinstance(given, dict) or not all(isinstance(v, str) for v in given.values()):
                    break
                fingerprint = given
            elif entry.get("placing") is True:
                placing = True
            else:
                name, matrix, crc = (entry.get(key) for key in ("tensor", "matrix", "crc32"))
                if not isinstance(name, str) or type(matrix) is not int or type(crc) is not int:
                    break
                checksums[name, matrix] = crc
            nbytes += len(line)
        return JournalContent(fingerprint, checksums, placing, nbytes)

    def begin(self, fingerprint: Mapping[str, str]) -> None:
        """Starts anew."""
        self._file.truncate(0)
        self._append({"format": FORMAT, "version": VERSION, "fingerprint": dict(fingerprint)})

    def go_on(self, content: JournalContent) -> None:
        """Cuts off what follows the whole lines."""
        self._file.truncate(content.nbytes)

    def add(self, piece: Piece, crc: int) -> None:
        """A matrix is written."""
        self._append({"tensor": piece[0], "matrix": piece[1], "crc32": crc})

    def add_placing(self) -> None:
        """From now on the files may be in their final places."""
        self._append({"placing": True})
        self.sync()

    def sync(self) -> None:
        """Waits until the lines are on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Unlocks it, too."""
        self._file.close()

    def _append(self, entry: dict[str, object]) -> None:
        self._file.seek(0, os.SEEK_END)
        line = memoryview(json.dumps(entry).encode() + b"\n")
        while line:
            line = line[self._file.write(line) :]


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
