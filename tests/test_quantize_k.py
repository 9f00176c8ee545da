"""Every encoder of linear and table codes: super-blocks, searches, importance, compensation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from quantize_reference import decode, reference

from pygrok import _core
from pygrok.errors import ModelError

TYPES = [
    "q4_0",
    "q4_1",
    "q5_0",
    "q5_1",
    "q8_0",
    "iq4_nl",
    "mxfp4",
    "q2_k",
    "q3_k",
    "q4_k",
    "q5_k",
    "q6_k",
    "iq4_xs",
]
# What the search must leave of the reference quantizer's weighted error on normal values, with some room.
SEARCH_GAIN = {
    "q4_0": 0.9,
    "q4_1": 0.9,
    "q5_0": 0.95,
    "q5_1": 0.93,
    "q8_0": 1.0,
    "iq4_nl": 0.9,
    "mxfp4": 0.95,
    "q2_k": 0.7,
    "q3_k": 0.75,
    "q4_k": 0.85,
    "q5_k": 0.9,
    "q6_k": 0.93,
    "iq4_xs": 0.9,
}


def isas() -> list[str]:
    """Those that this processor runs."""
    found = []
    for isa in ("baseline", "avx2", "avx512"):
        try:
            _core.quantize_rows("f32", np.zeros((1, 32), np.float32), isa=isa)
        except ValueError:
            continue
        found.append(isa)
    return found


def samples() -> NDArray[np.float32]:
    """[rows, 512]: normal, heavy-tailed, few levels, tiny, huge, zero, constant, one-sided and outlier rows."""
    rng = np.random.default_rng(3)
    outliers = rng.standard_normal((19, 512))
    outliers[:, ::37] *= 50
    rows = [
        rng.standard_normal((40, 512)),
        rng.standard_t(2, (40, 512)),
        rng.integers(-3, 4, (17, 512)) * 1e-3,
        rng.standard_normal((16, 512)) * 1e-6,
        rng.standard_normal((16, 512)) * 3e-8,
        rng.standard_normal((16, 512)) * 1e-30,
        rng.standard_normal((16, 512)) * 5e3,
        np.zeros((3, 512)),
        np.full((2, 512), 0.37),
        np.full((2, 512), -0.37),
        np.abs(rng.standard_normal((20, 512))) + 0.5,
        -np.abs(rng.standard_normal((20, 512))) - 0.5,
        outliers,
    ]
    return np.concatenate(rows).astype(np.float32)


def importance(columns: int, seed: int = 5) -> NDArray[np.float32]:
    return np.random.default_rng(seed).lognormal(0, 1.5, columns).astype(np.float32)


def test_bytes_are_the_same_on_every_instruction_set() -> None:
    x = samples()
    columns = importance(512)
    available = isas()
    assert "baseline" in available
    for kind in TYPES:
        expected = _core.quantize_rows(kind, x, importance=columns, isa="baseline")
        for isa in available[1:]:
            np.testing.assert_array_equal(
                _core.quantize_rows(kind, x, importance=columns, isa=isa), expected, err_msg=f"{kind} {isa}"
            )
    with pytest.raises(ValueError, match="baseline"):
        _core.quantize_rows("q4_k", x, isa="mmx")


@pytest.mark.parametrize("kind", TYPES)
def test_search_beats_the_reference(kind: str) -> None:
    x = np.random.default_rng(1).standard_normal((300, 256)).astype(np.float32)
    columns = importance(256)
    ours = (columns * (decode(kind, _core.quantize_rows(kind, x, importance=columns)) - x) ** 2).sum()
    usual = (columns * (reference(kind, x) - x) ** 2).sum()
    assert ours < SEARCH_GAIN[kind] * usual


@pytest.mark.parametrize("kind", TYPES)
def test_hostile_rows_come_back(kind: str) -> None:
    x = samples()
    back = decode(kind, _core.quantize_rows(kind, x))
    assert np.isfinite(back).all()
    np.testing.assert_array_equal(back[(x == 0).all(1)], 0)
    size = np.abs(x).max(1, keepdims=True)
    levels = {"q2_k": 3, "q3_k": 7, "mxfp4": 6}.get(kind, 15)
    # Either as the reference, or steps of the coarsest scale that a row needs; what halves cannot tell apart.
    usual = np.abs(reference(kind, x[:, :256]) - x[:, :256]).max(1, keepdims=True)
    worst = np.abs(back - x).max(1, keepdims=True)
    assert np.all(worst <= np.maximum(2 * usual, 2 * size / levels) + 2e-7 * 32)


@pytest.mark.parametrize("kind", TYPES)
def test_rows_do_not_depend_on_their_neighbours(kind: str) -> None:
    x = samples()
    columns = importance(512)
    whole = _core.quantize_rows(kind, x, importance=columns, threads=3)
    for first, rows in ((0, 1), (1, 15), (40, 17), (len(x) - 1, 1)):
        part = _core.quantize_rows(kind, x[first : first + rows], importance=columns)
        np.testing.assert_array_equal(part, whole[first : first + rows])


@pytest.mark.parametrize("kind", TYPES)
def test_an_important_column_is_kept(kind: str) -> None:
    x = np.random.default_rng(8).standard_normal((64, 256)).astype(np.float32)
    columns = np.ones(256, np.float32)
    plain = decode(kind, _core.quantize_rows(kind, x, importance=columns))
    columns[77] = 1e4
    heavy = decode(kind, _core.quantize_rows(kind, x, importance=columns))
    before, after = ((values[:, 77] - x[:, 77]) ** 2 for values in (plain, heavy))
    assert after.sum() < (0.95 if kind == "mxfp4" else 0.5) * before.sum()


def test_scale_of_importance_does_not_matter_and_zeros_are_lifted() -> None:
    x = np.random.default_rng(9).standard_normal((32, 256)).astype(np.float32)
    columns = importance(256)
    expected = _core.quantize_rows("q4_k", x, importance=columns)
    np.testing.assert_array_equal(_core.quantize_rows("q4_k", x, importance=columns * 2.0**40), expected)
    even = _core.quantize_rows("q4_k", x, importance=np.ones(256, np.float32))
    np.testing.assert_array_equal(_core.quantize_rows("q4_k", x, importance=np.zeros(256, np.float32)), even)
    columns[::2] = 0
    back = decode("q4_k", _core.quantize_rows("q4_k", x, importance=columns))
    assert np.abs(back - x)[:, ::2].mean() < 0.2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e-9])
def test_importance_that_is_no_mean_square_is_refused(bad: float) -> None:
    columns = np.ones(256, np.float32)
    columns[3] = bad
    with pytest.raises(ModelError, match=r"importance of column 3 .*pygrok imatrix"):
        _core.quantize_rows("q4_k", np.zeros((1, 256), np.float32), importance=columns)
    with pytest.raises(ValueError, match="one value for each column"):
        _core.quantize_rows("q4_k", np.zeros((1, 256), np.float32), importance=np.ones(255, np.float32))


@pytest.mark.parametrize("kind", TYPES)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-20, 20), tail=st.sampled_from([1, 3, 30]))
@settings(max_examples=10, deadline=None)
def test_compensation_knows_what_the_file_gives_back(kind: str, seed: int, exponent: int, tail: int) -> None:
    rng = np.random.default_rng(seed)
    block = _core.tensor_types()[kind][1]
    x = (rng.standard_t(tail, (7, block)) * 2.0**exponent).astype(np.float32)
    x = np.clip(x, -6e4, 6e4)
    data, error = _core.compensate_block(kind, x, np.eye(block, dtype=np.float32))
    # Without correlation nothing is fed back, so the errors say what each value was rounded to.
    np.testing.assert_array_equal(error, x - decode(kind, data))


@pytest.mark.parametrize("kind", TYPES)
def test_compensation_lowers_the_error_of_the_product(kind: str) -> None:
    rng = np.random.default_rng(2)
    block = _core.tensor_types()[kind][1]
    inputs = rng.standard_normal((4 * block, block // 4)) @ rng.standard_normal((block // 4, block))
    inputs += 0.3 * rng.standard_normal(inputs.shape)
    hessian = inputs.T @ inputs / len(inputs)
    factor = np.linalg.cholesky(np.linalg.inv(hessian)).T.astype(np.float32)
    x = rng.standard_normal((16, block)).astype(np.float32)
    available = isas()
    data, _ = _core.compensate_block(kind, x, factor, isa="baseline")
    for isa in available[1:]:
        np.testing.assert_array_equal(_core.compensate_block(kind, x, factor, isa=isa)[0], data)
    columns = np.diag(hessian).astype(np.float32)
    costs = []
    for back in (decode(kind, data), decode(kind, _core.quantize_rows(kind, x, importance=columns))):
        off = back.astype(np.float64) - x
        costs.append(np.einsum("ri,ij,rj", off, hessian, off))
    assert costs[0] < 0.8 * costs[1]


def test_blocks_are_a_source() -> None:
    x = np.random.default_rng(4).standard_normal((37, 512)).astype(np.float32)
    converter = _core.Converter(2)
    for source in ("q8_0", "q4_0"):
        data = _core.quantize_rows(source, x)
        for kind in ("q4_0", "q4_k", "f32"):
            expected = data if kind == source else _core.quantize_rows(kind, decode(source, data))
            out = np.zeros((20, expected.shape[1]), np.uint8)
            converter.convert(data, None, False, kind, 9, out, source_type=source)
            np.testing.assert_array_equal(out, expected[9:29])
    broken = _core.quantize_rows("q8_0", x)
    broken[5, :2] = 0xFF  # a scale that is NaN
    for kind in ("q8_0", "q4_k"):
        out = np.zeros((37, _core.quantize_rows(kind, x).shape[1]), np.uint8)
        with pytest.raises(ModelError, match="NaN"):
            converter.convert(broken, None, False, kind, 0, out, source_type="q8_0")
    with pytest.raises(ValueError, match="transposed"):
        converter.convert(data[:32], None, True, "q4_0", 0, np.zeros((512, 18), np.uint8), source_type="q4_0")
    with pytest.raises(ValueError, match="whole q8_0 blocks"):
        converter.convert(data[:, :-1].copy(), None, False, "q4_0", 0, out, source_type="q8_0")


def test_halves_are_a_source() -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)][:63488].reshape(62, 1024)
    out = np.zeros((62, 4096), np.uint8)
    _core.Converter(1).convert(halves, None, False, "f32", 0, out)
    np.testing.assert_array_equal(out.view(np.float32), halves.astype(np.float32))
    for bad in (np.inf, -np.inf, np.nan):
        halves[3, 5] = bad
        with pytest.raises(ModelError, match="NaN"):
            _core.Converter(1).convert(halves, None, False, "f32", 0, out)
