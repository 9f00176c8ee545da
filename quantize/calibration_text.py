"""Token ids to calibrate on, from text files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pygrok.files import read_text
from pygrok.quantize.source import SourceModel
from pygrok.quantize.tokenizer import Vocabulary
from pygrok.tokenizer import Tokenizer

__all__ = ["CHUNK", "TOKENS", "calibration_ids"]

TOKENS = 32768
CHUNK = 512
_CHARACTERS = 16  # of a token, at most, in what is encoded to get a chunk


def calibration_ids(
    source: SourceModel, vocabulary: Vocabulary, texts: Sequence[Path], tokens: int, chunk: int = CHUNK
) -> list[NDArray[np.int32]]:
    """Chunks of at most `chunk` tokens, about `tokens` in all, spread evenly over the files and over each of them.

    Raises OSError, and ValueError for a file that is not UTF-8 or texts without tokens.
    """
    if vocabulary.carried is not None:
        tokenizer = Tokenizer.from_gguf(source.files[0])
    else:
        tokenizer = Tokenizer.from_file(vocabulary.path)
    count = max(1, tokens // chunk // len(texts))
    chunks = []
    for path in texts:
        pieces = _pieces(tokenizer, read_text(path), chunk, count)
        chosen = np.linspace(0, len(pieces), min(count, len(pieces)), endpoint=False).astype(int)
        chunks += [np.array(pieces[i], np.int32) for i in chosen]
    if not chunks:
        raise ValueError(f"{texts[0]}: no text to calibrate on")
    left = tokens
    result = []
    for ids in chunks:
        result.append(ids[:left])
        left -= len(result[-1])
        if left == 0:
            break
    return result


def _pieces(tokenizer: Tokenizer, text: str, chunk: int, count: int) -> list[list[int]]:
    """The text in chunks; of a long one only some, from places all over it."""
    length = _CHARACTERS * chunk
    if len(text) <= 4 * count * length:
        ids = tokenizer.encode(text)
        return [ids[i : i + chunk] for i in range(0, len(ids), chunk)]
    step = len(text) // count
    return [tokenizer.encode(text[i * step : i * step + length])[:chunk] for i in range(count)]
