"""The types that a tensor may be given, and what takes their place where they do not fit."""

from __future__ import annotations

from functools import cache

from pygrok import _core

__all__ = [
    "FALLBACKS",
    "FLOATS",
    "LAST_FALLBACK",
    "NEED_IMPORTANCE",
    "TYPES",
    "bits",
    "block",
    "check_type",
    "row_bytes",
]

FLOATS = frozenset({"f32", "f16", "bf16"})
# In the order in which people look for them.
TYPES = (
    *("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k"),
    *("q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl", "iq4_xs", "mxfp4"),
    *("iq3_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs"),
)
# Too few bits to spend them evenly: without knowing which columns matter, these lose most of what they could keep.
NEED_IMPORTANCE = frozenset({"iq3_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs"})
# Rows that do not divide into blocks of 256: a type with blocks of 32 and no fewer bits.
FALLBACKS = {
    "q2_k": "iq4_nl",
    "q3_k": "iq4_nl",
    "q4_k": "iq4_nl",
    "q5_k": "q5_0",
    "q6_k": "q8_0",
    "iq4_xs": "iq4_nl",
    "iq3_s": "iq4_nl",
    "iq3_xxs": "iq4_nl",
    "iq2_s": "iq4_nl",
    "iq2_xs": "iq4_nl",
    "iq2_xxs": "iq4_nl",
}
# Rows that do not divide into blocks of 32 either.
LAST_FALLBACK = "f16"


@cache
def _geometry() -> dict[str, tuple[int, int]]:
    """Type -> values per block, bytes per block."""
    return {name: (block, nbytes) for name, (_, block, nbytes) in _core.tensor_types().items()}


def block(type: str) -> int:
    """Values of a block."""
    return _geometry()[type][0]


def bits(type: str) -> float:
    """Bits per value."""
    values, nbytes = _geometry()[type]
    return 8 * nbytes / values


def row_bytes(type: str, columns: int) -> int:
    """Bytes of a row of this many values, which must divide into blocks."""
    values, nbytes = _geometry()[type]
    return columns // values * nbytes


def check_type(name: str, what: str = "type") -> str:
    """The name. Raises ValueError, listing the choices, if it is no type that can be written."""
    if name not in TYPES:
        raise ValueError(f"unknown {what} '{name}'; choose one of {', '.join(TYPES)}")
    return name
