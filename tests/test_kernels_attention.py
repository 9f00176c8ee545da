"""Attention over a run of cached positions, and the cache formats, on every instruction set."""

from __future__ import annotations

import gguf
import ml_dtypes
import numpy as np
import pytest
from gguf import quants
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from kernel_reference import EPS, F32, U8, attention
from numpy.typing import NDArray

from pygrok import _core

FLOATS = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
KINDS = [*FLOATS, "q8_0"]
Q8_0 = gguf.GGMLQuantizationType.Q8_0
CAP = 30.0


def vectors(kind: str, x: F32) -> U8:
    """Rows of x as cached vectors, made without the kernels."""
    if kind == "q8_0":
        return quants.quantize(x, Q8_0)
    return x.astype(FLOATS[kind]).view(np.uint8)


def values_of(kind: str, data: U8) -> F32:
    """What cached vectors stand for."""
    if kind == "q8_0":
        return quants.dequantize(data, Q8_0)
    return data.view(FLOATS[kind]).astype(np.float32)


def cache(kind: str, positions: int, d: int, seed: int) -> U8:
    x = np.random.default_rng(seed).standard_normal((positions, d)).astype(np.float32)
    return vectors(kind, x)


def queries(n: int, d: int, size: float = 1.0) -> F32:
    return (np.random.default_rng(9).standard_normal((n, d)) * size).astype(np.float32)


def attend(
    kind: str, q: F32, k: U8, v: U8, visible: list[int], isa: str, cap: float = CAP
) -> tuple[F32, F32]:
    return _core.kernels.attend(kind, q, k, v, visible, cap, isa)


HEADS = [(kind, d) for kind in FLOATS for d in (2, 8, 16, 34, 128, 130)]
HEADS += [("q8_0", d) for d in (32, 64, 96, 128, 160)]


@pytest.mark.parametrize(("kind", "d"), HEADS)
def test_attend(kind: str, d: int, isa: str) -> None:
    for positions, n, cap in [
        (1, 1, CAP),
        (5, 6, CAP),
        (64, 6, CAP),
        (63, 13, 60.0),
        (64, 3, 0.5),
        (33, 200, 9.0),
    ]:
        q = queries(n, d, 2 / d**0.5)
        k, v = cache(kind, positions, d, 1), cache(kind, positions, d, 2)
        visible = [max(0, positions - i) for i in range(n)]
        acc, total = attend(kind, q, k, v, visible, isa, cap)
        keys, values = values_of(kind, k), values_of(kind, v)
        expected, expected_total = attention(q, keys, values, visible, cap)
        # 1e-5 for the soft cap, 2e-6 for exp, a rounding a position, and those of dot products of unit size.
        relative = 1e-5 + 2e-6 + (positions + 8 * d**0.5) * EPS
        magnitude, _ = attention(q, keys, np.abs(values), visible, cap)
        assert (np.abs(acc - expected) <= relative * magnitude).all()
        assert (np.abs(total - expected_total) <= relative * expected_total).all()


def test_tolerance_catches_bugs(isa: str) -> None:
    """A lost tail of the head, a lost position, no soft cap: all far beyond the tolerance above."""
    q = queries(2, 34, 0.4)
    keys, values = (cache("f32", 20, 34, seed) for seed in (1, 2))
    _, total = attend("f32", q, keys, values, [20, 20], isa)
    k, v = values_of("f32", keys), values_of("f32", values)
    short = q.copy()
    short[:, -1] = 0
    for wrong_q, visible, cap in [(short, [20, 20], CAP), (q, [19, 19], CAP), (q, [20, 20], 1e9)]:
        _, wrong = attention(wrong_q, k, v, visible, cap)
        assert (np.abs(total - wrong) > 2e-5 * wrong).all()


@pytest.mark.parametrize("kind", FLOATS)
def test_scores_keep_their_precision(kind: str, isa: str) -> None:
    """Scores from 0 to far above the cap: log of the weight is the capped score within 1e-5, plus 2e-6."""
    size = np.concatenate([np.linspace(-200, 200, 10000), np.geomspace(1e-9, 60, 1000)]).astype(np.float32)
    q = np.zeros((size.size, 2), np.float32)
    q[:, 0] = size
    k = vectors(kind, np.array([[1, 0]], np.float32))
    for cap in [30.0, 60.0, 1.0]:
        _, total = attend(kind, q, k, k, [1] * size.size, isa, cap)
        expected = cap * np.tanh(size.astype(np.float64) / cap)
        assert np.abs(np.log(total.astype(np.float64)) - expected).max() < 1.2e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_hidden_positions_never_matter(kind: str, poison: float, isa: str) -> None:
    """What lies behind a query's visible positions and which queries share the call change no bit."""
    d, n = (96, 7) if kind == "q8_0" else (34, 7)
    q = queries(n, d, 0.3)
    k, v = cache(kind, 64, d, 1), cache(kind, 64, d, 2)
    visible = [0, 1, 5, 17, 40, 63, 64]
    acc, total = attend(kind, q, k, v, visible, isa)
    hidden = np.full((1, d), poison, np.float32)
    poisoned = _core.kernels.kv_store("q8_0", hidden[0]) if kind == "q8_0" else vectors(kind, hidden)[0]
    assert not np.isfinite(values_of(kind, poisoned[None])).any()
    for i, count in enumerate(visible):
        hidden_k, hidden_v = k.copy(), v.copy()
        hidden_k[count:] = poisoned
        hidden_v[count:] = poisoned
        together = attend(kind, q, hidden_k, hidden_v, [min(count, c) for c in visible], isa)
        np.testing.assert_array_equal(together[0][i], acc[i])
        alone = attend(kind, q[i : i + 1], hidden_k[:count], hidden_v[:count], [count], isa)
        np.testing.assert_array_equal(alone[0][0], acc[i])
        assert alone[1][0] == total[i] == together[1][i]
    assert total[0] == 0
    assert (acc[0] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_visible_nan_stays_with_those_that_see_it(kind: str, isa: str) -> None:
    q, k, v = queries(6, 32), cache(kind, 64, 32, 1), cache(kind, 64, 32, 2)
    v[10] = _core.kernels.kv_store(kind, np.full(32, np.nan, np.float32), isa)
    acc, total = attend(kind, q, k, v, [10, 11, 10, 64, 3, 10], isa)
    assert np.isnan(acc).all(axis=1).tolist() == [False, True, False, True, False, False]
    assert np.isfinite(acc[[0, 2, 4, 5]]).all()
    assert np.isfinite(total).all()
    k[7] = v[10]
    _, total = attend(kind, q, k, v, [7, 8, 0, 64, 3, 10], isa)
    assert np.isnan(total).tolist() == [False, True, False, True, False, True]


def every_16_bit_float(dtype: type) -> F32:
    with np.errstate(invalid="ignore"):  # ARM's conversion tells of signalling NaNs
        return np.arange(65536, dtype=np.uint16).view(dtype).astype(np.float32)


def test_every_16_bit_float_loads(isa: str) -> None:
    codes = np.arange(65536, dtype=np.uint16)
    for kind, dtype in [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)]:
        expected = every_16_bit_float(dtype)
        loaded = _core.kernels.kv_load(kind, codes.view(np.uint8), codes.size, isa)
        nan = np.isnan(expected)
        np.testing.assert_array_equal(np.isnan(loaded), nan)
        np.testing.assert_array_equal(loaded[~nan].view(np.uint32), expected[~nan].view(np.uint32))


def test_stores_round_to_nearest_even(isa: str) -> None:
    """Every 16-bit value, the midpoints between neighbours and the floats beside them; NaNs stay NaNs."""
    for kind, dtype in [("f16", np.float16), ("bf16", ml_dtypes.bfloat16)]:
        exact = every_16_bit_float(dtype)
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


@pytest.mark.parametrize("kind", FLOATS)
def test_cache_round_trip_of_odd_lengths(kind: str, isa: str) -> None:
    for n in [1, 2, 7, 16, 33]:
        x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
        stored = _core.kernels.kv_store(kind, x, isa)
        np.testing.assert_array_equal(
            _core.kernels.kv_load(kind, stored, n, isa), x.astype(FLOATS[kind]).astype(np.float32)
        )


def blocks_of(data: U8) -> tuple[F32, NDArray[np.int16]]:
    """Scales and codes of q8_0 blocks."""
    blocks = data.reshape(-1, 34)
    return blocks[:, :2].copy().view(np.float16).astype(np.float32)[:, 0], blocks[:, 2:].view(np.int8).astype(
        np.int16
    )


@settings(max_examples=200, deadline=None)
@given(
    x=hnp.arrays(
        np.float32,
        st.integers(1, 5).map(lambda n: 32 * n),
        elements=st.floats(-60000, 60000, width=32, allow_subnormal=True),
    )
)
def test_q8_0_is_that_of_gguf(x: F32) -> None:
    """The same scales and codes as the gguf package, which rounds halves away from zero, except that the codes of
    blocks below 2^-100, whose scale is zero, are zero too."""
    with np.errstate(over="ignore", invalid="ignore"):
        expected_scales, expected = blocks_of(quants.quantize(x, Q8_0))
    blocks = x.reshape(-1, 32).astype(np.float64)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    tiny = largest < 2.0**-100
    exact = np.where(tiny, 0, blocks / np.where(tiny, 1, largest / 127))
    half = np.abs(np.abs(exact) % 1 - 0.5) < 1e-4
    for name in _core.supported_isas():
        data = _core.kernels.kv_store("q8_0", x, name)
        scales, codes = blocks_of(data)
        np.testing.assert_array_equal(scales, expected_scales)
        assert (codes == expected)[~half & ~tiny].all()
        assert np.abs(codes - exact).max() < 0.501
        loaded = _core.kernels.kv_load("q8_0", data, x.size, name)
        np.testing.assert_array_equal(loaded, values_of("q8_0", data))


def test_q8_0_blocks_that_are_not_finite_show_it(isa: str) -> None:
    x = np.ones(96, np.float32)
    x[40], x[70] = np.nan, -np.inf
    loaded = _core.kernels.kv_load("q8_0", _core.kernels.kv_store("q8_0", x, isa), 96, isa)
    assert np.isnan(loaded).tolist() == [False] * 32 + [True] * 64


def test_attend_checks_its_arguments() -> None:
    q, k = queries(1, 8), cache("f32", 4, 8, 0)
    with pytest.raises(ValueError, match="kv_type 'f64' is unknown: choose f32, f16, bf16 or q8_0"):
        attend("f64", q, k, k, [4], "")
    with pytest.raises(ValueError, match="must not exceed"):
        attend("f32", q, k, k, [5], "")
    with pytest.raises(ValueError, match="cap must be"):
        attend("f32", q, k, k, [4], "", cap=61.0)
    with pytest.raises(ValueError, match="bytes of a key"):
        attend("f16", q, k, k, [4], "")
    with pytest.raises(ValueError, match="blocks of 32 values, the model's heads have 8"):
        attend("q8_0", q, k, k, [4], "")
