"""Every quantized type on every instruction set: bits of the gguf package, matmuls against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_reference import (
    HALVES,
    QUANTIZED,
    as_blocks,
    assert_within,
    block_matmul,
    dequantize,
    geometry,
    random_blocks,
    set_halves,
    widths,
)
from numpy.typing import NDArray

from pygrok import _core

pytestmark = pytest.mark.parametrize("kind", QUANTIZED)

ROWS = [1, 3, 17, 33, 65]
TOKENS = [1, 2, 3, 5, 8, 11, 12, 13, 17, 33]


def activations(n: int, k: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)


def every_byte(kind: str) -> NDArray[np.uint8]:
    """Blocks in which every byte has every value, beside equal bytes and beside random ones; finite scales."""
    values, size = geometry(kind)
    codes = np.arange(256, dtype=np.uint8)
    equal = np.repeat(codes[:, None], size, axis=1)
    mixed = equal.copy()
    mixed[:, ::2] = ~codes[:, None]
    rng = np.random.default_rng(3)
    shuffled = [rng.permuted(equal, axis=0) for _ in range(6)]  # each column its own permutation
    data = np.concatenate([equal, mixed, *shuffled])
    data = np.tile(data, (1, max(1, 256 // values)))
    if kind == "mxfp4":
        return data  # all scales are finite
    for which in range(max(1, len(HALVES[kind]))):
        set_halves(kind, data, which, np.array([0.5, -2.0], np.float16)[which : which + 1].view(np.uint16))
    return data


def test_dequantize_has_the_bits_of_the_format(kind: str, isa: str) -> None:
    data = every_byte(kind)
    expected = dequantize(kind, data)
    result = _core.dequantize_rows(kind, data, expected.shape[1], isa)
    np.testing.assert_array_equal(result.view(np.uint32), expected.view(np.uint32))


def test_dequantize_of_any_bytes(kind: str, isa: str) -> None:
    """Random bytes everywhere, scales too: subnormal, infinite, not a number."""
    values, size = geometry(kind)
    data = np.random.default_rng(5).integers(0, 256, (300, 2 * size), dtype=np.uint8)
    for row, bits in enumerate([0x0001, 0x83FF, 0x7BFF, 0x8000, 0x7C00, 0xFC00, 0x7E01]):
        if kind != "mxfp4":
            set_halves(kind, data[row : row + 1], 0, np.uint16(bits))
    expected = dequantize(kind, data)
    result = _core.dequantize_rows(kind, data, 2 * values, isa)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(result), ~numbers)
    np.testing.assert_array_equal(result.view(np.uint32)[numbers], expected.view(np.uint32)[numbers])


def test_matmul(kind: str, isa: str) -> None:
    for k in widths(kind, [1, 2, 3, 8, 9, 64, 65, 72]):
        data = random_blocks(kind, max(ROWS), k, seed=k)
        x = activations(max(TOKENS), k)
        expected, bound = block_matmul(kind, data, x)
        for rows in ROWS:
            for n in TOKENS if k < 300 else [1, 13]:
                result = _core.kernels.matmul(kind, data[:rows].copy(), x[:n], isa)
                assert_within(result, expected[:n, :rows], bound[:n, :rows])


def test_tolerance_catches_bugs(kind: str, isa: str) -> None:
    """The bound is tight enough: a lost block, wrong codes, swapped blocks, shifted values are all seen."""
    values, size = geometry(kind)
    k = 9 * values
    data = random_blocks(kind, 4, k)
    x = activations(5, k)
    result = _core.kernels.matmul(kind, data, x, isa)
    assert_within(result, *block_matmul(kind, data, x))
    lost = x.copy()
    lost[:, -32:] = 0
    half = x.copy()
    half[:, -16:] = 0
    codes = data.copy()
    as_blocks(kind, codes)[:, -1, size // 2] ^= 0x55
    blocks = data.reshape(4, 9, -1)
    swapped = np.concatenate([blocks[:, 1:2], blocks[:, :1], blocks[:, 2:]], axis=1).reshape(data.shape)
    wrong = [(data, lost), (data, half), (codes, x), (swapped, x), (data, np.roll(x, 1, axis=1))]
    for wrong_data, wrong_x in wrong:
        expected, bound = block_matmul(kind, wrong_data, wrong_x)
        seen = np.abs(result - expected) > bound
        assert seen.any(axis=0).all()  # for every row by some token: a change may cancel for one
        assert seen.mean() > 0.8


def test_matmul_is_the_same_bits_everywhere(kind: str, isa: str) -> None:
    """On every table, for any number of tokens in a call, for any split of the rows."""
    k = 2304
    data = random_blocks(kind, 81, k)
    x = activations(37, k)
    reference = _core.kernels.matmul(kind, data, x, "scalar")
    np.testing.assert_array_equal(_core.kernels.matmul(kind, data, x, isa), reference)
    for n in [1, 2, 3, 4, 5, 7, 9, 11, 12, 13, 18, 25]:
        np.testing.assert_array_equal(_core.kernels.matmul(kind, data, x[:n], isa), reference[:n])
    for first, last in [(0, 1), (1, 17), (64, 81), (16, 80)]:
        split = _core.kernels.matmul(kind, data[first:last].copy(), x, isa)
        np.testing.assert_array_equal(split, reference[:, first:last])


def test_many_tokens_are_the_same_bits(kind: str, isa: str) -> None:
    """More tokens than are packed, tiled or chunked together, and rows that end in the middle of a tile."""
    k = 512
    data = random_blocks(kind, 69, k)
    x = activations(301, k)
    together = _core.kernels.matmul(kind, data, x, isa)
    for first in range(0, 301, 43):
        alone = _core.kernels.matmul(kind, data, x[first : first + 43], "scalar")
        np.testing.assert_array_equal(together[first : first + 43], alone)


@pytest.mark.parametrize("n", [1, 14])
def test_every_code_against_every_activation(kind: str, isa: str, n: int) -> None:
    """All codes in every place, times the largest activations of both signs: nothing saturates on the way."""
    data = every_byte(kind)[: 2 * 256]
    if kind == "mxfp4":
        as_blocks(kind, data)[:, :, 0] = 128  # else sums overflow
    k = max(256, geometry(kind)[0])
    x = np.tile(np.array([127.0, -127.0], np.float32), (n, k // 2))
    x[n // 2 :] *= -1
    x[-1] = 127
    assert_within(_core.kernels.matmul(kind, data, x, isa), *block_matmul(kind, data, x))


def test_extreme_scales(kind: str, isa: str) -> None:
    """Subnormal scales are exact; infinity and NaN go through to their own outputs only."""
    if kind == "mxfp4":
        pytest.skip("its scales are powers of 2, all finite")
    values = geometry(kind)[0]
    x = activations(13, 2 * values)
    data = random_blocks(kind, 20, 2 * values)
    for row, bits in [(3, 0x0001), (5, 0x83FF), (7, 0x7BFF), (9, 0x8000)]:
        set_halves(kind, data[row : row + 1], 0, np.uint16(bits))
    for which in range(max(1, len(HALVES[kind]))):
        hostile = data.copy()
        for row, bits in [(0, 0x7C00), (11, 0xFC00), (19, 0x7E01)]:
            spoil = hostile[row : row + 1, data.shape[1] // 2 :]  # the second block
            set_halves(kind, spoil, which, np.uint16(bits))
        for n in [1, 13]:
            result = _core.kernels.matmul(kind, data, x[:n], isa)
            assert_within(result, *block_matmul(kind, data, x[:n]))
            spoiled = _core.kernels.matmul(kind, hostile, x[:n], isa)
            assert not np.isfinite(spoiled[:, [0, 11, 19]]).any()
            keep = np.setdiff1d(np.arange(20), [0, 11, 19])
            np.testing.assert_array_equal(spoiled[:, keep], result[:, keep])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_activations_spoil_their_own_token(kind: str, isa: str, bad: float) -> None:
    k = max(64, geometry(kind)[0])
    data = random_blocks(kind, 18, k)
    x = activations(13, k)
    clean = _core.kernels.matmul(kind, data, x, isa)
    x[4, 40] = bad
    result = _core.kernels.matmul(kind, data, x, isa)
    assert np.isnan(result[4]).all()
    keep = np.arange(13) != 4
    np.testing.assert_array_equal(result[keep], clean[keep])
