"""Amounts of bytes as people read and write them."""

from __future__ import annotations

import re

__all__ = ["format_bytes", "parse_size"]

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(iB|i|B)?|B)?", re.IGNORECASE)


def format_bytes(n: int) -> str:
    """As in `8.1 GB` (powers of ten)."""
    if n < 1000:
        return f"{n} bytes"
    size = float(n)
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.2f} TB"


def parse_size(text: str) -> int:
    """Bytes of a file's size: K, M, G, T (and KB, ...) are powers of 1000, KiB, MiB, GiB, TiB of 1024.

    Disks are sold and listed in powers of 1000, and G is a size of a file here; a limit on memory, where G is 2^30
    everywhere, is `pygrok.memory.parse_bytes`. Raises ValueError for anything else, for 0 and from 8 EiB on.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(
            f"{text!r} is not a size: give bytes, or a number with K, M, G, T, KiB, MiB, GiB or TiB"
        )
    number, unit, suffix = match.groups()
    base = 1024 if (suffix or "").lower().startswith("i") else 1000
    power = " KMGT".index(unit.upper()) if unit else 0
    whole, _, fraction = number.partition(".")
    value: int = (int(whole + fraction) * base**power) // 10 ** len(fraction)
    if not 0 < value < 1 << 63:
        raise ValueError(f"{text!r} is out of range: a size must be above 0 and below 8 EiB")
    return value
