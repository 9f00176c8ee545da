"""Block encoders against the gguf package's decoders, and the converter against numpy."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import bfloat16, dequantized
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from numpy.typing import NDArray
from quantize_reference import decode

from pygrok import _core
from pygrok.errors import ModelError

TYPES = {
    "f32": GGMLQuantizationType.F32,
    "f16": GGMLQuantizationType.F16,
    "bf16": GGMLQuantizationType.BF16,
    "q8_0": GGMLQuantizationType.Q8_0,
    "q4_0": GGMLQuantizationType.Q4_0,
    "q4_1": GGMLQuantizationType.Q4_1,
    "q5_0": GGMLQuantizationType.Q5_0,
    "q5_1": GGMLQuantizationType.Q5_1,
}
BLOCK_TYPES = ("q8_0", "q4_0", "q5_0", "q4_1", "q5_1")


def samples() -> NDArray[np.float32]:
    """[rows, 256]: normal, heavy-tailed, few levels, tiny, zero, one-sided and outlier rows."""
    rng = np.random.default_rng(3)
    outliers = rng.standard_normal((200, 256))
    outliers[:, ::37] *= 50
    rows = [
        rng.standard_normal((500, 256)),
        rng.standard_t(2, (500, 256)),
        rng.integers(-3, 4, (200, 256)) * 1e-3,
        rng.standard_normal((200, 256)) * 1e-6,
        rng.standard_normal((200, 256)) * 3e-8,
        np.zeros((3, 256)),
        np.abs(rng.standard_normal((200, 256))),
        -np.abs(rng.standard_normal((200, 256))),
        outliers,
    ]
    return np.concatenate(rows).astype(np.float32)


def block_errors(kind: str, data: NDArray[np.uint8], x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Squared errors weighted as the encoders weigh them, by block."""
    square = (x.astype(np.float64) ** 2).reshape(-1, 32)
    difference = (decode(kind, data).astype(np.float64) - x).reshape(-1, 32)
    weight = np.sqrt(square.mean(axis=1, keepdims=True) + square)
    return np.asarray((weight * difference**2).sum(axis=1))


@pytest.mark.parametrize("kind", BLOCK_TYPES)
def test_no_block_is_worse_than_the_usual_choice(kind: str) -> None:
    x = samples()
    ours = block_errors(kind, _core.quantize_rows(kind, x), x)
    usual = block_errors(kind, quantize(x, TYPES[kind]), x)
    # Errors are compared in float32 by the encoder: allow its rounding.
    assert np.all(ours <= usual * (1 + 1e-4) + 1e-30)


def test_q4_0_search_pays() -> None:
    x = np.random.default_rng(0).standard_normal((2000, 256)).astype(np.float32)
    ours = block_errors("q4_0", _core.quantize_rows("q4_0", x), x).sum()
    usual = block_errors("q4_0", quantize(x, TYPES["q4_0"]), x).sum()
    assert 0.88 < ours / usual < 0.91


def test_known_blocks() -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :16] = np.arange(-8, 8) / 4
    x[0, 16:] = np.arange(7, -9, -1) / 4
    scale = np.array([0.25], np.float16).tobytes()
    codes = bytes(i | (15 - i) << 4 for i in range(16))
    assert _core.quantize_rows("q4_0", x).tobytes() == scale + codes

    x[0] = np.arange(-16, 16) / 2
    x[0, 0] = -63.5
    codes = (x[0] * 2).astype(np.int8).tobytes()
    assert _core.quantize_rows("q8_0", x).tobytes() == np.array([0.5], np.float16).tobytes() + codes


def test_f16_rounds_every_case_to_nearest_even() -> None:
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves = np.sort(halves[np.isfinite(halves)])
    between = (halves[:-1] + halves[1:]) / 2  # ties
    x = np.concatenate(
        [halves, between, np.nextafter(between, np.float32(9e4)), np.nextafter(between, np.float32(-9e4))]
    )
    ours = _core.quantize_rows("f16", x[None]).view(np.uint16)[0]
    np.testing.assert_array_equal(ours, x.astype(np.float16).view(np.uint16))


def test_bf16_rounds_to_nearest_even() -> None:
    rng = np.random.default_rng(2)
    bits = rng.integers(0, 0x7F00, 4096).astype(np.uint32) << 16
    tails = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = (bits[:, None] | tails | (rng.integers(0, 2, (4096, 6)).astype(np.uint32) << 31)).view(np.float32)
    np.testing.assert_array_equal(_core.quantize_rows("bf16", x), quantize(x, TYPES["bf16"]))


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_numbers_are_refused(kind: str, bad: float) -> None:
    for place in (0, 33, 255):
        x = np.zeros((17, 256), np.float32)
        x[16, place] = bad
        with pytest.raises(ModelError, match=f"range of {kind}"):
            _core.quantize_rows(kind, x)


def test_ranges_end_where_the_types_do() -> None:
    for kind, largest in (("f16", 65504.0), ("q8_0", 65504.0 * 127), ("q4_0", 65504.0 * 8)):
        x = np.full((1, 32), largest, np.float32)
        assert np.isfinite(decode(kind, _core.quantize_rows(kind, x))).all()
        with pytest.raises(ModelError):
            _core.quantize_rows(kind, np.nextafter(x, np.float32(np.inf)))


def test_wrong_requests() -> None:
    with pytest.raises(ValueError, match="blocks of 32"):
        _core.quantize_rows("q4_0", np.zeros((2, 33), np.float32))
    with pytest.raises(ValueError, match="unknown tensor type"):
        _core.quantize_rows("q9_9", np.zeros((2, 32), np.float32))
    with pytest.raises(ModelError, match="q4_0, q4_1"):
        _core.quantize_rows("i64", np.zeros((2, 32), np.float32))
    with pytest.raises(ValueError, match="threads"):
        _core.Converter(-1)


def convert(weight: Any, scales: Any, kind: str, *, transpose: bool = True, threads: int = 1) -> Any:
    rows, columns = weight.shape[::-1] if transpose else weight.shape
    _, block, block_bytes = _core.tensor_types()[kind]
    out = np.full((rows, columns // block * block_bytes), 0xAA, np.uint8)
    _core.Converter(threads).convert(weight, scales, transpose, kind, 0, out)
    return out


@pytest.mark.parametrize("shape", [(32, 1), (32, 15), (64, 16), (288, 33), (1024, 130), (96, 257)])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_scaled_weights_are_exact_products(shape: tuple[int, int], groups: int) -> None:
    rng = np.random.default_rng(4)
    weight = rng.integers(-128, 128, shape).astype(np.int8)
    scales = bfloat16(rng.uniform(-2, 2, (groups, shape[1])).astype(np.float32))
    expected = np.ascontiguousarray(dequantized(weight, scales).T)
    np.testing.assert_array_equal(convert(weight, scales, "f32").view(np.float32), expected)
    for kind in ("f16", "bf16", "q8_0", "q4_0"):
        converted = convert(weight, scales, kind, threads=2)
        if kind == "q8_0" and shape[0] // groups % 32 == 0:  # holds the int8 values themselves
            np.testing.assert_array_equal(dequantize(converted, GGMLQuantizationType.Q8_0), expected)
        else:
            np.testing.assert_array_equal(converted, _core.quantize_rows(kind, expected))


@pytest.mark.parametrize("transpose", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_plain_weights(transpose: bool, dtype: Any) -> None:
    x = np.random.default_rng(6).standard_normal((160, 96)).astype(np.float32)
    stored = x if dtype is np.float32 else bfloat16(x)
    values = x if dtype is np.float32 else (stored.astype(np.uint32) << 16).view(np.float32)
    expected = np.ascontiguousarray(values.T if transpose else values)
    out = convert(stored, None, "f32", transpose=transpose, threads=3)
    np.testing.assert_array_equal(out.view(np.float32), expected)


def test_slices_make_the_whole_and_stay_in_bounds() -> None:
    rng = np.random.default_rng(7)
    weight = rng.integers(-127, 128, (256, 200)).astype(np.int8)
    scales = bfloat16(np.ones((4, 200), np.float32))
    whole = convert(weight, scales, "q4_0")
    converter = _core.Converter(2)
    for first, rows in ((0, 1), (1, 31), (32, 168), (199, 1), (200, 0)):
        guarded = np.full((rows + 2, whole.shape[1]), 0x55, np.uint8)
        converter.convert(weight, scales, True, "q4_0", first, guarded[1:-1])
        np.testing.assert_array_equal(guarded[1:-1], whole[first : first + rows])
        assert np.all(guarded[[0, -1]] == 0x55)
    with pytest.raises(ValueError, match="matrix with 200"):
        converter.convert(weight, scales, True, "q4_0", 199, np.empty((2, whole.shape[1]), np.uint8))


def test_sources_need_no_alignment(tmp_path: Path) -> None:
    x = np.random.default_rng(8).standard_normal((64, 64)).astype(np.float32)
    path = tmp_path / "odd"
    path.write_bytes(b"123" + x.tobytes())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        view = np.frombuffer(data, np.float32, 64 * 64, 3).reshape(64, 64)
        np.testing.assert_array_equal(convert(view, None, "f32").view(np.float32), x.T)
        del view


def test_converter_refuses_what_does_not_fit() -> None:
    weight = np.zeros((64, 32), np.int8)
    scales = np.zeros((2, 32), np.uint16)
    out = np.empty((32, 36), np.uint8)
    converter = _core.Converter(1)
    cases: list[tuple[Any, ...]] = [
        (weight, np.zeros((3, 32), np.uint16), True, "q4_0", 0, out),
        (weight, np.zeros((2, 31), np.uint16), True, "q4_0", 0, out),
        (weight, scales, False, "q4_0", 0, np.empty((64, 18), np.uint8)),
        (weight, scales.view(np.float16), True, "q4_0", 0, out),
        (weight.T, None, True, "q4_0", 0, out),
        (weight[0], None, True, "q4_0", 0, out),
        (weight.astype(np.float64), None, True, "q4_0", 0, out),
        (weight, scales, True, "q4_0", 0, np.empty((32, 35), np.uint8)),
        (weight, scales, True, "q4_0", 0, np.empty((32, 72), np.uint8)[:, ::2]),
        (weight, scales, True, "q4_0", 0, np.broadcast_to(np.uint8(0), (32, 36))),
    ]
    for case in cases:
        with pytest.raises(ValueError):  # noqa: PT011  # one call, many reasons
            converter.convert(*case)
    converter.convert(weight, scales, True, "q4_0", 0, out)
