"""Amounts of memory as people write them."""

from __future__ import annotations

import re

__all__ = ["parse_bytes"]

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
