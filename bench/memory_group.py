"""Control groups that limit the memory of a process, of versions 1 and 2; for root."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

ROOT = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A context manager: a group with a limit, removed at the end. Raises OSError where none may be made."""

    def __init__(self, name: str, limit: int, root: Path = ROOT) -> None:
        self.limit = limit
        self.version = 2 if (root / "cgroup.controllers").is_file() else 1
        self.folder = (root if self.version == 2 else root / "memory") / f"{name}-{os.getpid()}"
        if self.version == 1 and not self.folder.parent.is_dir():
            raise OSError(f"{root}: no memory control groups are mounted there")

    def __enter__(self) -> MemoryGroup:
        try:
            if self.version == 2:
                (self.folder.parent / "cgroup.subtree_control").write_text("+memory")
            self.folder.mkdir()
            self._set("memory.max" if self.version == 2 else "memory.limit_in_bytes", self.limit)
        except PermissionError as error:
            raise OSError(
                f"{self.folder}: cannot make a memory control group ({error.strerror}): run as root"
            ) from error
        with suppress(OSError):  # not where the kernel counts no swap
            self._set(*(("memory.swap.max", 0) if self.version == 2 else ("memory.swappiness", 0)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in range(50):  # a process that was killed leaves it a little later
            try:
                self.folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.1)

    def enter(self) -> None:
        """Puts the calling process into the group."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def figures(self) -> dict[str, int]:
        """Bytes used now and at most, page cache included; how often the limit was met; kills for want of memory."""
        if self.version == 2:
            events = self._table("memory.events")
            return {
                "used_bytes": self._number("memory.current"),
                "peak_bytes": self._number("memory.peak"),
                "limit_met": events.get("max", 0),
                "kills": events.get("oom_kill", 0),
            }
        return {
            "used_bytes": self._number("memory.usage_in_bytes"),
            "peak_bytes": self._number("memory.max_usage_in_bytes"),
            "limit_met": self._number("memory.failcnt"),
            "kills": self._table("memory.oom_control").get("oom_kill", 0),
        }

    def _set(self, name: str, value: int) -> None:
        (self.folder / name).write_text(str(value))

    def _number(self, name: str) -> int:
        try:
            return int((self.folder / name).read_text())
        except (FileNotFoundError, ValueError):  # memory.peak came with Linux 5.19
            return 0

    def _table(self, name: str) -> dict[str, int]:
        lines = (self.folder / name).read_text().splitlines()
        return {key: int(value) for key, _, value in (line.partition(" ") for line in lines)}


def drop_page_cache(path: Path) -> float:
    """Throws a file out of the page cache; the share that stays. First only this file, then, as root, everything."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    left = cached_share(path)
    if left > 0.01:
        with suppress(OSError):
            os.sync()
            Path("/proc/sys/vm/drop_caches").write_text("1")
        left = cached_share(path)
    return left


def cached_share(path: Path) -> float:
    """The part of a file that is in the page cache, from every 64th page, asked for through mincore."""
    import ctypes
    import mmap

    size, page = path.stat().st_size, mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    pages = -(-size // page)
    states = (ctypes.c_ubyte * pages)()
    with path.open("rb") as file:
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        if address == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
        status = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), states)
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))
    if status != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return sum(state & 1 for state in states[::64]) / max(1, len(states[::64]))
