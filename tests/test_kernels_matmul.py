"""Matmuls of every type on every instruction set, against numpy in float64."""

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
    block_matmul,
    block_parts,
    float_matmul,
    quantize_activations,
    random_blocks,
)
from numpy.typing import NDArray

from pygrok import _core

QUANTIZED = ["q4_0", "q8_0"]
FLOATS = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
ROWS = [1, 3, 17, 33, 65]
TOKENS = [1, 2, 3, 5, 8, 11, 12, 13, 16, 17, 33]
BLOCK_WIDTHS = [32, 64, 96, 256, 288, 2048, 2080]
FLOAT_WIDTHS = [1, 2, 7, 33, 258]


def activations(n: int, k: int, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)


def rounded(x: NDArray[np.float32], kind: str, isa: str) -> NDArray[np.float32]:
    """The activations as the table takes them: avx512_bf16 rounds them for bfloat16 weights."""
    if kind == "bf16" and isa == "avx512_bf16":
        return x.astype(ml_dtypes.bfloat16).astype(np.float32)
    return x


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_matmul(kind: str, isa: str) -> None:
    for k in BLOCK_WIDTHS:
        for rows in ROWS:
            data = random_blocks(kind, rows, k, seed=rows)
            for n in TOKENS if k < 512 else [1, 12, 13]:
                x = activations(n, k)
                assert_within(_core.kernels.matmul(kind, data, x, isa), *block_matmul(kind, data, x))


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_tolerance_catches_bugs(kind: str, isa: str) -> None:
    """The bound is tight enough: a lost block, a wrong code, a shifted block, swapped halves are all seen."""
    data = random_blocks(kind, 4, 288)
    x = activations(2, 288)
    result = _core.kernels.matmul(kind, data, x, isa)
    assert_within(result, *block_matmul(kind, data, x))
    lost = x.copy()
    lost[:, -32:] = 0
    one_code = data.copy()
    one_code[:, -1] ^= 0x10  # the last code of every row
    blocks = data.reshape(4, 9, -1)
    swapped = np.concatenate([blocks[:, 1:2], blocks[:, :1], blocks[:, 2:]], axis=1).reshape(data.shape)
    for wrong_data, wrong_x in [(data, lost), (one_code, x), (swapped, x), (data, np.roll(x, 1, axis=1))]:
        expected, bound = block_matmul(kind, wrong_data, wrong_x)
        assert (np.abs(result - expected) > bound).all()


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_matmul_is_the_same_bits_everywhere(kind: str, isa: str) -> None:
    """On every table, for any number of tokens in a call, for any split of the rows."""
    data = random_blocks(kind, 81, 2304)
    x = activations(37, 2304)
    reference = _core.kernels.matmul(kind, data, x, "scalar")
    result = _core.kernels.matmul(kind, data, x, isa)
    np.testing.assert_array_equal(result, reference)
    for n in [1, 2, 3, 4, 5, 7, 9, 11, 12, 13, 18, 25]:
        np.testing.assert_array_equal(_core.kernels.matmul(kind, data, x[:n], isa), reference[:n])
    for first, last in [(0, 1), (1, 17), (64, 81), (16, 80)]:
        split = _core.kernels.matmul(kind, data[first:last].copy(), x, isa)
        np.testing.assert_array_equal(split, reference[:, first:last])


@pytest.mark.parametrize("n", [1, 14])
def test_every_code_against_every_activation(isa: str, n: int) -> None:
    """All 256 (16) codes in every place of a block, times the largest activations of both signs."""
    x = np.tile(np.array([127.0, -127.0], np.float32), (n, 16))
    x[n // 2 :] *= -1
    for kind in QUANTIZED:
        codes = np.arange(256, dtype=np.uint8)
        data = np.zeros((256, {"q4_0": 18, "q8_0": 34}[kind]), np.uint8)
        data[:, :2] = np.array([1], np.float16).view(np.uint8)
        data[:, 2:] = codes[:, None]
        for flip in [False, True]:  # equal codes everywhere, then -128 beside 127
            if flip:
                data[:, 2::2] = ~codes[:, None]
            exact = block_parts(kind, data)[1][:, 0] @ x.T.astype(np.int64)
            np.testing.assert_array_equal(
                _core.kernels.matmul(kind, data, x, isa), exact.T.astype(np.float32)
            )


@pytest.mark.parametrize("kind", QUANTIZED)
def test_extreme_scales(kind: str, isa: str) -> None:
    """Subnormal scales are exact; infinity and NaN go through to their own outputs only."""
    x = activations(13, 64)
    data = random_blocks(kind, 20, 64)
    for row, bits in [(3, 0x0001), (5, 0x83FF), (7, 0x7BFF), (9, 0x8000)]:
        data[row].reshape(2, -1)[:, :2] = np.array([bits], np.uint16).view(np.uint8)
    hostile = data.copy()
    for row, bits in [(0, 0x7C00), (11, 0xFC00), (19, 0x7E01)]:
        hostile[row].reshape(2, -1)[1, :2] = np.array([bits], np.uint16).view(np.uint8)
    for n in [1, 13]:
        result = _core.kernels.matmul(kind, data, x[:n], isa)
        assert_within(result, *block_matmul(kind, data, x[:n]))
        spoiled = _core.kernels.matmul(kind, hostile, x[:n], isa)
        assert not np.isfinite(spoiled[:, [0, 11, 19]]).any()
        keep = np.setdiff1d(np.arange(20), [0, 11, 19])
        np.testing.assert_array_equal(spoiled[:, keep], result[:, keep])


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
    np.testing.assert_array_equal(blocks["minus_128_sum"], -128 * values.sum(axis=2))
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


@pytest.mark.parametrize("kind", [*QUANTIZED, *FLOATS])
def test_dequantize_rows(kind: str, isa: str) -> None:
    if kind in FLOATS:
        w = np.random.default_rng(0).standard_normal((3, 77)).astype(FLOATS[kind])
        np.testing.assert_array_equal(
            _core.dequantize_rows(kind, w.view(np.uint8), 77, isa), w.astype(np.float32)
        )
        return
    data = random_blocks(kind, 3, 96)
    scales, values = block_parts(kind, data)
    expected = (scales[..., None] * values.astype(np.float32)).reshape(3, 96)
    np.testing.assert_array_equal(_core.dequantize_rows(kind, data, 96, isa), expected)


AT_THE_EDGE = """
import sys
import numpy as np
from kernel_reference import at_page_end, random_blocks
from pygrok import _core
isa = sys.argv[1]
for k in (32, 96, 288):
    for rows in (1, 3, 16, 17, 33):
        for kind in ("q4_0", "q8_0", "f32", "f16", "bf16"):
            odd = k if kind[0] == "q" else k + 1
            if kind[0] == "q":
                data = random_blocks(kind, rows, k)
            else:
                data = np.ones((rows, odd * (4 if kind == "f32" else 2)), np.uint8)
            edge = at_page_end(data)
            for n in (1, 2, 13):
                x = np.ones((n, odd), np.float32)
                results = [_core.kernels.matmul(kind, d, x, isa) for d in (edge, data)]
                assert np.array_equal(*results, equal_nan=True)
            results = [_core.dequantize_rows(kind, d, odd, isa) for d in (edge, data)]
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
