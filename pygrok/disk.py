"""How fast a disk reads, past the system's cache."""

from __future__ import annotations

import errno
import mmap
import os
import random
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DiskSpeed", "measure_disk"]

# As csrc/io/piece_reader.cc reads experts; four times as much at once was a quarter slower here.
_REQUEST = 1 << 20
_BUFFER = 8 * _REQUEST
_READERS = 4
_SECONDS = 1.5
_TEMPORARY_BYTES = 256 << 20
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


@dataclass(frozen=True)
class DiskSpeed:
    """Bytes per second, None where it could not be measured. about: on what it was measured, or why it was not."""

    read: float | None
    write: float | None
    about: str


def measure_disk(place: Path, seconds: float = _SECONDS) -> DiskSpeed:
    """Direct reads of a file, or of a temporary one (256 MiB) that is made in a folder and whose writing is timed too.

    Raises OSError if there is nothing at `place` or it cannot be read.
    """
    device = _file_system(place)
    if device[0] in _IN_MEMORY:
        return DiskSpeed(None, None, f"not measured: {place} lies in memory ({device[0]})")
    where = f"{device[1]}, {device[0]}"
    if not place.is_dir():
        status = place.stat()
        if status.st_size < 2 * _REQUEST:
            return DiskSpeed(None, None, f"not measured: {place} is too small")
        if status.st_blocks * 512 < status.st_size * 0.9:
            return DiskSpeed(None, None, f"not measured: {place} has holes, which no disk is read for")
        return _read_only(str(place), str(place), where, seconds, None)
    try:
        return _with_temporary(place, where, seconds)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        return DiskSpeed(None, None, f"not measured: no temporary file in {place}: {error.strerror}")


def _with_temporary(folder: Path, where: str, seconds: float) -> DiskSpeed:
    piece = os.urandom(16 << 20)  # a disk that compresses gains nothing
    with tempfile.TemporaryFile(dir=folder, prefix=".pygrok-plan-") as file:
        begin = time.perf_counter()
        for _ in range(_TEMPORARY_BYTES // len(piece)):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        write = _TEMPORARY_BYTES / (time.perf_counter() - begin)
        shown = f"a temporary file of {_TEMPORARY_BYTES >> 20} MiB in {folder.absolute()}"
        return _read_only(f"/proc/self/fd/{file.fileno()}", shown, where, seconds, write)


def _read_only(path: str, shown: str, where: str, seconds: float, write: float | None) -> DiskSpeed:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return DiskSpeed(None, write, f"not measured: no direct reads of {shown} ({where})")
    try:
        read = _direct_reads(descriptor, os.fstat(descriptor).st_size, seconds)
    except OSError as error:
        if error.errno != errno.EINVAL:  # blocks larger than our alignment
            raise OSError(error.errno, f"{error.strerror} in a direct read", shown) from error
        return DiskSpeed(None, write, f"not measured: no direct reads of {shown} ({where})")
    finally:
        os.close(descriptor)
    return DiskSpeed(read, write, f"direct reads of {shown} ({where})")


def _direct_reads(descriptor: int, size: int, seconds: float) -> float:
    """Bytes per second of requests in shuffled order, several in flight."""
    places = [i * _REQUEST for i in range(size // _REQUEST)]
    random.Random(0).shuffle(places)
    begin = time.perf_counter()
    lock = threading.Lock()
    done = 0

    def reader(first: int) -> None:
        nonlocal done
        # Aligned as direct reads want it, and mostly in huge pages (docs/paging.md).
        with mmap.mmap(-1, _BUFFER) as buffer, memoryview(buffer) as slots:
            if hasattr(mmap, "MADV_HUGEPAGE"):
                with suppress(OSError):
                    buffer.madvise(mmap.MADV_HUGEPAGE)
            at = first
            while time.perf_counter() - begin < seconds:
                slot = at // _READERS * _REQUEST % _BUFFER
                with slots[slot : slot + _REQUEST] as part:
                    count = os.preadv(descriptor, [part], places[at % len(places)])
                at += _READERS
                with lock:
                    done += count
                if count == 0:  # cut while we read
                    return

    with ThreadPoolExecutor(_READERS) as pool:
        for future in [pool.submit(reader, i) for i in range(_READERS)]:
            future.result()
    return done / (time.perf_counter() - begin)


def _file_system(place: Path) -> tuple[str, str]:
    """Type and device of the file system that holds a path, as the kernel lists them."""
    number = place.stat().st_dev
    wanted = f"{os.major(number)}:{os.minor(number)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            type_, source = rest.split()[:2]
            return type_, source
    return "unknown", f"device {wanted}"
