"""How often a model's experts are used, and files that name the hot ones for `--pin-hot`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pygrok.errors import FormatError
from pygrok.files import replacing
from pygrok.route_trace import NOT_ROUTED

if TYPE_CHECKING:
    from pygrok.route_trace import RouteTrace

__all__ = [
    "ExpertProfile",
    "entropy",
    "load_profile",
    "profile_of",
    "read_profile",
    "repeated",
    "save_profile",
    "uses",
]

_FORMAT = "pygrok.expert-profile"
_VERSION = 1
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class ExpertProfile:
    """hot: (layer, expert, share of the layer's tokens that used it), most used first."""

    model: str
    fingerprint: str
    layers: int
    experts: int
    tokens: int
    hot: tuple[tuple[int, int, float], ...]


def uses(trace: RouteTrace) -> NDArray[np.int64]:
    """Tokens that were routed to each expert, int64 [layers, experts]."""
    header = trace.header
    counts = np.zeros((header.layers, header.experts), np.int64)
    for layer in range(header.layers):
        routed = trace.experts[:, layer]
        counts[layer] = np.bincount(routed[routed != NOT_ROUTED], minlength=header.experts)
    return counts


def entropy(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Bits, [layers], of the experts' shares of the uses [layers, experts]; log2(experts) if all are used alike."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    bits: NDArray[np.float64] = -(shares * np.log2(np.where(shares > 0, shares, 1.0))).sum(axis=1)
    return bits


def repeated(trace: RouteTrace) -> float:
    """Share of the routes that the token before, in the same session, took in the same layer; NaN without any."""
    follows = (trace.sessions[1:] == trace.sessions[:-1]) & (trace.positions[1:] == trace.positions[:-1] + 1)
    now, before = trace.experts[1:][follows], trace.experts[:-1][follows]
    routed = now != NOT_ROUTED
    same = (now[..., :, None] == before[..., None, :]).any(axis=-1)
    return float(same[routed].mean()) if routed.any() else float("nan")


def profile_of(trace: RouteTrace) -> ExpertProfile:
    """All experts that the trace used."""
    header, counts = trace.header, uses(trace)
    tokens = (trace.experts != NOT_ROUTED).any(axis=2).sum(axis=0)  # [layers]
    hot = [
        (layer, expert, float(counts[layer, expert] / tokens[layer]))
        for layer, expert in np.argwhere(counts > 0).tolist()
    ]
    hot.sort(key=lambda entry: (-entry[2], entry[0], entry[1]))
    return ExpertProfile(
        header.model, header.fingerprint, header.layers, header.experts, len(trace), tuple(hot)
    )


def save_profile(path: str | os.PathLike[str], profile: ExpertProfile) -> None:
    """Write it as JSON, beside and then renamed. Raises OSError."""
    value = {"format": _FORMAT, "version": _VERSION, **asdict(profile)}
    lines = [f"  {json.dumps(name)}: {json.dumps(held)}" for name, held in value.items() if name != "hot"]
    entries = ",\n".join(f"    {json.dumps([a, b, round(share, 6)])}" for a, b, share in profile.hot)
    with replacing(Path(path)) as partial:
        partial.write_text(
            "{\n" + ",\n".join(lines) + ',\n  "hot": [\n' + entries + "\n  ]\n}\n", encoding="utf-8"
        )


def read_profile(path: str | os.PathLike[str]) -> ExpertProfile:
    """Raises OSError, FormatError with one line: no such JSON, or numbers out of range."""
    where = Path(path)
    if where.stat().st_size > _MOST_BYTES:
        raise FormatError(f"{where}: not a profile of experts: {where.stat().st_size} bytes are too many")
    try:
        held = json.loads(where.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(
            f"{where}: not a profile of experts: no JSON ({' '.join(str(error).split())})"
        ) from None
    if not isinstance(held, dict) or held.get("format") != _FORMAT:
        raise FormatError(
            f"{where}: not a profile of experts; `pygrok experts TRACE --save-hot FILE` makes one"
        )
    if held.get("version") != _VERSION:
        raise FormatError(
            f"{where}: a profile of version {str(held.get('version'))[:20]!r}; this pygrok reads {_VERSION}"
        )
    for name, least in (("layers", 1), ("experts", 1), ("tokens", 0)):
        if type(held.get(name)) is not int or not least <= held[name] < 1 << 63:
            raise FormatError(f"{where}: {name} is {str(held.get(name))[:40]!r}: it must be a whole number")
    for name in ("model", "fingerprint"):
        if not isinstance(held.get(name), str):
            raise FormatError(f"{where}: {name} is {str(held.get(name))[:40]!r}: it must be a text")
    hot = held.get("hot")
    if not isinstance(hot, list):
        raise FormatError(f"{where}: it has no list 'hot'")
    entries = tuple(_entry(where, at, entry, held["layers"], held["experts"]) for at, entry in enumerate(hot))
    if len({entry[:2] for entry in entries}) != len(entries):
        raise FormatError(f"{where}: 'hot' names an expert twice")
    return ExpertProfile(
        held["model"], held["fingerprint"], held["layers"], held["experts"], held["tokens"], entries
    )


def _entry(where: Path, at: int, entry: object, layers: int, experts: int) -> tuple[int, int, float]:
    if isinstance(entry, list) and len(entry) == 3:
        layer, expert, share = entry
        if (
            type(layer) is int
            and type(expert) is int
            and isinstance(share, int | float)
            and 0 <= layer < layers
            and 0 <= expert < experts
            and 0 <= share <= 1
        ):
            return layer, expert, float(share)
    raise FormatError(
        f"{where}: entry {at} of 'hot' is {str(entry)[:60]!r}: it must be [layer, expert, share], of {layers} layers, "
        f"{experts} experts and shares up to 1"
    )


def load_profile(path: str | os.PathLike[str]) -> list[tuple[int, int]]:
    """(layer, expert) of a saved profile, most used first. Raises as `read_profile`."""
    return [entry[:2] for entry in read_profile(path).hot]
