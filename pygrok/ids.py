"""Token ids as the engine takes them: a checked int32 array."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["TokenIds", "check_ids"]

TokenIds: TypeAlias = Sequence[int] | NDArray[np.integer]
"""What every function that takes ids accepts."""


def check_ids(ids: TokenIds | Iterable[int], vocab: int, *, name: str = "ids") -> NDArray[np.int32]:
    """Return a copy of ids as int32 [T].

    Raises ValueError naming the first index and value that is not a whole number in [0, vocab).
    """
    if isinstance(ids, str | bytes):
        raise ValueError(f"{name} is text: encode it with the tokenizer first")
    # A copy: another thread may write to the caller's array after the check, while the engine reads it.
    array = np.array(ids) if isinstance(ids, np.ndarray) else None
    if array is None:
        values = list(ids)
        for index, value in enumerate(values):
            if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
                raise ValueError(f"{name}[{index}] is {value!r}: token ids are whole numbers")
        try:
            array = np.array(values, dtype=np.int64)
        except OverflowError:
            index = next(i for i, v in enumerate(values) if not 0 <= v < vocab)
            raise ValueError(_out_of_range(name, index, values[index], vocab)) from None
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}: give one sequence of token ids")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} has dtype {array.dtype}: token ids are whole numbers")
    if array.size and (int(array.min()) < 0 or int(array.max()) >= vocab):
        index = int(np.flatnonzero((array < 0) | (array >= vocab))[0])
        raise ValueError(_out_of_range(name, index, int(array[index]), vocab))
    return np.ascontiguousarray(array, dtype=np.int32)


def _out_of_range(name: str, index: int, value: int, vocab: int) -> str:
    return f"{name}[{index}] is {value}: the vocabulary has ids 0 to {vocab - 1}"
