"""The vocabulary that `tokenizer.ggml.*` metadata needs, from a SentencePiece model.

The sentencepiece package checks the file but does not tell user-defined pieces apart, so the types come
from the model's own protocol buffer: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece

from pygrok.errors import FormatError

__all__ = ["Vocabulary", "find_tokenizer", "read_vocabulary"]

FILE_NAME = "tokenizer.model"
_NORMAL, _UNKNOWN = 1, 2  # piece types; GGUF uses SentencePiece's numbers


@dataclass(frozen=True)
class Vocabulary:
    """Pieces with their scores and types, by id. carried: all `tokenizer.*` keys of the GGUF file it comes from."""

    path: Path
    pieces: list[bytes]
    scores: list[float]
    types: list[int]
    adds_space_prefix: bool
    removes_extra_spaces: bool
    carried: dict[str, Any] | None = None

    @property
    def unknown_id(self) -> int:
        """The piece for what has no other."""
        return self.types.index(_UNKNOWN)


def find_tokenizer(directory: Path) -> Path | None:
    """tokenizer.model in the checkpoint's directory or the one above."""
    for place in (directory, directory.absolute().parent):
        if (place / FILE_NAME).is_file():
            return place / FILE_NAME
    return None


def read_vocabulary(path: str | Path, size: int) -> Vocabulary:
    """The pieces of a SentencePiece model, which must be `size`.

    Raises FormatError if it is no such model, or of another size; OSError if it cannot be read.
    """
    path = Path(path)
    content = path.read_bytes()
    try:
        # An empty file would load as an empty model.
        sound = bool(content) and sentencepiece.SentencePieceProcessor().LoadFromSerializedProto(content)
        vocabulary = _parse(path, content) if sound else None
    except (RuntimeError, ValueError, IndexError, struct.error):
        vocabulary = None
    if vocabulary is None:
        raise FormatError(f"{path}: not a SentencePiece model; give the tokenizer.model of the release")
    if len(vocabulary.pieces) != size:
        raise FormatError(
            f"{path}: {len(vocabulary.pieces)} pieces, but the model has {size} tokens; give this model's "
            "tokenizer with --tokenizer, or --no-tokenizer to write none"
        )
    return vocabulary


def _parse(path: Path, content: bytes) -> Vocabulary:
    pieces: list[bytes] = []
    scores: list[float] = []
    types: list[int] = []
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            piece = dict(_fields(value))
            pieces.append(bytes(piece.get(1, b"")))
            score = piece.get(2, b"\0\0\0\0")
            scores.append(struct.unpack("<f", score)[0] if isinstance(score, bytes) else 0.0)
            types.append(int(piece.get(3, _NORMAL)))
        elif number == 3 and isinstance(value, bytes):
            normalizer = dict(_fields(value))
    return Vocabulary(
        path,
        pieces,
        scores,
        types,
        adds_space_prefix=bool(normalizer.get(3, 1)),
        removes_extra_spaces=bool(normalizer.get(4, 1)),
    )


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field number and value of each field in a protocol buffer message; fixed-size numbers as bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if length > len(message) - at:
            raise ValueError("a field beyond the end")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than 10 bytes")
