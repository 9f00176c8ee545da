"""A SentencePiece model built from pieces, scores and types, in the protobuf wire format.

A GGUF file keeps only those three arrays and a few ids. SentencePiece loads a serialized `ModelProto`
(sentencepiece_model.proto of https://github.com/google/sentencepiece), so one is written here by hand, which
needs no protobuf runtime and takes a fraction of a second for 131072 pieces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "NO_DUMMY_PREFIX",
    "PIECE_BYTE",
    "PIECE_CONTROL",
    "PIECE_NORMAL",
    "PIECE_UNKNOWN",
    "PIECE_UNUSED",
    "PIECE_USER_DEFINED",
    "SpecialIds",
    "model_proto",
]

# ModelProto.SentencePiece.Type; GGUF's tokenizer.ggml.token_type uses the same numbers.
PIECE_NORMAL, PIECE_UNKNOWN, PIECE_CONTROL, PIECE_USER_DEFINED, PIECE_UNUSED, PIECE_BYTE = range(1, 7)

_MODEL_PIECES, _MODEL_TRAINER, _MODEL_NORMALIZER = 1, 2, 3
_PIECE_TEXT, _PIECE_SCORE, _PIECE_TYPE = 1, 2, 3
_TRAINER_MODEL_TYPE, _TRAINER_VOCAB_SIZE, _TRAINER_BYTE_FALLBACK = 3, 4, 35
_TRAINER_UNK_ID, _TRAINER_BOS_ID, _TRAINER_EOS_ID, _TRAINER_PAD_ID = 40, 41, 42, 43
_TRAINER_UNK_SURFACE, _TRAINER_UNK_PIECE = 44, 45
_TRAINER_BOS_PIECE, _TRAINER_EOS_PIECE, _TRAINER_PAD_PIECE = 46, 47, 48
_NORMALIZER_NAME, _NORMALIZER_DUMMY_PREFIX, _NORMALIZER_TRIM, _NORMALIZER_ESCAPE = 1, 3, 4, 5
_MODEL_TYPE_BPE = 2


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special pieces; -1 where the model has none."""

    unk: int
    bos: int = -1
    eos: int = -1
    pad: int = -1


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # negative int32 fields are sign-extended to 64 bits
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


NO_DUMMY_PREFIX = _bytes(_MODEL_NORMALIZER, _number(_NORMALIZER_DUMMY_PREFIX, 0))
"""Appended to a serialized model, turns its dummy prefix off: submessages merge, the last value wins."""


def _piece_messages(pieces: Sequence[bytes], scores: NDArray[np.float32], types: Sequence[int]) -> bytes:
    text_tag = _varint(_PIECE_TEXT << 3 | 2)
    score_tag = _varint(_PIECE_SCORE << 3 | 5)
    type_tag = _varint(_PIECE_TYPE << 3)
    piece_tag = _varint(_MODEL_PIECES << 3 | 2)
    lengths = [_varint(n) for n in range(512)]
    packed = scores.astype("<f4").tobytes()
    tails = [type_tag + _varint(kind) for kind in range(PIECE_BYTE + 1)]
    out: list[bytes] = []
    for i, piece in enumerate(pieces):
        size = lengths[len(piece)] if len(piece) < 512 else _varint(len(piece))
        body = b"".join((text_tag, size, piece, score_tag, packed[4 * i : 4 * i + 4], tails[types[i]]))
        size = lengths[len(body)] if len(body) < 512 else _varint(len(body))
        out += (piece_tag, size, body)
    return b"".join(out)


def model_proto(
    pieces: Sequence[bytes],
    scores: NDArray[np.float32],
    types: Sequence[int],
    special: SpecialIds,
    *,
    add_dummy_prefix: bool = True,
    remove_extra_whitespaces: bool = False,
) -> bytes:
    """Serialize a BPE model with an identity normalizer, as Grok-1's tokenizer.model has it.

    pieces: UTF-8, V of them. scores: float32 [V]. types: V numbers 1 to 6 (PIECE_*).
    Raises ValueError when the three do not agree in length or an id or type is out of range.
    """
    count = len(pieces)
    if len(scores) != count or len(types) != count:
        raise ValueError(
            f"{count} pieces, {len(scores)} scores and {len(types)} types: the numbers must agree"
        )
    for index, kind in enumerate(types):
        if not PIECE_NORMAL <= kind <= PIECE_BYTE:
            raise ValueError(f"piece {index} has type {kind}: known types are {PIECE_NORMAL} to {PIECE_BYTE}")
    trainer = _number(_TRAINER_MODEL_TYPE, _MODEL_TYPE_BPE) + _number(_TRAINER_VOCAB_SIZE, count)
    trainer += _number(_TRAINER_BYTE_FALLBACK, int(PIECE_BYTE in types))
    for label, value, id_field, piece_field in (
        ("unknown", special.unk, _TRAINER_UNK_ID, _TRAINER_UNK_PIECE),
        ("bos", special.bos, _TRAINER_BOS_ID, _TRAINER_BOS_PIECE),
        ("eos", special.eos, _TRAINER_EOS_ID, _TRAINER_EOS_PIECE),
        ("pad", special.pad, _TRAINER_PAD_ID, _TRAINER_PAD_PIECE),
    ):
        if not -1 <= value < count:
            raise ValueError(f"the {label} id is {value}: the vocabulary has ids 0 to {count - 1}")
        trainer += _number(id_field, value)
        if value >= 0:
            trainer += _bytes(piece_field, pieces[value])
    if special.unk >= 0:
        trainer += _bytes(_TRAINER_UNK_SURFACE, pieces[special.unk])
    normalizer = (
        _bytes(_NORMALIZER_NAME, b"identity")
        + _number(_NORMALIZER_DUMMY_PREFIX, int(add_dummy_prefix))
        + _number(_NORMALIZER_TRIM, int(remove_extra_whitespaces))
        + _number(_NORMALIZER_ESCAPE, 1)
    )
    return b"".join(
        (
            _piece_messages(pieces, scores, types),
            _bytes(_MODEL_TRAINER, trainer),
            _bytes(_MODEL_NORMALIZER, normalizer),
        )
    )
