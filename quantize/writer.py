"""Writes the output beside its destination and puts it there at the end, or leaves nothing, or what can be resumed."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pygrok.errors import ModelError
from pygrok.quantize.journal import Journal, JournalContent, Piece
from pygrok.quantize.layout import Layout
from pygrok.quantize.units import format_bytes

__all__ = ["OutputFiles"]

SYNC_BYTES = 1 << 30  # what a power cut may cost
READ_BYTES = 8 << 20
_DIGEST = re.compile("[0-9a-f]{32}")


class OutputFiles:
    """A context manager: pieces (matrices of tensors) are written, `seal` completes the files, `place` moves them.

    The bytes go to the folder `.NAME.partial` in the destination's directory, with a journal that is locked while they
    are written. Left without `place`, the folder is removed; with `resume` it stays, for a later one to go on with. A
    process that is killed leaves it in any case.

    Raises FileExistsError if the destination exists and `force` is not set; ModelError if another process is writing
    it, or if `resume` finds another conversion than `fingerprint` tells of; OSError (ENOSPC) with both sizes if the
    disk cannot hold the files.
    """

    def __init__(
        self,
        destination: Path,
        layout: Layout,
        fingerprint: Mapping[str, str],
        *,
        force: bool = False,
        resume: bool = False,
        notify: Callable[[str], None] = lambda notice: None,
    ) -> None:
        self.destination = destination
        self.layout = layout
        self.folder = destination.parent / f".{destination.name}.partial"
        self._fingerprint = dict(fingerprint)
        self._force = force
        self._resume = resume
        self._notify = notify
        self._offsets = {
            name: (i, offset) for i, part in enumerate(layout.parts) for name, offset in part.offsets.items()
        }
        self._journal: Journal | None = None
        self._finished: dict[Piece, int] = {}
        self._open: tuple[int, int] | None = None  # part, file descriptor
        self._crc = 0
        self._unsynced = 0

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files' final places."""
        return tuple(self.destination.parent / part.name for part in self.layout.parts)

    @property
    def partial_paths(self) -> tuple[Path, ...]:
        """Where they are until then."""
        return tuple(self.folder / part.name for part in self.layout.parts)

    @property
    def keeps_partial(self) -> bool:
        """Whether an error now would leave something to resume."""
        return self._resume and bool(self._finished)

    def __enter__(self) -> OutputFiles:
        self.check_destination()
        try:
            self._journal = Journal(self._lock())
            self._begin(self._journal)
            self._check_space()
            for i, part in enumerate(self.layout.parts):
                self._write_at(i, 0, memoryview(part.header))
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        kept = self.keeps_partial
        self._leave()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            what = "what is finished is kept" if kept else "nothing is left of it"
            raise OSError(
                error.errno,
                f"{os.strerror(error.errno)} before all of {format_bytes(self.layout.nbytes)} was written; "
                f"{what}: free space or write to another disk",
                str(self.destination),
            ) from error

    def check_destination(self) -> None:
        """Refuses what could not be written or should not be overwritten."""
        if self.destination.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory; give a file name", str(self.destination))
        for path, partial in zip(self.paths, self.partial_paths, strict=True):
            if not path.exists() or self._force:
                continue
            # Resuming after a stop among the last renames: this is ours.
            if self._resume and self.folder.is_dir() and not partial.exists() and self._was_placing():
                continue
            raise FileExistsError(errno.EEXIST, "exists; --force overwrites it", str(path))
        if not self.destination.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(self.destination.parent))

    def is_finished(self, piece: Piece, nbytes: int) -> bool:
        """Whether an earlier process has written this matrix of `nbytes`, and its bytes are still what they were."""
        expected = self._finished.get(piece)
        if expected is None:
            return False
        crc = 0
        for chunk in self._chunks(piece, nbytes):
            crc = zlib.crc32(chunk, crc)
        if crc == expected:
            return True
        del self._finished[piece]
        self._notify(f"{piece[0]} of the unfinished conversion is damaged or incomplete, and done again")
        return False

    def write(self, piece: Piece, nbytes: int, at: int, data: NDArray[np.uint8]) -> None:
        """Bytes from `at` on of a matrix of `nbytes`; those of one matrix come in order."""
        if at == 0:
            self._crc = 0
        part, offset = self._start(piece, nbytes)
        view = memoryview(data.reshape(-1))  # type: ignore[arg-type]  # numpy's stubs lack the buffer before 3.12
        self._write_at(part, offset + at, view)
        self._crc = zlib.crc32(view, self._crc)
        self._unsynced += len(view)

    def end_piece(self, piece: Piece) -> None:
        """All bytes of the matrix are written."""
        assert self._journal is not None
        self._finished[piece] = self._crc
        self._journal.add(piece, self._crc)
        if self._unsynced >= SYNC_BYTES:
            self._unsynced = 0
            if self._open is not None:
                os.fdatasync(self._open[1])
            self._journal.sync()

    def read(self, piece: Piece, nbytes: int) -> NDArray[np.uint8]:
        """The bytes of a matrix that is written."""
        return np.frombuffer(b"".join(self._chunks(piece, nbytes)), np.uint8)

    def seal(self) -> None:
        """Gives every file its size and waits until all bytes are on the disk."""
        for i, part in enumerate(self.layout.parts):
            descriptor = self._descriptor(i)
            os.ftruncate(descriptor, part.nbytes)
            os.fsync(descriptor)

    def place(self) -> None:
        """Replaces the destination. In a set the first part comes last: without it, no set can be opened."""
        assert self._journal is not None
        self.check_destination()  # it may have appeared meanwhile
        self._close_part()
        self._journal.add_placing()
        paths = self.paths
        if len(paths) > 1:
            paths[0].unlink(missing_ok=True)  # lest the old first part find the new others
        for partial, path in reversed(list(zip(self.partial_paths, paths, strict=True))):
            partial.replace(path)
        directory = os.open(self.destination.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
        self.discard()

    def discard(self) -> None:
        """Removes all that is not in place."""
        if self._journal is None:
            return
        self._close_part()
        self._wipe()
        (self.folder / "journal").unlink(missing_ok=True)
        with suppress(OSError):  # another process may already have its journal there
            self.folder.rmdir()
        self._journal.close()
        self._journal = None

    def _begin(self, journal: Journal) -> None:
        """Goes on with what is there, or clears it away."""
        found = journal.read()
        differing = _differences(found.fingerprint, self._fingerprint)
        if found.checksums and self._resume:
            if differing:
                raise ModelError(
                    f"{self.destination}: --resume found the unfinished file of another conversion "
                    f"({'; '.join(differing)}): give the same source and options, or leave --resume out to begin anew"
                )
            journal.go_on(found)
            self._take_back(found)
            self._finished = dict(found.checksums)
            return
        if found.checksums and differing:
            self._notify("an unfinished conversion with other options was found and is thrown away")
        elif found.checksums:
            self._notify(
                "an unfinished conversion was found and is thrown away; --resume would have gone on with it"
            )
        journal.begin(self._fingerprint)  # first: no line may speak of bytes that are about to change
        self._wipe()

    def _take_back(self, found: JournalContent) -> None:
        """Files that an interrupted `place` had moved already."""
        if not found.placing:
            return
        for partial, path in zip(self.partial_paths, self.paths, strict=True):
            if not partial.exists() and path.exists():
                path.replace(partial)

    def _was_placing(self) -> bool:
        try:
            with (self.folder / "journal").open("rb") as file:
                return Journal(file).read().placing
        except FileNotFoundError:
            return False

    def _lock(self) -> BinaryIO:
        path = self.folder / "journal"
        while True:
            if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
                self.folder.unlink()
            self.folder.mkdir(exist_ok=True)
            try:
                file = open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)  # noqa: PTH123, SIM115
            except FileNotFoundError:  # the folder went with another process that was done
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another process may have removed the file between our open and our lock.
                if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                    return file
            except FileNotFoundError:
                pass
            except BlockingIOError:
                file.close()
                raise ModelError(
                    f"{self.destination}: another process is writing it; wait for that"
                ) from None
            except BaseException:
                file.close()
                raise
            file.close()

    def _check_space(self) -> None:
        there = sum(path.stat().st_blocks * 512 for path in self.partial_paths if path.exists())
        needed = max(0, self.layout.nbytes - there)
        free = shutil.disk_usage(self.destination.parent).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"needs {format_bytes(needed)}, the disk has {format_bytes(free)} free; free space, choose "
                "a smaller --type, or write to another disk",
                str(self.destination),
            )

    def _leave(self) -> None:
        if self._journal is None:
            return
        if self.keeps_partial or (self._resume and self._journal.read().checksums):
            self._close_part()
            self._journal.close()
            self._journal = None
        else:
            self.discard()

    def _wipe(self) -> None:
        for path in self.folder.iterdir():
            if path.name != "journal" and not path.is_dir():
                path.unlink()

    def _start(self, piece: Piece, nbytes: int) -> tuple[int, int]:
        part, offset = self._offsets[piece[0]]
        return part, offset + piece[1] * nbytes

    def _chunks(self, piece: Piece, nbytes: int) -> Iterator[bytes]:
        """The piece's bytes as far as they are there."""
        part, offset = self._start(piece, nbytes)
        end = offset + nbytes
        while offset < end:
            chunk = os.pread(self._descriptor(part), min(READ_BYTES, end - offset), offset)
            if not chunk:
                return
            yield chunk
            offset += len(chunk)

    def _descriptor(self, part: int) -> int:
        """Of one part at a time, lest a large set need more open files than a process may have."""
        if self._open is None or self._open[0] != part:
            self._close_part()
            path = self.partial_paths[part]
            self._open = part, os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        return self._open[1]

    def _close_part(self) -> None:
        if self._open is not None:
            descriptor, self._open = self._open[1], None
            os.close(descriptor)

    def _write_at(self, part: int, offset: int, view: memoryview) -> None:
        descriptor = self._descriptor(part)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view = view[written:]
            offset += written


def _differences(found: Mapping[str, str], given: Mapping[str, str]) -> list[str]:
    """Which entries differ, most telling first. Digests say nothing to people; metadata differ whenever types do."""
    names = [name for name in {**given, **found} if found.get(name) != given.get(name)]
    if len(names) > 1:
        names = [name for name in names if name != "metadata"]
    return [
        f"the {name} was {found.get(name, 'not given')}, now {given.get(name, 'not given')}"
        if not any(_DIGEST.fullmatch(side.get(name, "")) for side in (found, given))
        else f"the {name} differs"
        for name in names
    ]
