"""Writes a GGUF file beside its destination and puts it there in one step, or leaves nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import gguf
import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import ModelError
from pygrok.quantize.plan import Plan

__all__ = ["GgufFileWriter", "format_bytes"]

ALIGNMENT = 32
HEADER_ALLOWANCE = 16 << 20  # metadata of 131072 tokens and infos of 770 tensors take 4 MB


def format_bytes(n: int) -> str:
    """As in `8.1 GB` (powers of ten)."""
    if n < 1000:
        return f"{n} bytes"
    size = float(n)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.2f} TB"


class GgufFileWriter:
    """A context manager: `write` takes the tensors' bytes in order, `finish` moves the file into place.

    The bytes go to `.NAME.partial` in the destination's directory, locked while it is written. Left without
    `finish`, it is removed; a process that was killed leaves it behind, and the next one takes it over.

    Raises FileExistsError if the destination exists and `force` is not set, ModelError if another process
    is writing it, OSError (ENOSPC) with both sizes if the disk cannot hold the file.
    """

    def __init__(self, destination: Path, plan: Plan, force: bool) -> None:
        self.destination = destination
        self.plan = plan
        self.force = force
        self.partial = destination.parent / f".{destination.name}.partial"
        self._file: BinaryIO | None = None
        self._left = 0

    def __enter__(self) -> GgufFileWriter:
        self.check_destination()
        self._file = self._lock_partial()
        try:
            self._file.truncate(0)
            self._check_space()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._discard()
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(
                error.errno,
                f"{os.strerror(error.errno)} before all of {format_bytes(self.plan.nbytes)} was written; "
                "nothing is left of it: free space or write to another disk",
                str(self.destination),
            ) from error

    def check_destination(self) -> None:
        """Refuses what could not be written or should not be overwritten."""
        if self.destination.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a directory; give a file name", str(self.destination))
        if self.destination.exists() and not self.force:
            raise FileExistsError(errno.EEXIST, "exists; --force overwrites it", str(self.destination))
        if not self.destination.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(self.destination.parent))

    def write_header(self, add_metadata: Callable[[gguf.GGUFWriter], None]) -> None:
        """Metadata and tensor infos, up to the first tensor's bytes."""
        assert self._file is not None
        numbers = {name: values[0] for name, values in _core.tensor_types().items()}
        writer = gguf.GGUFWriter(None, "grok")
        add_metadata(writer)
        for tensor in self.plan.tensors:
            writer.add_tensor_info(
                tensor.name,
                tensor.shape,
                np.dtype(np.float32),  # not looked at: the raw type follows
                tensor.nbytes,
                gguf.GGMLQuantizationType(numbers[tensor.type]),
            )
        writer.write_header_to_file(self.partial)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        self._file.seek(0, os.SEEK_END)
        self._pad(self._file.tell())

    def write(self, data: NDArray[np.uint8]) -> None:
        """Some of a tensor's bytes."""
        assert self._file is not None
        view = memoryview(data.reshape(-1))  # type: ignore[arg-type]  # numpy's stubs lack the buffer before 3.12
        while view:
            view = view[self._file.write(view) :]

    def end_tensor(self, nbytes: int) -> None:
        """Fills up to the next tensor's place."""
        self._pad(nbytes)

    def finish(self) -> None:
        """Waits until the bytes are on the disk, then replaces the destination."""
        assert self._file is not None
        os.fsync(self._file.fileno())
        if self.destination.exists() and not self.force:  # it may have appeared meanwhile
            self.check_destination()
        self.partial.replace(self.destination)
        self._file.close()
        self._file = None
        directory = os.open(self.destination.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _lock_partial(self) -> BinaryIO:
        while True:
            file = open(os.open(self.partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)  # noqa: PTH123, SIM115
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Another process may have moved or removed the file between our open and our lock.
                if os.fstat(file.fileno()).st_ino == self.partial.stat().st_ino:
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
        needed = self.plan.nbytes + HEADER_ALLOWANCE
        free = shutil.disk_usage(self.destination.parent).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"needs {format_bytes(needed)}, the disk has {format_bytes(free)} free; free space, choose "
                "a smaller --type, or write to another disk",
                str(self.destination),
            )

    def _pad(self, position: int) -> None:
        assert self._file is not None
        self._file.write(b"\0" * (-position % ALIGNMENT))

    def _discard(self) -> None:
        if self._file is not None:
            self.partial.unlink(missing_ok=True)
            self._file.close()
            self._file = None
