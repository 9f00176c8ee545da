"""Plain numpy versions of what the kernels compute, in float64, with the error each kernel may make."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np
from numpy.typing import NDArray

EPS = 2.0**-24  # half a unit in the last place of float32, relative
BLOCK = 32

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

ACTIVATION_BLOCK = np.dtype(
    [("values", np.int8, 32), ("scale", np.float32), ("minus_8_sum", np.int32), ("minus_128_sum", np.int32)]
)


def random_blocks(kind: str, rows: int, k: int, seed: int = 0) -> U8:
    """Rows of q4_0 or q8_0 blocks: every code may occur, scales between 2^-8 and 2^-4, either sign."""
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (rows, k // BLOCK, {"q4_0": 18, "q8_0": 34}[kind]), dtype=np.uint8)
    scales = np.exp2(rng.uniform(-8, -4, data.shape[:2])) * rng.choice([-1, 1], data.shape[:2])
    data[:, :, :2] = scales.astype(np.float16)[..., None].view(np.uint8)
    return data.reshape(rows, -1)


def block_parts(kind: str, data: U8) -> tuple[F32, NDArray[np.int32]]:
    """Scales [rows, blocks] and integer values [rows, blocks, 32]."""
    blocks = data.reshape(data.shape[0], -1, {"q4_0": 18, "q8_0": 34}[kind])
    scales = np.ascontiguousarray(blocks[:, :, :2]).view(np.float16)[..., 0].astype(np.float32)
    if kind == "q8_0":
        return scales, np.ascontiguousarray(blocks[:, :, 2:]).view(np.int8).astype(np.int32)
    nibbles = blocks[:, :, 2:].astype(np.int32)
    return scales, np.concatenate([nibbles & 15, nibbles >> 4], axis=2) - 8


def quantize_activations(x: F32) -> tuple[F32, NDArray[np.int32]]:
    """The contract of prepare("q8"), bit by bit: scales [n, blocks] and values [n, blocks, 32]."""
    blocks = x.reshape(x.shape[0], -1, BLOCK)
    largest = np.abs(blocks).max(axis=2)
    zero = largest < np.float32(2.0**-100)
    inverse = np.where(zero, np.float32(0), np.float32(127) / np.where(zero, np.float32(1), largest))
    values = np.rint(blocks * inverse[..., None]).astype(np.int32)
    return np.where(zero, np.float32(0), largest / np.float32(127)), values


def block_matmul(kind: str, data: U8, x: F32) -> tuple[F64, F64]:
    """x times the rows of `data`, activations quantized: the exact result, and the bound of the error.

    Per block an exact integer dot product; the product of the scales is rounded once and each addition to the
    running sum once: so blocks + 1 roundings of at most the sum of the magnitudes.
    """
    w_scales, w = block_parts(kind, data)
    a_scales, a = quantize_activations(x)
    dots = np.einsum("tbi,rbi->trb", a.astype(np.float64), w.astype(np.float64))
    terms = dots * a_scales.astype(np.float64)[:, None] * w_scales.astype(np.float64)[None]
    return terms.sum(axis=2), (terms.shape[2] + 1) * EPS * np.abs(terms).sum(axis=2)


def float_matmul(w: NDArray[np.generic], x: F32) -> tuple[F64, F64]:
    """x @ w.T, and the bound for k additions in any order."""
    w64, x64 = w.astype(np.float64), x.astype(np.float64)
    return x64 @ w64.T, (w64.shape[1] + 4) * EPS * (np.abs(x64) @ np.abs(w64).T)


def assert_within(result: F32, expected: F64, bound: F64) -> None:
    assert result.shape == expected.shape
    error = np.abs(result - expected)
    worst = np.unravel_index(np.argmax(error - bound), error.shape)
    assert (error <= bound).all(), f"at {worst}: error {error[worst]}, bound {bound[worst]}"


def attention(q: F32, k: F32, v: F32, visible: list[int], cap: float) -> tuple[F64, F64]:
    """Sums of exp(score) * v [n_q, d] and of exp(score) [n_q], each query over the positions that it sees."""
    q64, k64, v64 = (m.astype(np.float64) for m in (q, k, v))
    acc = np.zeros((q.shape[0], v.shape[1]))
    total = np.zeros(q.shape[0])
    for i, count in enumerate(visible):
        weights = np.exp(cap * np.tanh(q64[i] @ k64[:count].T / cap))
        acc[i] = weights @ v64[:count]
        total[i] = weights.sum()
    return acc, total


def at_page_end(data: U8) -> U8:
    """A copy that ends where the readable memory ends: reading one byte more is a segmentation fault."""
    page = mmap.PAGESIZE
    body = -(-data.nbytes // page) * page
    area = mmap.mmap(-1, body + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(start + body), page, 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    copy = np.frombuffer(area, np.uint8, data.nbytes, body - data.nbytes).reshape(data.shape)
    copy[...] = data
    return copy
