"""Attention over a run of cached positions, and the cache formats, on every instruction set."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from kernel_reference import EPS, attention
from numpy.typing import NDArray

from pygrok import _core

FORMATS = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
CAP = 30.0


def cache(kind: str, positions: int, d: int, seed: int) -> NDArray[np.generic]:
    return np.random.default_rng(seed).standard_normal((positions, d)).astype(FORMATS[kind])


def queries(n: int, d: int, size: float = 1.0) -> NDArray[np.float32]:
    return (np.random.default_rng(9).standard_normal((n, d)) * size).astype(np.float32)


def attend(
    kind: str,
    q: NDArray[np.float32],
    k: NDArray[np.generic],
    v: NDArray[np.generic],
    visible: list[int],
    isa: str,
    cap: float = CAP,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return _core.kernels.attend(kind, q, k.view(np.uint8), v.view(np.uint8), visible, cap, isa)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("d", [2, 8, 16, 34, 128, 130])
def test_attend(kind: str, d: int, isa: str) -> None:
    for positions, n, cap in [(1, 1, CAP), (5, 6, CAP), (64, 6, CAP), (63, 13, 60.0), (64, 3, 0.5)]:
        q = queries(n, d, 2 / d**0.5)
        k, v = cache(kind, positions, d, 1), cache(kind, positions, d, 2)
        visible = [max(0, positions - i) for i in range(n)]
        acc, total = attend(kind, q, k, v, visible, isa, cap)
        expected, expected_total = attention(q, k.astype(np.float32), v.astype(np.float32), visible, cap)
        # 1e-5 for the soft cap, 2e-6 for exp, a rounding a position, and those of dot products of unit size.
        relative = 1e-5 + 2e-6 + (positions + 8 * d**0.5) * EPS
        magnitude, _ = attention(q, k.astype(np.float32), np.abs(v.astype(np.float32)), visible, cap)
        assert (np.abs(acc - expected) <= relative * magnitude).all()
        assert (np.abs(total - expected_total) <= relative * expected_total).all()


def test_tolerance_catches_bugs(isa: str) -> None:
    """A lost tail of the head, a lost position, no soft cap: all far beyond the tolerance above."""
    q = queries(2, 34, 0.4)
    k, v = (cache("f32", 20, 34, seed).astype(np.float32) for seed in (1, 2))
    _, total = attend("f32", q, k, v, [20, 20], isa)
    short = q.copy()
    short[:, -1] = 0
    for wrong_q, visible, cap in [(short, [20, 20], CAP), (q, [19, 19], CAP), (q, [20, 20], 1e9)]:
        _, wrong = attention(wrong_q, k, v, visible, cap)
        assert (np.abs(total - wrong) > 2e-5 * wrong).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_scores_keep_their_precision(kind: str, isa: str) -> None:
    """Scores from 0 to far above the cap: log of the weight is the capped score within 1e-5, plus 2e-6."""
    size = np.concatenate([np.linspace(-200, 200, 400), np.geomspace(1e-9, 60, 100)]).astype(np.float32)
    q = np.zeros((size.size, 2), np.float32)
    q[:, 0] = size
    k = np.array([[1, 0]], FORMATS[kind])
    for cap in [30.0, 60.0, 1.0]:
        _, total = attend(kind, q, k, k, [1] * size.size, isa, cap)
        expected = cap * np.tanh(size.astype(np.float64) / cap)
        assert np.abs(np.log(total.astype(np.float64)) - expected).max() < 1.2e-5


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_hidden_positions_never_matter(kind: str, poison: float, isa: str) -> None:
    """What lies behind a query's visible positions and which queries share the call change no bit."""
    d, n = 34, 7
    q = queries(n, d, 0.3)
    k, v = cache(kind, 64, d, 1), cache(kind, 64, d, 2)
    visible = [0, 1, 5, 17, 40, 63, 64]
    acc, total = attend(kind, q, k, v, visible, isa)
    for i, count in enumerate(visible):
        hidden_k, hidden_v = k.copy(), v.copy()
        hidden_k[count:] = poison
        hidden_v[count:] = poison
        together = attend(kind, q, hidden_k, hidden_v, [min(count, c) for c in visible], isa)
        np.testing.assert_array_equal(together[0][i], acc[i])
        alone = attend(kind, q[i : i + 1], hidden_k, hidden_v, [count], isa)
        np.testing.assert_array_equal(alone[0][0], acc[i])
        assert alone[1][0] == total[i] == together[1][i]
    assert total[0] == 0
    assert (acc[0] == 0).all()


def test_a_visible_nan_stays_with_those_that_see_it(isa: str) -> None:
    q, k, v = queries(6, 16), cache("f16", 64, 16, 1), cache("f16", 64, 16, 2)
    v[10] = np.nan
    acc, total = attend("f16", q, k, v, [10, 11, 10, 64, 3, 10], isa)
    assert np.isnan(acc).all(axis=1).tolist() == [False, True, False, True, False, False]
    assert np.isfinite(acc[[0, 2, 4, 5]]).all()
    assert np.isfinite(total).all()


def same_floats(a: NDArray[np.generic], b: NDArray[np.generic], nan: NDArray[np.bool_]) -> bool:
    return bool((a[~nan] == b[~nan]).all())


def test_every_16_bit_float_loads(isa: str) -> None:
    codes = np.arange(65536, dtype=np.uint16)
    for kind, dtype in [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)]:
        expected = codes.view(dtype).astype(np.float32)
        loaded = _core.kernels.kv_load(kind, codes.view(np.uint8), isa)
        nan = np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(loaded), nan)
        np.testing.assert_array_equal(loaded[~nan].view(np.uint32), expected[~nan].view(np.uint32))


def test_stores_round_to_nearest_even(isa: str) -> None:
    """Every 16-bit value, the midpoints between neighbours and the floats beside them; NaNs stay NaNs."""
    for kind, dtype in [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)]:
        exact = np.arange(65536, dtype=np.uint16).view(dtype).astype(np.float32)
        exact = exact[np.isfinite(exact)]
        middle = ((exact.astype(np.float64) + np.roll(exact, -1)) / 2).astype(np.float32)
        beside = [np.nextafter(middle, np.float32(s)) for s in (np.inf, -np.inf)]
        extra = np.array([0, -0.0, 65519.996, 65520, 3.4e38, -3.4e38, 1e-45, np.inf, -np.inf], np.float32)
        x = np.concatenate([exact, middle, *beside, extra])
        with np.errstate(over="ignore"):
            expected = x.astype(dtype)
        np.testing.assert_array_equal(_core.kernels.kv_store(kind, x, isa), expected.view(np.uint8))
        nans = np.array([0x7F800001, 0x7FC00000, 0xFFFFFFFF, 0x7FFFFFFF], np.uint32).view(np.float32)
        assert np.isnan(_core.kernels.kv_store(kind, nans, isa).view(dtype).astype(np.float32)).all()


@pytest.mark.parametrize("kind", FORMATS)
def test_cache_round_trip_of_odd_lengths(kind: str, isa: str) -> None:
    for n in [1, 2, 7, 16, 33]:
        x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
        stored = _core.kernels.kv_store(kind, x, isa)
        np.testing.assert_array_equal(
            _core.kernels.kv_load(kind, stored, isa), x.astype(FORMATS[kind]).astype(np.float32)
        )


def test_attend_checks_its_arguments() -> None:
    q, k = queries(1, 8), cache("f32", 4, 8, 0)
    with pytest.raises(ValueError, match="unknown KV type 'f64'"):
        attend("f64", q, k, k, [4], "")
    with pytest.raises(ValueError, match="must not exceed"):
        attend("f32", q, k, k, [5], "")
    with pytest.raises(ValueError, match="cap must be"):
        attend("f32", q, k, k, [4], "", cap=61.0)
    with pytest.raises(ValueError, match="bytes of a key"):
        attend("f16", q, k, k, [4], "")
