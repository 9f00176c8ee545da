"""Error-compensated rounding: second-order statistics, their factors, and what rounding with them saves."""

from __future__ import annotations

import numpy as np
import pytest
from calibration_helpers import calibration, compensated, correlated, hessian_of, output_error

from pygrok import ModelError, _core
from pygrok.quantize.hessian import blend, factor, ridge_solve

TYPES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4")
TYPES += ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_xs", "iq3_s", "iq3_xxs", "iq2_s", "iq2_xs", "iq2_xxs")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("shape", [(300, 96, 96), (1, 5, 70), (129, 130, 33), (0, 8, 8)])
def test_gram_is_the_sum_of_outer_products(shape: tuple[int, int, int], rng: np.random.Generator) -> None:
    n, k_x, k_y = shape
    x = rng.normal(size=(n, k_x)).astype(np.float32)
    y = rng.normal(size=(n, k_y)).astype(np.float32)
    weights = rng.random(n).astype(np.float32)
    core = calibration()
    out = np.ones((k_x, k_y))
    core.add_gram(x, y, weights, out)
    exact = 1 + (x * weights[:, None]).astype(np.float64).T @ y
    np.testing.assert_allclose(out, exact, rtol=0, atol=1e-6 * (n + 1))
    square = np.zeros((k_x, k_x))
    core.add_gram(x, x, None, square)
    np.testing.assert_array_equal(square, square.T)
    np.testing.assert_allclose(square, x.astype(np.float64).T @ x, rtol=0, atol=1e-6 * (n + 1))


def test_gram_does_not_depend_on_threads(rng: np.random.Generator) -> None:
    x = rng.normal(size=(1000, 200)).astype(np.float32)
    sums = [np.zeros((200, 200)) for _ in range(3)]
    for threads, out in enumerate(sums, 1):
        calibration(threads).add_gram(x, x, None, out)
    np.testing.assert_array_equal(sums[0], sums[1])
    np.testing.assert_array_equal(sums[0], sums[2])


def test_factor_is_that_of_the_damped_inverse(rng: np.random.Generator) -> None:
    hessian = hessian_of(correlated(rng, 500, 64), 32)
    u = factor(hessian, 0.05)
    for block, part in zip(u, hessian, strict=True):
        assert not np.tril(block, -1).any()
        damped = part / (np.trace(part) / 32) + 0.05 * np.eye(32)
        np.testing.assert_allclose(
            block.T.astype(np.float64) @ block, np.linalg.inv(damped), rtol=1e-4, atol=1e-4
        )


def test_factor_of_rank_deficient_and_empty_statistics(rng: np.random.Generator) -> None:
    x = correlated(rng, 3, 64)
    x[:, 10] = 0
    assert np.isfinite(factor(hessian_of(x), 0.01)).all()
    np.testing.assert_array_equal(factor(np.zeros((1, 32, 32)), 0.01)[0], np.eye(32, dtype=np.float32))
    huge = factor(hessian_of(x) * 1e30, 0.01)
    np.testing.assert_allclose(huge, factor(hessian_of(x), 0.01), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_statistics_that_are_no_numbers_are_refused(bad: float) -> None:
    hessian = np.eye(32)[None].copy()
    hessian[0, 3, 3] = bad
    with pytest.raises(ModelError, match="calibration text leads to NaN or infinite"):
        factor(hessian, 0.01)
    with pytest.raises(ModelError, match="calibration text leads to NaN or infinite"):
        ridge_solve(np.ones((4, 32)), hessian[0], 0.1)


def test_no_positive_hessian_is_an_error() -> None:
    hessian = np.eye(32)[None] * 2 - np.ones((1, 32, 32))
    with pytest.raises(ModelError, match="raise damping"):
        factor(hessian, 0.01)


def test_ridge_solve_is_least_squares(rng: np.random.Generator) -> None:
    x = correlated(rng, 4000, 48)
    change = rng.normal(size=(5, 48)).astype(np.float32)
    cross = change.astype(np.float64) @ hessian_of(x)[0]
    np.testing.assert_allclose(ridge_solve(cross, hessian_of(x)[0], 1e-13), change, rtol=0, atol=1e-3)
    assert np.abs(ridge_solve(cross, hessian_of(x)[0], 10.0)).sum() < np.abs(change).sum()
    assert not ridge_solve(cross, np.zeros((48, 48)), 0.1).any()


def test_blending_goes_from_the_average_to_an_experts_own() -> None:
    own, average = np.full((1, 2, 2), 6.0), np.full((1, 2, 2), 1.0)
    np.testing.assert_array_equal(blend(own * 0, 0, average, 4), average)
    np.testing.assert_array_equal(blend(own, 2, average, 2), (own + 2 * average) / 4)
    np.testing.assert_allclose(blend(own * 1e9, 10**9, average, 2), own, rtol=1e-6)


@pytest.mark.parametrize("type", TYPES)
def test_compensation_lowers_the_error_of_outputs(type: str, rng: np.random.Generator) -> None:
    x = correlated(rng, 2000, 512)
    w = rng.normal(size=(24, 512)).astype(np.float32)
    plain = _core.quantize_rows(type, w, 1, np.square(x).mean(0))
    data = compensated(type, w, factor(hessian_of(x), 0.01))
    assert output_error(type, w, data, x) < 0.75 * output_error(type, w, plain, x)


@pytest.mark.parametrize("type", ["q4_0", "q8_0", "iq4_nl", "q2_k"])
def test_without_correlation_it_is_plain_rounding(type: str, rng: np.random.Generator) -> None:
    w = rng.normal(size=(64, 512)).astype(np.float32)
    data = compensated(type, w, np.eye(512, dtype=np.float32)[None])
    plain = _core.quantize_rows(type, w, 1, np.ones(512, np.float32))
    errors = [float(np.square(_core.dequantize_rows(type, d, 512) - w).mean()) for d in (data, plain)]
    assert 0.9 < errors[0] / errors[1] < 1.02  # sub-blocks choose their scales twice


@pytest.mark.parametrize("type", ["q4_0", "q4_k"])
def test_spans_are_independent_and_threads_change_nothing(type: str, rng: np.random.Generator) -> None:
    x = correlated(rng, 700, 1024)
    w = rng.normal(size=(300, 1024)).astype(np.float32)
    u = factor(hessian_of(x, 512), 0.01)
    whole = compensated(type, w, u, threads=3)
    np.testing.assert_array_equal(whole, compensated(type, w, u, threads=1))
    halves = [compensated(type, np.ascontiguousarray(w[:, i * 512 :][:, :512]), u[i : i + 1]) for i in (0, 1)]
    np.testing.assert_array_equal(whole, np.concatenate(halves, axis=1))


def test_compensation_refuses_what_it_cannot_round() -> None:
    w = np.zeros((3, 64), np.float32)
    u = np.eye(64, dtype=np.float32)[None]
    for type in ("f32", "f16", "bf16"):
        with pytest.raises(ModelError, match=f"rounding to {type}"):
            compensated(type, w, u)
    for bad in (np.nan, np.inf, 1e30):
        broken = w.copy()
        broken[1, 40] = bad
        with pytest.raises(ModelError, match="NaN, infinity or a value beyond the range of q4_0"):
            compensated("q4_0", broken, u)
    with pytest.raises(ValueError, match="must divide them and be a multiple of 32"):
        compensated("q4_0", w, np.stack([np.eye(16, dtype=np.float32)] * 4))
    with pytest.raises(ValueError, match="factor"):
        compensated("q4_0", w, u[:, :32, :32])
    with pytest.raises(ValueError, match="diagonal"):
        compensated("q4_0", w, -u)
    with pytest.raises(ValueError, match="uint8"):
        calibration().compensate("q4_0", w, u, np.zeros((2, 36), np.uint8))
