"""Matmuls on float weights on every instruction set against numpy in float64, and what all matmuls share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from kernel_reference import (
    ACTIVATION_BLOCK,
    assert_within,
    float_matmul,
    quantize_activations,
    random_blocks,
)
from numpy.typing import NDArray

from pygrok import _core

FLOATS = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
ROWS = [1, 3, 17, 33, 65]
TOKENS = [1, 2, 3, 5, 8, 11, 12, 13, 16, 17, 33]
FLOAT_WIDTHS = [1, 2, 7, 33, 258]


def activations(n: int, k: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)


def rounded(x: NDArray[np.float32], kind: str, isa: str) -> NDArray[np.float32]:
    """The activations as the table takes them: with BF16 dot products, rounded for bfloat16 weights."""
    if kind == "bf16" and isa in ("avx512_bf16", "avx512_amx"):
        return x.astype(ml_dtypes.bfloat16).astype(np.float32)
    return x


def test_prepared_activations_are_the_same_bits_everywhere(isa: str) -> None:
    x = activations(9, 288)
    x *= np.exp2(np.random.default_rng(2).uniform(-60, 60, (9, 9))).repeat(32, axis=1).astype(np.float32)
    x[0, :32] = 0
    x[1, :32] = 2.0**-101  # counts as zero
    x[2, :32] = np.array([127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5], np.float32).repeat(4)  # ties
    x[3, :32] = 3.4e38
    scales, values = quantize_activations(x)
    rows = _core.kernels.prepare("q8", x, isa)
    assert rows.shape[1] % 64 == 0
    blocks = rows[:, : 9 * ACTIVATION_BLOCK.itemsize].copy().view(ACTIVATION_BLOCK)
    np.testing.assert_array_equal(blocks["values"], values)
    np.testing.assert_array_equal(blocks["scale"], scales)
    np.testing.assert_array_equal(blocks["minus_8_sum"], -8 * values.sum(axis=2))
    first, last = values[..., :16].sum(axis=2), values[..., 16:].sum(axis=2)
    sums = np.stack([first, last, first + last], axis=-1)
    np.testing.assert_array_equal(blocks["minus_128_sum"], -128 * sums)
    with np.errstate(over="ignore"):  # sums of 3.4e38
        minus_sums = scales[..., None] * (-sums).astype(np.float32)
    np.testing.assert_array_equal(blocks["minus_sum"], minus_sums)
    assert (np.abs(values).max(axis=2)[blocks["scale"] > 0] == 127).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_activations_spoil_their_own_token(isa: str, bad: float) -> None:
    data = random_blocks("q4_0", 18, 64)
    x = activations(13, 64)
    clean = _core.kernels.matmul("q4_0", data, x, isa)
    x[4, 40] = bad
    result = _core.kernels.matmul("q4_0", data, x, isa)
    assert np.isnan(result[4]).all()
    keep = np.arange(13) != 4
    np.testing.assert_array_equal(result[keep], clean[keep])


@pytest.mark.parametrize("kind", FLOATS)
def test_float_matmul(kind: str, isa: str) -> None:
    for k in FLOAT_WIDTHS:
        for rows in ROWS:
            w = np.random.default_rng(rows).standard_normal((rows, k)).astype(FLOATS[kind])
            for n in TOKENS:
                x = activations(n, k)
                result = _core.kernels.matmul(kind, w.view(np.uint8), x, isa)
                assert_within(result, *float_matmul(w, rounded(x, kind, isa)))


@pytest.mark.parametrize("kind", FLOATS)
def test_float_tolerance_catches_bugs(kind: str, isa: str) -> None:
    w = np.random.default_rng(0).standard_normal((5, 258)).astype(FLOATS[kind])
    x = activations(3, 258)
    result = _core.kernels.matmul(kind, w.view(np.uint8), x, isa)
    no_tail = x.copy()
    no_tail[:, -1] = 0
    for wrong in [no_tail, np.roll(x, 1, axis=1)]:
        expected, bound = float_matmul(w, rounded(wrong, kind, isa))
        assert (np.abs(result - expected) > bound).all()


@pytest.mark.parametrize("kind", FLOATS)
def test_float_matmul_does_not_depend_on_the_batch(kind: str, isa: str) -> None:
    w = np.random.default_rng(0).standard_normal((67, 1000)).astype(FLOATS[kind])
    x = activations(41, 1000)
    result = _core.kernels.matmul(kind, w.view(np.uint8), x, isa)
    for n in [1, 2, 3, 4, 7, 33]:
        np.testing.assert_array_equal(_core.kernels.matmul(kind, w.view(np.uint8), x[:n], isa), result[:n])
    for first, last in [(0, 1), (3, 8), (64, 67)]:
        split = _core.kernels.matmul(kind, w[first:last].copy().view(np.uint8), x, isa)
        np.testing.assert_array_equal(split, result[:, first:last])


@pytest.mark.parametrize("kind", FLOATS)
def test_dequantize_floats(kind: str, isa: str) -> None:
    w = np.random.default_rng(0).standard_normal((3, 77)).astype(FLOATS[kind])
    result = _core.dequantize_rows(kind, w.view(np.uint8), 77, isa)
    np.testing.assert_array_equal(result, w.astype(np.float32))


AT_THE_EDGE = """
import sys
import numpy as np
from kernel_reference import QUANTIZED, at_page_end, random_blocks, widths
from pygrok import _core
isa = sys.argv[1]
cases = [(kind, widths(kind, [1, 3, 9])) for kind in QUANTIZED]
cases += [(kind, [33, 96, 97]) for kind in ("f32", "f16", "bf16")]
for kind, columns in cases:
    for k in columns:
        for rows in (1, 3, 16, 17):
            if kind in QUANTIZED:
                data = random_blocks(kind, rows, k)
            else:
                data = np.ones((rows, k * (4 if kind == "f32" else 2)), np.uint8)
            edge = at_page_end(data)
            for n in (1, 2, 13):
                x = np.ones((n, k), np.float32)
                results = [_core.kernels.matmul(kind, d, x, isa) for d in (edge, data)]
                assert np.array_equal(*results, equal_nan=True)
            if k % 32 == 0 and _core.kernels.has_many(kind, isa):
                x = np.ones((17, k), np.float32)
                results = [_core.kernels.matmul(kind, d, x, isa, many=True) for d in (edge, data)]
                assert np.array_equal(*results, equal_nan=True)
            results = [_core.dequantize_rows(kind, d, k, isa) for d in (edge, data)]
            assert np.array_equal(*results, equal_nan=True)
print("inside")
"""


def test_nothing_is_read_behind_the_weights(isa: str) -> None:
    """Weights end where a mapping ends, as a file's last tensor may; a read beyond kills the child."""
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}){AT_THE_EDGE}",
            isa,
        ],
        cwd="/",  # from the source tree, Python would import the package without its extension
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (0, "inside\n"), run.stderr


def test_matmul_checks_its_arguments() -> None:
    data = random_blocks("q4_0", 2, 64)
    for kind, weights, x, message in [
        ("q9", data, activations(1, 64), "unknown tensor type 'q9'"),
        ("i8", data, activations(1, 64), "cannot run tensor type 'i8'"),
        ("q4_0", data, activations(1, 63), "columns must be a multiple of 32 for q4_0"),
        ("q4_0", data, activations(1, 96), "bytes of a row is 36, must be 54"),
        ("q4_0", data[0], activations(1, 64), "must have 2 dimension"),
    ]:
        with pytest.raises(ValueError, match=message):
            _core.kernels.matmul(kind, weights, x)
