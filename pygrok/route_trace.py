"""Which experts each token was routed to: a file of it, written while a model runs.

A file is a magic, a JSON header (see `TraceHeader`), then runs of rows and an end mark, all little-endian:

    16 bytes magic, uint32 version, uint32 bytes of the header, the header
    a run: uint32 rows n, uint32 crc32 of what follows, int32 session[n], int32 position[n],
           uint8 expert[n][layers][used], float32 probability[n][layers][experts] if the header says so
    the end: uint32 0, uint32 crc32 of what follows, uint64 rows of all runs

Rows come in the order of computing. Expert 255 means that the layer routed nothing for the token: the last one skips
those of a prompt whose logits nobody wants. Memory for writing does not grow with the trace.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pygrok.errors import FormatError
from pygrok.files import replacing

if TYPE_CHECKING:
    from types import TracebackType

    from pygrok._core import Engine, GgufFile

__all__ = [
    "NOT_ROUTED",
    "Recorder",
    "RouteTrace",
    "TraceHeader",
    "TraceWriter",
    "header_for",
    "is_trace",
    "read_trace",
]

NOT_ROUTED = 255
_MAGIC = b"pygrok.routes\0\0\0"
_VERSION = 1
_START = struct.Struct("<16sII")
_RUN = struct.Struct("<II")
_END = struct.Struct("<Q")
_HEADER_BYTES = 1 << 16  # more is no header of ours
_RUN_ROWS = 1 << 16
_LARGEST = {"layers": 4096, "experts": NOT_ROUTED, "used": NOT_ROUTED}


@dataclass(frozen=True)
class TraceHeader:
    """What the rows belong to. fingerprint: of the routers, so that the quantizations of one model share it.

    expert_bytes: of all three matrices of one expert, on average; always_bytes: what every token reads besides.
    """

    model: str
    fingerprint: str
    layers: int
    experts: int
    used: int
    expert_bytes: int
    always_bytes: int
    probabilities: bool = False


@dataclass(frozen=True)
class RouteTrace:
    """A trace in memory, n rows in the order of computing.

    sessions, positions: int32 [n]; experts: uint8 [n, layers, used], the likeliest first, `NOT_ROUTED` where a layer
    routed nothing; probabilities: float32 [n, layers, experts], or None.
    """

    header: TraceHeader
    sessions: NDArray[np.int32]
    positions: NDArray[np.int32]
    experts: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.experts)


def header_for(file: GgufFile, *, probabilities: bool = False) -> TraceHeader:
    """Of traces of this model."""
    from pygrok.footprint import footprint
    from pygrok.forecast import weights_of

    held = footprint(file)
    weights = weights_of(held)
    layers = int(held.hyperparameters.get("layers", 0))
    groups = max(1, layers * weights.expert_count)
    return TraceHeader(
        model=held.name,
        fingerprint=_fingerprint(file, layers),
        layers=layers,
        experts=weights.expert_count,
        used=weights.experts_used,
        expert_bytes=weights.expert_bytes // groups,
        always_bytes=weights.always_bytes,
        probabilities=probabilities,
    )


def _fingerprint(file: GgufFile, layers: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for layer in sorted({0, layers - 1}):
        digest.update(file.data(f"blk.{layer}.ffn_gate_inp.weight").tobytes())
    file.check()
    return digest.hexdigest()


class TraceWriter:
    """A context manager: `append` takes rows; the file appears whole at the end, beside which it grows till then.

    What was appended is kept when the block is left by an exception: a chat that Ctrl-C ended was one. Raises OSError.
    """

    def __init__(self, path: str | os.PathLike[str], header: TraceHeader) -> None:
        self._path = Path(path)
        self._header = header
        self._rows = 0

    def __enter__(self) -> TraceWriter:
        text = json.dumps(asdict(self._header)).encode()
        with ExitStack() as stack:
            partial = stack.enter_context(replacing(self._path))
            self._file: BinaryIO = stack.enter_context(partial.open("wb"))
            self._file.write(_START.pack(_MAGIC, _VERSION, len(text)) + text)
            self._writing = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._writing:
            self._write(0, _END.pack(self._rows))

    def append(
        self,
        sessions: NDArray[np.int32],
        positions: NDArray[np.int32],
        experts: NDArray[np.uint8],
        probabilities: NDArray[np.float32] | None,
    ) -> None:
        """Rows as in `RouteTrace`. Raises ValueError for other shapes."""
        h, count = self._header, len(sessions)
        shapes = [np.shape(a) for a in (positions, experts, probabilities) if a is not None]
        wanted = [(count,), (count, h.layers, h.used), (count, h.layers, h.experts)][: 2 + h.probabilities]
        if shapes != wanted:
            raise ValueError(f"rows of shapes {shapes}, expected {wanted}")
        for at in range(0, count, _RUN_ROWS):
            part = slice(at, at + _RUN_ROWS)
            payload = [sessions[part].astype("<i4"), positions[part].astype("<i4"), experts[part]]
            if probabilities is not None:
                payload.append(probabilities[part].astype("<f4"))
            self._write(len(payload[0]), b"".join(a.tobytes() for a in payload))
        self._rows += count

    def _write(self, rows: int, payload: bytes) -> None:
        self._file.write(_RUN.pack(rows, zlib.crc32(payload)) + payload)


class Recorder:
    """Moves what an engine records into a file; `pygrok.Model` drains it after every call, from any thread."""

    def __init__(self, engine: Engine, writer: TraceWriter) -> None:
        self._engine = engine
        self._writer = writer
        self._lock = threading.Lock()
        self._done = False

    def drain(self) -> None:
        """Write the rows recorded since the last call. Raises OSError."""
        with self._lock:
            if not self._done:
                self._drain()

    def _drain(self) -> None:
        sessions, positions, experts, probabilities = self._engine.take_trace()
        if len(sessions):
            self._writer.append(sessions, positions, experts, probabilities)

    def _finish(self) -> None:
        with self._lock:
            self._done = True
            try:
                self._drain()
            finally:
                self._engine.stop_trace()

    @classmethod
    @contextmanager
    def recording(
        cls, engine: Engine, file: GgufFile, path: str | os.PathLike[str], *, probabilities: bool
    ) -> Iterator[Recorder]:
        """Records while the block runs. Raises OSError."""
        with TraceWriter(path, header_for(file, probabilities=probabilities)) as writer:
            recorder = cls(engine, writer)
            engine.start_trace(probabilities)
            try:
                yield recorder
            finally:
                recorder._finish()


def is_trace(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as a trace does. Raises OSError."""
    with Path(path).open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read_trace(path: str | os.PathLike[str]) -> RouteTrace:
    """A whole trace. Raises OSError, FormatError: not a trace, damaged, cut short, or of a later version."""
    with Path(path).open("rb") as file:
        return _Reader(file, Path(path)).read()


class _Reader:
    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._size = os.fstat(file.fileno()).st_size

    def read(self) -> RouteTrace:
        header = self._header()
        runs: list[list[NDArray[Any]]] = [self._arrays(header, 0, b"")]
        total = 0
        while (run := self._run(header)) is not None:
            runs.append(run)
            total += len(run[0])
        sessions, positions, experts, *more = (np.concatenate(parts) for parts in zip(*runs, strict=True))
        if self._promised != total or self._file.tell() != self._size:
            raise self._damaged(f"the end names {self._promised} rows, {total} were found")
        bad = (experts >= header.experts) & (experts != NOT_ROUTED)
        if bad.any():
            raise self._damaged(f"row {int(np.argwhere(bad)[0][0])} names an expert beyond {header.experts}")
        return RouteTrace(header, sessions, positions, experts, more[0] if more else None)

    def _header(self) -> TraceHeader:
        magic, version, length = _START.unpack(self._bytes(_START.size))
        if magic != _MAGIC:
            raise FormatError(f"{self._path}: not a trace of routing; make one with --trace")
        if version != _VERSION:
            raise FormatError(f"{self._path}: a trace of version {version}; this pygrok reads {_VERSION}")
        if length > _HEADER_BYTES:
            raise self._damaged(f"a header of {length} bytes")
        try:
            held = json.loads(self._bytes(length))
            kinds = {f.name: {"str": str, "int": int, "bool": bool}[str(f.type)] for f in fields(TraceHeader)}
            values = {name: held[name] for name in kinds}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._damaged("its header is not one") from None
        for name, value in values.items():
            least = 1 if name in _LARGEST else 0
            most = _LARGEST.get(name, (1 << 63) - 1)
            if type(value) is not kinds[name] or (type(value) is int and not least <= value <= most):
                raise self._damaged(f"its header's {name!r} is {str(value)[:40]!r}")
        header = TraceHeader(**values)
        if header.used > header.experts:
            raise self._damaged(f"{header.used} of {header.experts} experts used")
        return header

    def _run(self, header: TraceHeader) -> list[NDArray[Any]] | None:
        """The next rows; None at the end, whose number of rows is in `_promised` then."""
        rows, checksum = _RUN.unpack(self._bytes(_RUN.size))
        if rows > _RUN_ROWS:
            raise self._damaged(f"a run of {rows} rows")
        payload = self._bytes(_END.size if rows == 0 else self._row_bytes(header) * rows)
        if zlib.crc32(payload) != checksum:
            raise self._damaged(f"a checksum differs before byte {self._file.tell()}")
        if rows == 0:
            (self._promised,) = _END.unpack(payload)
            return None
        return self._arrays(header, rows, payload)

    @staticmethod
    def _row_bytes(header: TraceHeader) -> int:
        return 8 + header.layers * (header.used + 4 * header.experts * header.probabilities)

    @staticmethod
    def _arrays(header: TraceHeader, rows: int, payload: bytes) -> list[NDArray[Any]]:
        shapes: list[tuple[str, tuple[int, ...]]] = [("<i4", (rows,)), ("<i4", (rows,))]
        shapes.append(("u1", (rows, header.layers, header.used)))
        if header.probabilities:
            shapes.append(("<f4", (rows, header.layers, header.experts)))
        arrays, offset = [], 0
        for dtype, shape in shapes:
            count = int(np.prod(shape))
            arrays.append(np.frombuffer(payload, dtype, count, offset).reshape(shape))
            offset += arrays[-1].nbytes
        return arrays

    def _bytes(self, count: int) -> bytes:
        if count > self._size - self._file.tell():  # before memory is asked for
            raise self._damaged(f"it ends at byte {self._size}")
        return self._file.read(count)

    def _damaged(self, what: str) -> FormatError:
        return FormatError(f"{self._path}: the trace is damaged or cut short ({what}); record it again")
