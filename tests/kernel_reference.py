"""Plain numpy versions of what the kernels compute, in float64, with the error each kernel may make."""

from __future__ import annotations

import ctypes
import mmap

import gguf
import numpy as np
from gguf import quants
from numpy.typing import NDArray

EPS = 2.0**-24  # half a unit in the last place of float32, relative
BLOCK = 32

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

ACTIVATION_BLOCK = np.dtype(
    [
        ("values", np.int8, 32),
        ("scale", np.float32),
        ("minus_8_sum", np.int32),
        ("minus_128_sum", np.int32, 3),
        ("minus_sum", np.float32, 3),
    ]
)

# Where a block keeps its f16 scale and, if it has one, its f16 minimum or offset. Missing: another kind of scale.
HALVES: dict[str, tuple[int, ...]] = {
    **{"q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,), "iq4_nl": (0,), "mxfp4": ()},
    **{"q2_k": (80, 82), "q3_k": (108,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "iq4_xs": (0,)},
    **{
        "iq2_xxs": (0,),
        "iq2_xs": (0,),
        "iq2_s": (0,),
        "iq3_xxs": (0,),
        "iq3_s": (0,),
        "iq1_s": (0,),
        "iq1_m": (),
    },
    **{"tq1_0": (52,), "tq2_0": (64,)},
}
QUANTIZED = list(HALVES)
TWO_GROUPS = {"q2_k", "q3_k", "q6_k", "iq2_xs", "iq2_s", "iq1_m"}  # with scales per 16 values


def geometry(kind: str) -> tuple[int, int]:
    """Values and bytes of a block."""
    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind.upper()]]
    return int(values), int(size)


def widths(kind: str, blocks: list[int]) -> list[int]:
    """Row widths of that many blocks, for types of 256-value blocks an eighth of it and at least one."""
    values, _ = geometry(kind)
    return sorted({max(1, n * BLOCK // values) * values for n in blocks})


def as_blocks(kind: str, data: U8) -> U8:
    """Rows as [rows, blocks, bytes], the same memory."""
    return data.reshape(data.shape[0], -1, geometry(kind)[1])


def set_halves(kind: str, data: U8, which: int, bits: NDArray[np.uint16]) -> None:
    """Writes the scale (0) or minimum (1) of blocks, as the bits of halves that broadcast to [rows, blocks]."""
    blocks = as_blocks(kind, data)
    bits = np.broadcast_to(bits, blocks.shape[:2])
    if kind == "iq1_m":  # four nibbles of it at the top of four words
        words = np.ascontiguousarray(blocks[:, :, 48:]).view(np.uint16)
        words = (words & 0x0FFF) | ((bits[..., None] >> np.arange(0, 16, 4, dtype=np.uint16)) << 12).astype(
            np.uint16
        )
        blocks[:, :, 48:] = words.view(np.uint8)
        return
    at = HALVES[kind][which]
    blocks[:, :, at : at + 2] = np.ascontiguousarray(bits[..., None]).view(np.uint8)


def random_blocks(kind: str, rows: int, k: int, seed: int = 0) -> U8:
    """Rows of blocks: every code and sub-scale may occur, scales between 2^-8 and 2^-4, either sign."""
    rng = np.random.default_rng(seed)
    values, size = geometry(kind)
    data = rng.integers(0, 256, (rows, k // values * size), dtype=np.uint8)
    blocks = as_blocks(kind, data)
    if kind == "mxfp4":
        blocks[:, :, 0] = rng.integers(118, 123, blocks.shape[:2])
        return data
    for which in range(max(1, len(HALVES[kind]))):
        scales = np.exp2(rng.uniform(-8, -4, blocks.shape[:2])) * rng.choice([-1, 1], blocks.shape[:2])
        set_halves(kind, data, which, scales.astype(np.float16).view(np.uint16))
    return data


def dequantize(kind: str, data: U8) -> F32:
    """What the gguf package makes of the rows."""
    with np.errstate(over="ignore", invalid="ignore"):
        values: F32 = quants.dequantize(data, gguf.GGMLQuantizationType[kind.upper()])
    return values


def terms(kind: str, data: U8) -> list[F64]:
    """The rows' values as a sum: scale * code, and the minima if the type has them. Each is rounded once at most."""
    if len(HALVES[kind]) < 2:
        return [dequantize(kind, data).astype(np.float64)]
    parts = []
    for other in (1, 0):
        part = data.copy()
        set_halves(kind, part, other, np.uint16(0))
        parts.append(dequantize(kind, part).astype(np.float64))
    return parts


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

    Per group of 16 or 32 values an exact integer dot product; scale, product of the scales and sum of the activations
    are rounded once each, and so is each addition to the running sum, of which there are four per block of 32 at most.
    """
    a_scales, a = quantize_activations(x)
    a64 = (a * a_scales.astype(np.float64)[..., None]).reshape(x.shape)
    parts = terms(kind, data)
    magnitude = np.abs(a64) @ np.abs(np.concatenate(parts, axis=0)).T
    magnitude = magnitude.reshape(len(x), len(parts), len(data)).sum(axis=1)
    groups = {1: 1, 2: 2}[len(parts)] * (x.shape[1] // BLOCK) * (2 if kind in TWO_GROUPS else 1)
    return a64 @ np.sum(parts, axis=0).T, (groups + 4) * EPS * magnitude


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
