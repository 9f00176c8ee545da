"""Ids to text, one id at a time, without ever showing half a character.

Invariant: the concatenation of everything `feed` returned and `finish` equals SentencePiece's decode of all
ids (with `continuing=True`: of all ids, with the leading space kept).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

__all__ = ["Detokenizer", "PieceTable"]

_SPACE_MARK = "\u2581"  # stands for a space inside pieces
_REPLACEMENT = "\ufffd"


class PieceTable(Protocol):
    """What a detokenizer needs of a tokenizer."""

    def surface(self, token: int) -> str | int:
        """The piece's text (marks for spaces, "" for control pieces), or a byte piece's value."""

    @property
    def strips_leading_space(self) -> bool:
        """Whether the first piece's leading space is the dummy prefix, to be taken off."""


def _expected_length(lead: int) -> int:
    """Bytes of the UTF-8 character that a lead byte opens; 0 for a byte that opens none."""
    if lead < 0x80:
        return 1
    if 0xC2 <= lead <= 0xDF:
        return 2
    if 0xE0 <= lead <= 0xEF:
        return 3
    if 0xF0 <= lead <= 0xF4:
        return 4
    return 0


def _decode(character: bytearray) -> str | None:
    try:
        return character.decode("utf-8")
    except UnicodeDecodeError:  # overlong, surrogate or above U+10FFFF
        return None


class Detokenizer:
    """Turns a stream of ids into text that is whole UTF-8.

    Byte pieces are held until they form a character. A byte that cannot become part of one gives U+FFFD, one
    for each byte, as SentencePiece does.
    """

    def __init__(self, pieces: PieceTable, *, continuing: bool = False) -> None:
        """continuing: the ids follow other text, so a leading space is part of the text."""
        self._pieces = pieces
        self._bytes = bytearray()
        self._at_start = pieces.strips_leading_space and not continuing

    @property
    def pending(self) -> bool:
        """Whether bytes of an unfinished character are held back."""
        return bool(self._bytes)

    def feed(self, token: int) -> str:
        """Take one id; return the text that is now certain (often "")."""
        surface = self._pieces.surface(token)
        if isinstance(surface, int):
            self._bytes.append(surface)
            return self._whole_characters()
        # A piece that is no byte ends a run of bytes; an invisible one does too.
        text = self._flush()
        if self._at_start and surface:
            self._at_start = False
            surface = surface.removeprefix(_SPACE_MARK)
        return text + surface.replace(_SPACE_MARK, " ")

    def feed_all(self, tokens: Iterable[int]) -> str:
        """Take several ids; return their text."""
        return "".join([self.feed(token) for token in tokens])

    def finish(self) -> str:
        """Return what is still held, bytes of unfinished characters as U+FFFD each."""
        return self._flush()

    def _whole_characters(self) -> str:
        held, out = self._bytes, []
        while held:
            length = _expected_length(held[0])
            have = min(len(held), length)
            character: str | None = None
            if length and all(0x80 <= byte <= 0xBF for byte in held[1:have]):
                if have < length:
                    break
                character = _decode(held[:length])
            out.append(_REPLACEMENT if character is None else character)
            del held[: 1 if character is None else length]
        if out:
            self._at_start = False
        return "".join(out)

    def _flush(self) -> str:
        out = ""
        while self._bytes:
            del self._bytes[0]
            out += _REPLACEMENT + self._whole_characters()
        if out:
            self._at_start = False
        return out
