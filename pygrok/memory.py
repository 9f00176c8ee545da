"""Amounts of memory as people write them."""

from __future__ import annotations

import math
import re

from pygrok import machine

__all__ = ["default_memory_limit", "needed", "parse_bytes", "usable"]

# For the interpreter, its libraries and arrays, and the system's own book-keeping.
_MARGIN = 256 << 20
_MARGIN_SHARE = 1 / 32

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(ib|i|b)?|b)?", re.IGNORECASE)
_POWER = {"k": 1, "m": 2, "g": 3, "t": 4}


def parse_bytes(amount: int | str, *, name: str = "memory_limit") -> int:
    """Return bytes. "64GiB", "64Gi" and "64G" are binary, "64GB" is decimal; a bare number is bytes.

    Raises ValueError unless amount is such a text or a positive whole number.
    """
    if isinstance(amount, str):
        match = _AMOUNT.fullmatch(amount.strip())
        if match is None:
            raise ValueError(f'{name} is {amount!r}: give bytes, or a text such as "64GiB"')
        number, unit, suffix = match.groups()
        base = 1000 if unit and (suffix or "").lower() == "b" else 1024
        value = int(float(number) * base ** (_POWER[unit.lower()] if unit else 0))
    elif isinstance(amount, bool) or not isinstance(amount, int):
        raise ValueError(f'{name} is {amount!r}: give bytes, or a text such as "64GiB"')
    else:
        value = amount
    if not 0 < value < 1 << 63:
        raise ValueError(f"{name} is {amount!r}: it must be above 0 and below 8 EiB")
    return value


def default_memory_limit() -> int:
    """Bytes that a model may use where nobody says: what is free now, less a margin; 0 (none) where nobody can tell."""
    try:
        available = machine.memory().available
    except (OSError, KeyError, ValueError):
        return 0
    return usable(available)


def usable(available: int) -> int:
    """Bytes of these that a model may use, the rest being for the interpreter and the system."""
    return max(available - _MARGIN - int(available * _MARGIN_SHARE), available // 2, 1)


def needed(usable_bytes: int) -> int:
    """The least that must be available for so much to be usable."""
    return min(math.ceil((usable_bytes + _MARGIN) / (1 - _MARGIN_SHARE)), 2 * usable_bytes)
