"""Activations, their statistics and matrices rounded with them, for tests of calibration."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pygrok import _core

Doubles = NDArray[np.float64]
Floats = NDArray[np.float32]


def calibration(threads: int = 2, **sizes: int) -> _core.Calibration:
    shape = {"heads": 4, "kv_heads": 2, "head_size": 16, **sizes}
    return _core.Calibration(
        **shape,
        attention_multiplier=0.25,
        attention_soft_cap=30.0,
        rms_eps=1e-5,
        rope_base=10000.0,
        threads=threads,
    )


def correlated(rng: np.random.Generator, n: int, k: int) -> Floats:
    """Activations of strongly different and correlated channels."""
    mixing = rng.normal(size=(k, k)) * np.exp(rng.normal(size=k))
    return (rng.normal(size=(n, k)) @ mixing / np.sqrt(k)).astype(np.float32)


def hessian_of(x: Floats, span: int | None = None) -> Doubles:
    span = span or x.shape[1]
    parts = [x[:, i : i + span].astype(np.float64) for i in range(0, x.shape[1], span)]
    return np.stack([part.T @ part / len(x) for part in parts])


def compensated(type: str, w: Floats, u: Floats, threads: int = 2) -> NDArray[np.uint8]:
    _, block, block_bytes = _core.tensor_types()[type]
    out = np.zeros((len(w), w.shape[1] // block * block_bytes), np.uint8)
    calibration(threads).compensate(type, w, u, out)
    return out


def output_error(type: str, w: Floats, data: NDArray[np.uint8], x: Floats) -> float:
    """Mean squared error of the outputs."""
    return float(np.square((w - _core.dequantize_rows(type, data, w.shape[1])) @ x.T).mean())
