"""Text to token ids and back: SentencePiece, from `tokenizer.model` or from a GGUF file's metadata."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from pygrok import _core
from pygrok.detokenizer import Detokenizer
from pygrok.errors import FormatError, ModelError
from pygrok.ids import TokenIds, check_ids
from pygrok.sentencepiece_proto import NO_DUMMY_PREFIX, PIECE_UNKNOWN, SpecialIds, model_proto

__all__ = ["Tokenizer"]

_KEY = "tokenizer.ggml."


class Tokenizer:
    """SentencePiece with the ids of its special pieces.

    Encoding never makes control pieces out of text such as "[EOS]". Safe to use from several threads.
    """

    def __init__(
        self,
        proto: bytes,
        *,
        source: str,
        bos_id: int | None = None,
        eos_id: int | None = None,
        pad_id: int | None = None,
        end_ids: Sequence[int] = (),
        add_bos: bool = False,
    ) -> None:
        """proto: a serialized ModelProto; source: named in errors; ids given here win over those in proto.

        Raises FormatError if SentencePiece refuses proto.
        """
        self._proto = proto
        self._source = source
        self._processor = _load_processor(proto, source)
        self._continuing: sentencepiece.SentencePieceProcessor | None = None
        self._lock = threading.Lock()
        self._surfaces: dict[int, str | int] = {}
        self.vocab_size: int = self._processor.vocab_size()
        self.bos_id = self._special(bos_id, self._processor.bos_id())
        self.eos_id = self._special(eos_id, self._processor.eos_id())
        self.pad_id = self._special(pad_id, self._processor.pad_id())
        self.end_ids = frozenset(end_ids) | ({self.eos_id} if self.eos_id is not None else set())
        """Ids that end a generation: eos and, where the file names one, end of turn."""
        self.add_bos = add_bos and self.bos_id is not None
        """Whether a prompt starts with bos (never for Grok-1)."""
        self._strips_leading_space = self._finds_dummy_prefix()

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Load a `tokenizer.model`. Raises OSError, FormatError."""
        name = os.fspath(path)
        return cls(Path(name).read_bytes(), source=name)

    @classmethod
    def from_gguf(cls, file: str | os.PathLike[str] | _core.GgufFile) -> Tokenizer:
        """Rebuild from a GGUF file's metadata; `file` is a path or an open file.

        Raises OSError, FormatError (damaged metadata), ModelError (no tokenizer, or one of another kind).
        """
        gguf = _core.GgufFile(os.fspath(file)) if isinstance(file, str | os.PathLike) else file
        path = gguf.paths[0]
        kind = gguf.get(_KEY + "model")
        if kind is None or (isinstance(kind, str) and kind in ("none", "no_vocab")):
            raise ModelError(
                f"{path}: the file holds no tokenizer: use token ids, or convert it with --tokenizer"
            )
        if not isinstance(kind, str) or kind != "llama":
            raise ModelError(f"{path}: {_KEY}model is {kind!r}: only SentencePiece ('llama') is known")
        pieces = gguf.get(_KEY + "tokens")
        if not isinstance(pieces, list) or not pieces:
            raise FormatError(f"{path}: {_KEY}tokens is missing, empty or no array of strings")
        scores = _numbers(gguf, "scores", len(pieces), "iuf").astype(np.float32)
        types = [int(x) for x in _numbers(gguf, "token_type", len(pieces), "iu")]
        _check_pieces(path, pieces)
        bos, eos, pad = (_optional_id(gguf, f"{name}_token_id") for name in ("bos", "eos", "padding"))
        unk = _optional_id(gguf, "unknown_token_id")
        if unk is None:
            unk = types.index(PIECE_UNKNOWN) if PIECE_UNKNOWN in types else -1
        ids = [-1 if x is None else x for x in (unk, bos, eos, pad)]
        try:
            proto = model_proto(
                pieces,
                scores,
                types,
                SpecialIds(*ids),
                add_dummy_prefix=_flag(gguf, "add_space_prefix", True),
                remove_extra_whitespaces=_flag(gguf, "remove_extra_whitespaces", False),
            )
        except ValueError as error:
            raise FormatError(f"{path}: {_KEY}*: {error}") from None
        end_of_turn = _optional_id(gguf, "eot_token_id")
        if end_of_turn is not None and not 0 <= end_of_turn < len(pieces):
            raise FormatError(
                f"{path}: {_KEY}eot_token_id is {end_of_turn}: the vocabulary has {len(pieces)} ids"
            )
        return cls(
            proto,
            source=path,
            bos_id=bos,
            eos_id=eos,
            pad_id=pad,
            end_ids=() if end_of_turn is None else (end_of_turn,),
            add_bos=_flag(gguf, "add_bos_token", False),
        )

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"Tokenizer({self._source!r}, vocab_size={self.vocab_size})"

    def encode(self, text: str, *, add_dummy_prefix: bool = True) -> list[int]:
        """Return SentencePiece's ids of text, without bos.

        add_dummy_prefix=False encodes a text that continues another: no space is put in front of it.
        Raises TypeError if text is no str, ValueError if it holds a lone surrogate.
        """
        if not isinstance(text, str):
            raise TypeError(f"text is {type(text).__name__}: give a str")
        try:
            raw = text.encode("utf-8")
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise ValueError(
                f"text holds a lone surrogate U+{code:04X} at index {error.start}: not valid Unicode"
            ) from None
        processor = self._processor if add_dummy_prefix else self._continuing_processor()
        ids: list[int] = processor.encode(raw)
        return ids

    def decode(self, ids: TokenIds) -> str:
        """Return the text of ids, as SentencePiece's decode does; control pieces are invisible.

        Bytes that form no character give U+FFFD each. Raises ValueError for an id outside the vocabulary.
        """
        detokenizer = Detokenizer(self)
        text = detokenizer.feed_all(check_ids(ids, self.vocab_size).tolist())
        return text + detokenizer.finish()

    def detokenizer(self, *, continuing: bool = False) -> Detokenizer:
        """A streaming decoder. continuing: the ids follow other text, whose leading space they keep."""
        return Detokenizer(self, continuing=continuing)

    def piece(self, token: int) -> str:
        """The piece of an id, as stored (U+2581 stands for a space)."""
        text: str = self._processor.id_to_piece(self._checked(token))
        return text

    def piece_id(self, piece: str) -> int | None:
        """The id of a piece, None if the vocabulary has none such."""
        token: int = self._processor.piece_to_id(piece)
        return token if 0 <= token < self.vocab_size and self.piece(token) == piece else None

    def is_control(self, token: int) -> bool:
        """Whether the id is a control piece such as bos."""
        return bool(self._processor.is_control(self._checked(token)))

    def is_byte(self, token: int) -> bool:
        """Whether the id is a byte piece, <0x00> to <0xFF>."""
        return bool(self._processor.is_byte(self._checked(token)))

    @property
    def control_ids(self) -> list[int]:
        """All control pieces' ids."""
        return [i for i in range(self.vocab_size) if self._processor.is_control(i)]

    @property
    def strips_leading_space(self) -> bool:
        """Whether decoding takes off one leading space, the dummy prefix."""
        return self._strips_leading_space

    def surface(self, token: int) -> str | int:
        """What an id adds to a text: its piece, "" for a control piece, the value of a byte piece."""
        known = self._surfaces.get(token)
        if known is not None:
            return known
        processor, token = self._processor, self._checked(token)
        surface: str | int = processor.id_to_piece(token)
        if processor.is_byte(token):
            surface = int(str(surface)[3:5], 16)
        elif processor.is_control(token):
            surface = ""
        elif processor.is_unknown(token):
            surface = processor.decode([token])
        self._surfaces[token] = surface
        return surface

    def _checked(self, token: int) -> int:
        return int(check_ids([token], self.vocab_size)[0])

    def _special(self, given: int | None, own: int) -> int | None:
        token = own if given is None else given
        if token < 0:
            return None
        if token >= self.vocab_size:
            raise FormatError(
                f"{self._source}: a special id is {token}: the vocabulary has {self.vocab_size} ids"
            )
        return token

    def _finds_dummy_prefix(self) -> bool:
        # The binding tells nothing of the normalizer: see what decoding does to a leading space.
        for token in range(self.vocab_size):
            piece = self._processor.id_to_piece(token)
            if piece.startswith("\u2581"):
                return len(self._processor.decode([token])) < len(piece)
        return False

    def _continuing_processor(self) -> sentencepiece.SentencePieceProcessor:
        with self._lock:
            if self._continuing is None:
                self._continuing = _load_processor(self._proto + NO_DUMMY_PREFIX, self._source)
            return self._continuing


def _load_processor(proto: bytes, source: str) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(proto)
        valid = processor.vocab_size() > 0
    except (RuntimeError, OSError, TypeError) as error:
        # What the parser says of bytes that do not parse is its own source line.
        reason = "it does not parse" if ".cc(" in str(error) else " ".join(str(error).split())
        raise FormatError(f"{source}: not a SentencePiece model: {reason}") from None
    if not valid:
        raise FormatError(f"{source}: not a SentencePiece model: it holds no pieces")
    return processor


def _numbers(gguf: _core.GgufFile, name: str, count: int, kinds: str) -> np.ndarray[Any, np.dtype[Any]]:
    values = gguf.get(_KEY + name)
    if not isinstance(values, np.ndarray) or values.shape != (count,) or values.dtype.kind not in kinds:
        raise FormatError(f"{gguf.paths[0]}: {_KEY}{name} is missing or is no array of {count} numbers")
    return values


def _flag(gguf: _core.GgufFile, name: str, default: bool) -> bool:
    value = gguf.get(_KEY + name, default)
    if not isinstance(value, int):
        raise FormatError(f"{gguf.paths[0]}: {_KEY}{name} is no truth value")
    return bool(value)


def _optional_id(gguf: _core.GgufFile, name: str) -> int | None:
    value = gguf.get(_KEY + name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise FormatError(f"{gguf.paths[0]}: {_KEY}{name} is {value!r}: a token id is a whole number")
    # Converters write 2^32 - 1 for "none".
    return None if value == 0xFFFFFFFF or value < 0 else value


def _check_pieces(path: str, pieces: list[bytes]) -> None:
    try:
        b"\0".join(pieces).decode("utf-8")
    except UnicodeDecodeError as error:
        index = b"\0".join(pieces)[: error.start].count(b"\0")
        raise FormatError(f"{path}: {_KEY}tokens: a piece near {index} is not UTF-8") from None
    if not all(pieces):
        raise FormatError(f"{path}: {_KEY}tokens[{pieces.index(b'')}] is empty")
