"""The vector operations between the matmuls, on every instruction set, against numpy in float64."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_reference import EPS
from numpy.typing import NDArray

from pygrok import _core

LENGTHS = [1, 2, 3, 7, 15, 16, 17, 33, 63, 64, 65, 127, 300, 6144]


def vector(n: int, seed: int = 0, size: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(n) * size).astype(np.float32)


def test_rms_norm(isa: str) -> None:
    for n in LENGTHS:
        x, scale = vector(n, 1, 3), vector(n, 2)
        x[-1] = 3
        x64 = x.astype(np.float64)
        expected = x64 / np.sqrt((x64**2).mean() + 1e-5) * scale
        # A few roundings for each value, and the sum's: chains of up to n / 16 positive terms, whose
        # roundings average out like a random walk.
        tolerance = (8 + (n / 16) ** 0.5) * EPS
        result = _core.kernels.rms_norm(x, scale, 1e-5, isa)
        assert (np.abs(result - expected) <= tolerance * np.abs(expected)).all()
        if n > 1:  # leaving out the last value is seen
            wrong = x64 / np.sqrt((x64[:-1] ** 2).sum() / n + 1e-5) * scale
            assert (np.abs(result - wrong)[:-1] > tolerance * np.abs(wrong)[:-1]).any()


def test_rms_norm_of_zeros(isa: str) -> None:
    assert (_core.kernels.rms_norm(np.zeros(33, np.float32), vector(33), 1e-5, isa) == 0).all()


def gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """x / (1 + exp(-2u)): the tanh form without its cancellation in float64."""
    u = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    result: NDArray[np.float64] = x / (1 + np.exp(np.minimum(-2 * u, 700)))
    return result


def test_gelu_mul(isa: str) -> None:
    for n in LENGTHS:
        gate, up = vector(n, 1, 3), vector(n, 2)
        expected = gelu(gate.astype(np.float64)) * up
        # exp(2u) turns an absolute error of 2u, which is up to ~200 here, into a relative one.
        tolerance = 1e-6 + 4 * EPS * np.abs(gate.astype(np.float64)) ** 3
        result = _core.kernels.gelu_mul(gate, up, isa)
        assert (np.abs(result - expected) <= tolerance * np.abs(expected) + 1e-37).all()


def test_gelu_of_extremes(isa: str) -> None:
    gate = np.array([0, -0.0, 1e-30, 40, -40, 1e10, -1e10, 3e38, -3e38], np.float32)
    result = _core.kernels.gelu_mul(gate, np.ones_like(gate), isa)
    assert (result[[3, 5, 7]] == gate[[3, 5, 7]]).all()
    assert (np.abs(result[[0, 1, 4]]) < 1e-30).all()
    assert abs(result[2] - 5e-31) < 1e-36
    assert np.isnan(_core.kernels.gelu_mul(np.array([np.nan], np.float32), np.ones(1, np.float32), isa)).all()


def test_axpy(isa: str) -> None:
    for n in LENGTHS:
        x, acc = vector(n, 1), vector(n, 2)
        expected = acc.astype(np.float64) + np.float64(np.float32(0.3)) * x
        bound = 2 * EPS * (np.abs(acc) + np.abs(x))
        assert (np.abs(_core.kernels.axpy(0.3, x, acc, isa) - expected) <= bound).all()


@pytest.mark.parametrize("half", [1, 4, 8, 17, 64])
def test_rope(half: int, isa: str) -> None:
    x = vector(2 * half)
    angle = 1000 * 10000.0 ** (-np.arange(half) / half)
    cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
    x1, x2 = x[:half].astype(np.float64), x[half:].astype(np.float64)
    expected = np.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin])
    bound = 3 * EPS * np.tile(np.abs(x1) + np.abs(x2), 2)
    assert (np.abs(_core.kernels.rope(x, cos, sin, isa) - expected) <= bound).all()


def test_softmax(isa: str) -> None:
    for n in [1, 2, 8, 17, 100]:
        for size in [1.0, 30.0, 1000.0]:
            x = vector(n, n, size)
            shifted = np.exp(x.astype(np.float64) - x.max())
            expected = shifted / shifted.sum()
            result = _core.kernels.softmax(x, isa)
            assert (np.abs(result - expected) <= 1e-5 * expected + 1e-37).all()
            assert abs(result.astype(np.float64).sum() - 1) < (n + 4) * EPS


def test_softmax_of_masked_and_bad_values(isa: str) -> None:
    x = vector(8)
    x[3] = -np.inf
    assert _core.kernels.softmax(x, isa)[3] == 0
    x[5] = np.nan
    assert np.isnan(_core.kernels.softmax(x, isa)).all()


def test_log_sum_exp(isa: str) -> None:
    for n in [1, 5, 16, 1000, 131072]:
        x = vector(n, n, 5)
        x64 = x.astype(np.float64)
        expected = x64.max() + np.log(np.exp(x64 - x64.max()).sum())
        result = _core.kernels.log_sum_exp(x, isa)
        assert abs(result - expected) < 2e-6
        if n > 1:
            without_last = x64.max() + np.log(np.exp(np.append(x64[:-1], -np.inf) - x64.max()).sum())
            assert abs(result - without_last) > 0.9 * (expected - without_last)


def test_log_sum_exp_of_extremes(isa: str) -> None:
    def of(*values: float) -> float:
        return _core.kernels.log_sum_exp(np.array(values, np.float32), isa)

    assert of(-np.inf, -np.inf, -np.inf) == -np.inf
    assert of(-np.inf, 3.0) == 3.0
    assert of(3e38, 3e38) == pytest.approx(3e38)
    assert np.isnan(of(1.0, np.nan))
    assert np.isnan(of(np.nan, -np.inf))
