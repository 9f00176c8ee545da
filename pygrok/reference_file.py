"""Log-probabilities of a model for a text, on disk, to compare other models with.

A file is a header (see `_HEADER`) and one record for every scored token, in order: float32 top, float32 step,
uint32 crc32 of those and the codes, uint16 codes[vocab], all little-endian. Token i's log-probability is top - step *
codes[i], top being the largest of the row and step its range / 65535.

Why 16 bits suffice: a row of 32 nats has a step of 4.9e-4, so values are off by at most 2.5e-4, evenly spread. Since
readers normalise the rows again, that changes a divergence by no more than step^2 / 24 = 1e-8 nats on average (half the
variance of the error). Measured on Nano: 4.5e-9; with float16 values, whose steps grow with -log p, 5.3e-7.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import struct
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import FormatError, ModelError
from pygrok.files import replacing

__all__ = ["Header", "ReferenceFile", "ReferenceWriter", "file_bytes"]

_MAGIC = b"pygrok.logprobs"
_VERSION = 1
# magic, version, vocabulary, tokens of the text, window, stride, sha256 of the text and of its ids (int32)
_HEADER = struct.Struct("<16sIIQII32s32s")
_RECORD = struct.Struct("<ffI")
_MOST = 65535


@dataclass(frozen=True)
class Header:
    """What the rows of a file belong to."""

    vocab: int
    tokens: int
    window: int
    stride: int
    text_hash: bytes
    ids_hash: bytes

    @classmethod
    def of(cls, text: str, ids: NDArray[np.int32], vocab: int, window: int, stride: int) -> Header:
        """For these ids of this text, scored in such windows."""
        ids_hash = hashlib.sha256(ids.astype("<i4").tobytes()).digest()
        return cls(vocab, len(ids), window, stride, hashlib.sha256(text.encode()).digest(), ids_hash)


def file_bytes(header: Header) -> int:
    """Size of such a file: two bytes for each entry of the vocabulary and token."""
    return _HEADER.size + (header.tokens - 1) * (_RECORD.size + 2 * header.vocab)


class ReferenceWriter:
    """A context manager: `append` takes the rows in order; the file appears whole at the end, or not at all.

    Raises FileExistsError unless `force`, OSError (ENOSPC) with both sizes if the disk cannot hold the file.
    """

    def __init__(self, path: str | os.PathLike[str], header: Header, *, force: bool = False) -> None:
        self._path = Path(path)
        self._header = header
        self._left = header.tokens - 1
        if self._path.exists() and not force:
            raise FileExistsError(errno.EEXIST, "exists; --force overwrites it", str(self._path))
        if not self._path.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such directory", str(self._path.parent))
        needed, free = file_bytes(header), shutil.disk_usage(self._path.parent).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"the logits take {needed} bytes, the disk has {free}; use fewer tokens (--max-tokens)",
                str(self._path),
            )

    def __enter__(self) -> ReferenceWriter:
        h = self._header
        with ExitStack() as stack:
            partial = stack.enter_context(replacing(self._path))
            self._file: BinaryIO = stack.enter_context(partial.open("wb"))
            self._file.write(
                _HEADER.pack(_MAGIC, _VERSION, h.vocab, h.tokens, h.window, h.stride, h.text_hash, h.ids_hash)
            )
            self._writing = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and self._left:
            with self._writing:
                raise ValueError(f"{self._left} tokens have no rows")
        self._writing.__exit__(kind, error, trace)

    def append(self, logits: NDArray[np.float32]) -> None:
        """The next rows, float32 [n, vocab]. Raises ModelError for values that are not numbers."""
        if len(logits) > self._left or logits.shape[1] != self._header.vocab:
            raise ValueError(f"rows of shape {list(logits.shape)} are more than the file has room for")
        for row in logits:
            top, low = float(row.max()), float(row.min())
            if not np.isfinite([top, low]).all():
                raise ModelError("the logits are not numbers: the model's weights are damaged")
            step = np.float32((top - low) / _MOST)
            below = top - row.astype(np.float64)
            codes = np.minimum(np.rint(below / step), _MOST) if step > 0 else np.zeros(len(row))
            shift = -np.log(np.exp(-below).sum())  # of the largest log-probability
            packed = codes.astype("<u2").tobytes()
            start = struct.pack("<ff", shift, step)
            self._file.write(start + struct.pack("<I", zlib.crc32(packed, zlib.crc32(start))) + packed)
            self._left -= 1


class ReferenceFile:
    """An opened file, mapped: `rows` decodes some. Raises OSError, FormatError (one line)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        size = Path(path).stat().st_size
        raw = b""
        if size >= _HEADER.size:
            self._file = _core.MappedFile(path)
            self._data = self._file.data
            raw = self._data[: _HEADER.size].tobytes()
        if not raw.startswith(_MAGIC):
            raise FormatError(f"{self.path}: not logits that `pygrok perplexity --save-logits` wrote")
        _, version, *values = _HEADER.unpack(raw)
        if version != _VERSION:
            raise FormatError(
                f"{self.path}: version {version} of the format, expected {_VERSION}; save them anew"
            )
        self.header = Header(*values)
        h = self.header
        if not (h.vocab > 0 and h.tokens > 1 and 1 <= h.stride < h.window) or size != file_bytes(h):
            raise FormatError(
                f"{self.path}: damaged: {size} bytes for {h.tokens} tokens of {h.vocab} logits; save them anew"
            )

    def check(self, header: Header) -> None:
        """Raises ValueError saying what differs unless the rows are those of `header`."""
        mine = self.header
        for same, what in (
            (mine.vocab == header.vocab, f"a vocabulary of {mine.vocab}, the model has {header.vocab}"),
            (mine.text_hash == header.text_hash, "another text: give the one that the logits were saved for"),
            (
                mine.tokens == header.tokens,
                f"{mine.tokens} tokens, here are {header.tokens}: give the same --max-tokens",
            ),
            (mine.ids_hash == header.ids_hash, "another tokenizer: both models must cut the text alike"),
            (
                (mine.window, mine.stride) == (header.window, header.stride),
                f"windows of {mine.window} every {mine.stride}, not {header.window} every {header.stride}",
            ),
        ):
            if not same:
                raise ValueError(f"{self.path}: its logits are of {what}")

    def rows(self, begin: int, end: int) -> NDArray[np.float32]:
        """Log-probabilities of scored tokens begin to end, float32 [n, vocab]. Raises FormatError if damaged."""
        vocab = self.header.vocab
        record = _RECORD.size + 2 * vocab
        result = np.empty((end - begin, vocab), np.float32)
        for i in range(begin, end):
            raw = self._data[_HEADER.size + i * record :][:record]
            top, step, crc = _RECORD.unpack(raw[: _RECORD.size].tobytes())
            codes = raw[_RECORD.size :]
            if zlib.crc32(codes.tobytes(), zlib.crc32(raw[:8].tobytes())) != crc:
                self._file.check()
                raise FormatError(
                    f"{self.path}: damaged: the checksum of token {i + 1} is wrong; save them anew"
                )
            np.multiply(codes.view("<u2"), np.float32(-step), out=result[i - begin])
            result[i - begin] += np.float32(top)
        self._file.check()
        return result
