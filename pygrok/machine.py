"""What this machine has for running a model, measured in seconds: memory, its bandwidth, the speed of the kernels."""

from __future__ import annotations

import mmap
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pygrok import _core

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Memory",
    "Weights",
    "conversion_rate",
    "decode_rate",
    "memory",
    "read_rate",
    "sample_bytes",
    "sample_weights",
]

# More than a share of any last-level cache that one job gets; the bandwidth of `pygrok bench` is that of up to 1 GiB.
SAMPLE_BYTES = 384 << 20
_PASSES = 5
_COLUMNS = 6144  # Grok-1's, for types that no file at hand has
_POOL_ROWS = 64
_CONVERTED_ROWS = 256
_CONVERSION_SECONDS = 0.2


class Memory(NamedTuple):
    """Bytes. available: without swapping, page cache that can be dropped included. limit: what sets it."""

    total: int
    available: int
    limit: str


def memory(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> Memory:
    """Memory of the machine, or of the control group of this process that leaves it least. Raises OSError."""
    fields = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        fields[name] = int(value.split()[0]) * 1024
    best = Memory(fields["MemTotal"], fields.get("MemAvailable", fields["MemTotal"]), "the machine")
    for folder in _memory_groups(proc, cgroups):
        limit = _number(folder, "memory.max", "memory.limit_in_bytes")
        used = _number(folder, "memory.current", "memory.usage_in_bytes")
        if limit is None or used is None or limit >= best.total:
            continue
        # The page cache is charged to the group, and goes when room is needed.
        available = max(0, limit - max(0, used - _group_page_cache(folder)))
        best = Memory(limit, min(available, best.available), f"control group {folder.relative_to(cgroups)}")
    return best


def _memory_groups(proc: Path, cgroups: Path) -> Iterator[Path]:
    """This process's memory groups (of version 1 or 2) and those above them."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        root = cgroups / controllers
        inner = PurePosixPath(path.lstrip("/"))
        for part in (inner, *inner.parents):
            # In a container the path may be the host's, of which only the mounted root can be seen.
            if (root / part).is_dir():
                yield root / part


def _number(folder: Path, *names: str) -> int | None:
    for name in names:
        try:
            return int((folder / name).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return None


def _group_page_cache(folder: Path) -> int:
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    stat = {name: int(value) for name, _, value in (line.partition(" ") for line in lines) if value.isdigit()}
    # Version 1 counts the groups below in the names with total_ only; version 2 has no such names.
    return sum(stat.get(f"total_{name}", stat.get(name, 0)) for name in ("inactive_file", "active_file"))


@dataclass(frozen=True)
class Weights:
    """Rows [rows, bytes of a row] of blocks, which lie in a file from `offset` on."""

    type: str
    rows: NDArray[np.uint8]
    columns: int
    path: str
    offset: int


def read_rate(weights: Weights, threads: int) -> float:
    """Bytes per second at which threads read the mapped rows, which are brought into memory first: the best pass."""
    return max(
        _core.read_bandwidth(weights.path, weights.offset, weights.rows.nbytes, threads) for _ in range(2)
    )


def decode_rate(weights: Weights, threads: int) -> float:
    """Bytes per second at which decoding goes through such weights: the median of a few passes over one token.

    Activations are those that the engine takes by default for the type.
    """
    tokens = 3 if weights.type == "q8_0" else 1  # three int8 for each activation: docs/architecture.md
    x = np.random.default_rng(0).standard_normal((tokens, weights.columns), dtype=np.float32)

    def seconds() -> float:
        return _core.kernels.time_matmul(weights.type, weights.rows, x, "", threads, 1)

    seconds()  # brings the pages into memory
    return weights.rows.nbytes / statistics.median(seconds() for _ in range(_PASSES))


def sample_bytes(available: int) -> int:
    """How much to measure with where `available` bytes of memory are free."""
    return max(1 << 20, min(SAMPLE_BYTES, available // 8))


@contextmanager
def sample_weights(type: str, nbytes: int) -> Iterator[Weights]:
    """About `nbytes` of random weights of a type in a file in memory, mapped like a model's."""
    pool = _random_rows(type)
    count = max(1, nbytes // pool.nbytes)
    descriptor = os.memfd_create("pygrok-plan")
    try:
        os.truncate(descriptor, count * pool.nbytes)
        mapped = mmap.mmap(descriptor, count * pool.nbytes)  # closed with the last array over it
        rows = np.frombuffer(mapped, np.uint8).reshape(count * len(pool), -1)
        for i in range(count):
            rows[i * len(pool) : (i + 1) * len(pool)] = pool
        yield Weights(type, rows, _COLUMNS, f"/proc/self/fd/{descriptor}", 0)
    finally:
        os.close(descriptor)


def _random_rows(type: str) -> NDArray[np.uint8]:
    values = np.random.default_rng(1).standard_normal((_POOL_ROWS, _COLUMNS), dtype=np.float32)
    importance = np.ones(_COLUMNS, np.float32)
    return _core.quantize_rows(type, values / np.float32(np.sqrt(_COLUMNS)), 0, importance)


def conversion_rate(type: str, threads: int) -> float:
    """Values per second of a released checkpoint that become blocks of this type."""
    rng = np.random.default_rng(2)
    stored = rng.integers(-127, 128, (_COLUMNS, _CONVERTED_ROWS), dtype=np.int8)
    scales = np.full((8, _CONVERTED_ROWS), 0x3A00, np.uint16)  # 2^-11 as bfloat16
    _, block, block_bytes = _core.tensor_types()[type]
    out = np.empty((_CONVERTED_ROWS, _COLUMNS // block * block_bytes), np.uint8)
    importance = np.ones(_COLUMNS, np.float32)
    converter = _core.Converter(threads)
    seconds = _seconds_each(lambda: converter.convert(stored, scales, True, type, 0, out, importance))
    return stored.size / seconds


def _seconds_each(work: Callable[[], object]) -> float:
    """The median of as many runs as fit the time, the first one left out unless it takes that long."""
    begin = time.perf_counter()
    work()
    first = time.perf_counter() - begin
    if first > _CONVERSION_SECONDS:
        return first
    runs: list[float] = []
    while sum(runs) < _CONVERSION_SECONDS:
        begin = time.perf_counter()
        work()
        runs.append(time.perf_counter() - begin)
    return statistics.median(runs)
