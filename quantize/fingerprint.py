"""What makes a conversion the same conversion: if all of it is equal, so are the bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import pygrok
from pygrok import _core
from pygrok.quantize.layout import Layout
from pygrok.quantize.plan import Plan
from pygrok.quantize.source import SourceModel

__all__ = ["digest_of_ids", "digest_of_measuring", "fingerprint_of"]


def fingerprint_of(
    source: SourceModel, plan: Plan, layout: Layout, **options: str | int | Path | None
) -> dict[str, str]:
    """Texts by what they are of, for the journal. A path among the options stands for its file's content.

    Not among them: the number of threads and, but for calibration, the instruction set, which change no byte.
    """
    tensors = hashlib.blake2b(digest_size=16)
    for tensor in plan.tensors:
        tensors.update(f"{tensor.name}\0{tensor.type}\0{tensor.shape}\n".encode())
    headers = hashlib.blake2b(digest_size=16)
    for part in layout.parts:
        headers.update(part.name.encode(errors="surrogateescape") + part.header)
    found = {
        "pygrok": f"{pygrok.__version__} {_build()}",
        "source": source.fingerprint(),
        "plan of types": tensors.hexdigest(),
        "metadata": headers.hexdigest(),
    }
    for name, value in options.items():
        if value is not None:
            found[name] = _digest_of_file(value) if isinstance(value, Path) else str(value)
    return found


def _digest_of_file(path: Path) -> str:
    """32 hex digits. Raises OSError."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of_ids(ids: Sequence[NDArray[np.int32]] | None) -> str | None:
    """Of the token ids that are calibrated on and how they are cut, and of the instruction set: floats differ by it."""
    if ids is None:
        return None
    digest = hashlib.blake2b(_core.kernels.select().encode(), digest_size=16)
    for chunk in ids:
        digest.update(len(chunk).to_bytes(8, "little") + chunk.tobytes())
    return digest.hexdigest()


def digest_of_measuring(source: SourceModel, text: Path, imatrix: Path | None, calibrated: bool) -> str:
    """Of what sensitivities are measured on and with. Not among it: the instruction set, lest a resumed plan change."""
    importance = None if imatrix is None else _digest_of_file(imatrix)
    told = (_build(), source.fingerprint(), _digest_of_file(text), importance, calibrated)
    return hashlib.blake2b(repr(told).encode(), digest_size=16).hexdigest()


@cache
def _build() -> str:
    """Another build may round otherwise, though its version is the same."""
    return _digest_of_file(Path(str(_core.__file__)))[:12]
