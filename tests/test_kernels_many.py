"""Kernels for many tokens at once, which are free of the contract on bits: against numpy in float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from kernel_reference import (
    EPS,
    QUANTIZED,
    assert_within,
    dequantize,
    random_blocks,
    set_halves,
    widths,
)
from numpy.typing import NDArray

from pygrok import _core

MANY_ISAS = [isa for isa in _core.supported_isas() if _core.kernels.has_many("q4_0", isa)]
EXACT = "q8_0"  # codes and activations lose nothing
KINDS = [*QUANTIZED, "bf16"]

pytestmark = [
    pytest.mark.skipif(not MANY_ISAS, reason="no instruction set of this processor has such kernels (AMX)"),
    pytest.mark.parametrize("kind", KINDS),
]


@pytest.fixture(params=MANY_ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def activations(n: int, k: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)


def weights(kind: str, rows: int, k: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """As in a file, and their values."""
    if kind == "bf16":
        values = np.random.default_rng(seed).standard_normal((rows, k)).astype(ml_dtypes.bfloat16)
        return values.view(np.uint8), values.astype(np.float64)
    data = random_blocks(kind, rows, k, seed)
    return data, dequantize(kind, data).astype(np.float64)


def many_widths(kind: str) -> list[int]:
    return [32, 96, 512, 544, 1120] if kind == "bf16" else widths(kind, [1, 3, 16, 17, 35, 80])


def multiply(kind: str, data: NDArray[np.uint8], x: NDArray[np.float32], isa: str) -> NDArray[np.float32]:
    return _core.kernels.matmul(kind, data.copy(), x, isa, many=True)


def bound(kind: str, w: NDArray[np.float64], x: NDArray[np.float32]) -> NDArray[np.float64]:
    """What rounding can do at worst: 0.7 of the last of a weight's 8 bits, half of an activation's, EPS each sum."""
    rounding = {EXACT: 0.0, "bf16": 2.0**-8}.get(kind, 0.7 * 2.0**-7 + 2.0**-8 + 2.0**-14)
    return (rounding + (x.shape[1] + 8) * EPS) * (np.abs(x.astype(np.float64)) @ np.abs(w).T)


def test_products(kind: str, isa: str) -> None:
    for k in many_widths(kind):
        data, w = weights(kind, 65, k, seed=k)
        x = activations(49, k)
        expected, worst = x.astype(np.float64) @ w.T, bound(kind, w, x)
        for rows in [1, 3, 17, 33, 65]:
            for n in [16, 17, 31, 33, 49]:
                result = multiply(kind, data[:rows], x[:n], isa)
                assert_within(result, expected[:n, :rows], worst[:n, :rows])


def test_rounding_is_fair(kind: str, isa: str) -> None:
    """Errors are as small as those of independent roundings to 8 bits, and have no drift."""
    data, w = weights(kind, 64, 2048)
    x = activations(64, 2048)
    error = multiply(kind, data, x, isa) - x.astype(np.float64) @ w.T
    size = np.sqrt((x.astype(np.float64) ** 2) @ (w**2).T)  # of a sum of independent terms
    assert np.sqrt(np.mean((error / size) ** 2)) < (1e-6 if kind == EXACT else 0.003)
    # Each token with the signs of a row: all products are positive, a drift would add up.
    aligned = (np.abs(x) * np.sign(w)).astype(np.float32)
    result = np.diagonal(multiply(kind, data, aligned, isa))
    exact = (np.abs(x).astype(np.float64) * np.abs(w)).sum(axis=1)
    assert abs(np.mean((result - exact) / exact)) < (1e-6 if kind == EXACT else 0.0006)


def test_what_eight_bits_hold_is_exact(kind: str, isa: str) -> None:
    """Codes with scale 1 times whole activations: no rounding has anything to round."""
    if kind not in ("q4_0", "q5_0", "q8_0", "iq4_nl", "q4_1", "q5_1"):
        pytest.skip("its values with scale 1 have more than 8 bits")
    data = random_blocks(kind, 40, 1056)
    for which, value in enumerate([1.0, 2.0] if kind.endswith("_1") else [1.0]):
        set_halves(kind, data, which, np.full((40, 33), value, np.float16).view(np.uint16))
    x = np.random.default_rng(2).integers(-9, 10, (50, 1056)).astype(np.float32)
    expected = x.astype(np.float64) @ dequantize(kind, data).astype(np.float64).T
    np.testing.assert_array_equal(multiply(kind, data, x, isa), expected)


def test_an_output_depends_on_its_row_and_token_alone(kind: str, isa: str) -> None:
    k = 1280
    data, _ = weights(kind, 161, k)
    x = activations(1100, k)
    together = multiply(kind, data, x, isa)
    for first, last in [(0, 16), (5, 22), (100, 613), (483, 1100)]:
        np.testing.assert_array_equal(multiply(kind, data, x[first:last], isa), together[first:last])
    for first, last in [(0, 1), (1, 17), (64, 161), (16, 80)]:
        np.testing.assert_array_equal(
            multiply(kind, data[first:last], x[:40], isa), together[:40, first:last]
        )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_numbers_spoil_their_own_outputs(kind: str, isa: str, bad: float) -> None:
    k = 512
    data, _ = weights(kind, 40, k)
    x = activations(37, k)
    clean = multiply(kind, data, x, isa)
    spoiled = x.copy()
    spoiled[19, 40] = bad
    result = multiply(kind, data, spoiled, isa)
    assert not np.isfinite(result[19]).any()
    np.testing.assert_array_equal(np.delete(result, 19, axis=0), np.delete(clean, 19, axis=0))
    if kind in ("bf16", "mxfp4"):
        return  # no scale that could be bad
    hostile = data.copy()
    set_halves(kind, hostile[7:8], 0, np.float16(bad).view(np.uint16))
    result = multiply(kind, hostile, x, isa)
    assert not np.isfinite(result[:, 7]).any()
    np.testing.assert_array_equal(np.delete(result, 7, axis=1), np.delete(clean, 7, axis=1))


def test_bad_shapes_are_refused(kind: str, isa: str) -> None:
    data, _ = weights(kind, 4, 256)
    with pytest.raises(ValueError, match="many tokens are 16 or more"):
        multiply(kind, data, activations(15, 256), isa)
    with pytest.raises(ValueError, match="this table has no such kernel"):
        multiply(kind, data, activations(16, 256), "scalar")
