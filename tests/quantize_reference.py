"""Another's decoder, and plain numpy quantizers: nearest codes under the obvious scales, not to be worse than."""

from __future__ import annotations

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

Floats = NDArray[np.float64]

IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float64)
FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12], np.float64)

# (values that share a scale, largest code, sub-scale codes) of the types with an offset, and of those without.
OFFSET = {
    "q4_1": (32, 15, None),
    "q5_1": (32, 31, None),
    "q2_k": (16, 3, 15),
    "q4_k": (32, 15, 63),
    "q5_k": (32, 31, 63),
}
SCALED = {
    "q4_0": (32, 8, None),
    "q5_0": (32, 16, None),
    "q8_0": (32, 127, None),
    "q3_k": (16, 4, 31),
    "q6_k": (16, 32, 127),
}


def decode(kind: str, data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Values of blocks, by the gguf package."""
    return np.asarray(dequantize(data, GGMLQuantizationType[kind.upper()]), np.float32)


def shared(scales: Floats, codes: int | None) -> Floats:
    """Scales as multiples of their super-block's: [super-blocks, sub-blocks]."""
    if codes is None:
        return scales
    unit = np.abs(scales).max(-1, keepdims=True) / codes
    return unit * np.round(scales / np.where(unit == 0, 1, unit))


def reference(kind: str, x: NDArray[np.float32]) -> Floats:
    """x [rows, k] as the simplest quantizer of the type would give it back; scales are not rounded to halves."""
    if kind in OFFSET:
        size, top, codes = OFFSET[kind]
        v = x.astype(np.float64).reshape(len(x), -1, 256 // size, size)
        low = v.min(-1) if codes is None else np.minimum(v.min(-1), 0)
        scale = shared((v.max(-1) - low) / top, codes)[..., None]
        low = shared(low, codes)[..., None]
        q = np.clip(np.round((v - low) / np.where(scale == 0, 1, scale)), 0, top)
        return (scale * q + low).reshape(x.shape)
    if kind in SCALED:
        size, top, codes = SCALED[kind]
        v = x.astype(np.float64).reshape(len(x), -1, 256 // size, size)
        scale = shared(np.abs(v).max(-1) / (top - 1), codes)[..., None]
        q = np.clip(np.round(v / np.where(scale == 0, 1, scale)), -top, top - 1)
        return (scale * q).reshape(x.shape)
    if kind in ("iq4_nl", "iq4_xs"):
        v = x.astype(np.float64).reshape(len(x), -1, 8, 32)
        scale = shared(np.abs(v).max(-1) / 127, 31 if kind == "iq4_xs" else None)[..., None]
        scaled = v / np.where(scale == 0, 1, scale)
        q = IQ4[np.abs(scaled[..., None] - IQ4).argmin(-1)]
        return (scale * q).reshape(x.shape)
    if kind == "mxfp4":
        v = x.astype(np.float64).reshape(len(x), -1, 8, 32)
        largest = np.abs(v).max(-1, keepdims=True)
        scale = 2.0 ** (np.floor(np.log2(np.where(largest == 0, 1, largest))) - 3)
        q = FP4[np.abs(np.abs(v / scale)[..., None] - FP4).argmin(-1)] * np.sign(v)
        return (scale * q).reshape(x.shape)
    raise ValueError(kind)
