"""The encoders of IQ2_* and IQ3_* against exhaustive searches in numpy and the gguf package's decoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, dequantize
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import ModelError

Floats = NDArray[np.float32]
BLOCK = 256


@dataclass(frozen=True)
class Layout:
    """What the format of a type says. Signs belong together in eights, even in number if `even`."""

    codec: Any
    sub_block: int
    unit: float  # value = d * unit * (2 * k + 1) * magnitude
    even: bool

    def magnitudes(self) -> NDArray[np.float64]:
        self.codec.init_grid()
        return np.asarray(self.codec.grid, np.float64).reshape(self.codec.grid_shape)


LAYOUTS = {
    "iq2_xxs": Layout(IQ2_XXS, 32, 0.125, True),
    "iq2_xs": Layout(IQ2_XS, 16, 0.125, True),
    "iq2_s": Layout(IQ2_S, 16, 0.125, False),
    "iq3_xxs": Layout(IQ3_XXS, 32, 0.25, True),
    "iq3_s": Layout(IQ3_S, 32, 1.0, False),
}
KINDS = tuple(LAYOUTS)
ISAS = {"avx512": ("baseline", "avx2", "avx512"), "avx2": ("baseline", "avx2")}


def isas() -> tuple[str, ...]:
    """The encoders' instruction sets that this machine runs."""
    supported = _core.supported_isas()
    return next((names for name, names in ISAS.items() if name in supported), ("baseline",))


def encode(kind: str, x: Floats, importance: Floats, isa: str = "") -> NDArray[np.uint8]:
    return _core.quantize_rows(kind, x, importance=importance, isa=isa)


def decode(kind: str, data: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(dequantize(data, GGMLQuantizationType[kind.upper()]), np.float64)


def scales(kind: str, data: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The scale of every sub-block [blocks, sub-blocks], read from the bytes."""
    layout = LAYOUTS[kind]
    blocks = data.reshape(-1, GGML_QUANT_SIZES[GGMLQuantizationType[kind.upper()]][1])
    d = blocks[:, :2].copy().view(np.float16).astype(np.float64)
    if kind == "iq2_xxs":
        k = blocks[:, 2:].copy().view(np.uint32)[:, 1::2] >> 28
    elif kind == "iq3_xxs":
        k = blocks[:, 2 + 64 :].copy().view(np.uint32) >> 28
    else:
        nibbles = blocks[:, -BLOCK // layout.sub_block // 2 :]
        k = np.stack([nibbles & 15, nibbles >> 4], axis=-1).reshape(len(blocks), -1)
    return d * layout.unit * (2.0 * k + 1.0)


class Exhaustive:
    """Looks at all codewords and signs for eights of values x under weights w, both [n, 8]."""

    def __init__(self, kind: str, x: NDArray[np.float64], w: NDArray[np.float64]) -> None:
        layout = LAYOUTS[kind]
        grid = layout.magnitudes()
        length = grid.shape[1]
        parts = [slice(i, i + length) for i in range(0, 8, length)]
        wx = w * np.abs(x)
        self.energy = (wx * np.abs(x)).sum(axis=1)
        self.odd = layout.even & ((x < 0).sum(axis=1) % 2 == 1)
        # [n, codewords] each: sum w x g, sum w g g, and the least w x g, which a wrong sign costs four times
        self.wxg = [wx[:, p] @ grid.T for p in parts]
        self.wgg = [w[:, p] @ (grid * grid).T for p in parts]
        self.flip = [(wx[:, None, p] * grid).min(axis=2) for p in parts] if layout.even else []

    def least(self, scale: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """The least weighted errors [n] under scales [n] or one for all."""
        s = np.reshape(scale, (-1, 1))
        errors = [s * s * gg - 2 * s * xg for xg, gg in zip(self.wxg, self.wgg, strict=True)]
        right = [e.min(axis=1) for e in errors]
        total = self.energy + np.sum(right, axis=0)
        wrong = [(e + 4 * s * f).min(axis=1) - r for e, f, r in zip(errors, self.flip, right, strict=False)]
        return total + np.where(self.odd, np.min(wrong, axis=0), 0.0) if wrong else total


def samples(columns: int = BLOCK) -> Floats:
    """[rows, columns]: normal, heavy-tailed, one-sided, few levels, tiny and huge rows."""
    rng = np.random.default_rng(11)
    rows = [
        rng.standard_normal((6, columns)) * 0.02,
        rng.standard_t(2, (6, columns)),
        np.abs(rng.standard_normal((3, columns))),
        rng.integers(-3, 4, (3, columns)) * 0.25,
        rng.standard_normal((3, columns)) * 1e-6,
        rng.standard_normal((3, columns)) * 1e5,
    ]
    return np.concatenate(rows).astype(np.float32)


def importance(columns: int) -> Floats:
    """Log-normal, of mean 1, as the encoder makes it."""
    weights = np.exp(np.random.default_rng(12).standard_normal(columns))
    return np.asarray(weights / weights.mean(), np.float32)


def costs(x: Floats, importance: Floats) -> NDArray[np.float64]:
    """What the encoder takes an error in each value to cost: the importance of its column."""
    return np.broadcast_to(np.asarray(importance, np.float64), x.shape)


def eights(x: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(x, np.float64).reshape(-1, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_every_codeword_is_the_best(kind: str) -> None:
    x = samples()
    w = importance(x.shape[1])
    data = encode(kind, x, w)
    scale = np.repeat(scales(kind, data).ravel(), LAYOUTS[kind].sub_block // 8)
    weights = eights(costs(x, w))
    errors = (weights * eights(decode(kind, data) - x) ** 2).sum(axis=1)
    best = Exhaustive(kind, eights(x), weights).least(scale)
    # float32 against float64: near-ties may fall either way.
    assert np.all(errors <= best * (1 + 1e-4) + (weights * eights(x) ** 2).sum(axis=1) * 1e-6)
    assert np.all(errors >= best * (1 - 1e-6))


@pytest.mark.parametrize("kind", KINDS)
def test_scales_are_close_to_the_best_there_are(kind: str) -> None:
    x = samples()[:8:2]
    w = importance(BLOCK)
    weights = costs(x, w)
    error = (weights * (decode(kind, encode(kind, x, w)) - x) ** 2).sum(axis=1)

    layout = LAYOUTS[kind]
    grid_top = layout.magnitudes().max()
    steps = 2.0 * np.arange(16) + 1.0
    ratios = []
    for row, weight, found in zip(x, weights, error, strict=True):
        search = Exhaustive(kind, eights(row), eights(weight))
        # Units from largest value = largest magnitude at the highest step to twice and a third of that.
        units = np.abs(row).max() / grid_top / 31.0 * np.geomspace(2.0, 0.35, 24)
        units = (units / layout.unit).astype(np.float16).astype(np.float64) * layout.unit
        totals = []
        for unit in units:
            errors = np.array([search.least(unit * step) for step in steps])  # [16, eights]
            totals.append(errors.reshape(16, -1, layout.sub_block // 8).sum(axis=2).min(axis=0).sum())
        ratios.append(found / min(totals))
    assert max(ratios) < 1.06
    assert np.mean(ratios) < 1.02


@pytest.mark.parametrize("kind", KINDS)
def test_every_instruction_set_gives_the_same_bytes(kind: str) -> None:
    x = samples()
    w = importance(x.shape[1])
    expected = encode(kind, x, w, "baseline")
    for isa in isas()[1:]:
        np.testing.assert_array_equal(encode(kind, x, w, isa), expected, err_msg=isa)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 15, 17])
def test_a_row_does_not_depend_on_its_neighbours(kind: str, rows: int) -> None:
    x = samples()[:rows]
    w = importance(BLOCK)
    data = encode(kind, x, w)
    for i in (0, rows // 2, rows - 1):
        np.testing.assert_array_equal(encode(kind, x[i : i + 1], w)[0], data[i])


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_by_a_power_of_two_scales_the_result(kind: str) -> None:
    x = samples()[:12]
    w = importance(BLOCK)
    expected = decode(kind, encode(kind, x, w))
    np.testing.assert_array_equal(decode(kind, encode(kind, x * np.float32(4), w)), expected * 4)


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_blocks(kind: str) -> None:
    outlier = np.full(BLOCK, 1e-3)
    outlier[77] = 100.0
    sub_block = np.zeros(BLOCK)
    sub_block[:16] = 1.0
    rows = [
        np.zeros(BLOCK),
        np.full(BLOCK, 0.3),
        np.full(BLOCK, -0.3),
        outlier,
        sub_block,
        np.full(BLOCK, 1e-30),  # far below the smallest scale
        np.full(BLOCK, 1e-8),
        np.where(np.arange(BLOCK) % 2 == 0, 1.0, -1.0),
    ]
    x = np.array(rows, np.float32)
    w = importance(BLOCK)
    w[77] = 100.0  # else the outlier would rightly be given up for its neighbours
    y = decode(kind, encode(kind, x, w))
    weights = costs(x, w)
    error = (weights * (y - x) ** 2).sum(axis=1)
    energy = (weights * x.astype(np.float64) ** 2).sum(axis=1)
    assert np.all(np.isfinite(y))
    assert np.all(error <= energy)
    assert np.all(y[[0, 5]] == 0)
    assert np.all(error[[1, 2, 7]] < 0.06 * energy[[1, 2, 7]])
    assert error[3] < 0.02 * energy[3]  # the smallest magnitude beside the largest is not small in IQ2_*


@pytest.mark.parametrize("kind", KINDS)
def test_largest_values(kind: str) -> None:
    layout = LAYOUTS[kind]
    limit = np.float32(65504 * 31 * layout.unit * layout.magnitudes().max())
    x = np.full((1, BLOCK), limit, np.float32)
    w = importance(BLOCK)
    y = decode(kind, encode(kind, x, w))
    assert np.all(np.isfinite(y))
    np.testing.assert_allclose(np.abs(y).max(), limit, rtol=1e-6)
    x[0, 5] = np.nextafter(limit, np.float32(np.inf))
    with pytest.raises(ModelError, match=kind):
        encode(kind, x, w)


@pytest.mark.parametrize("kind", KINDS)
def test_importance_is_needed_and_heeded(kind: str) -> None:
    x = np.random.default_rng(13).standard_normal((64, BLOCK)).astype(np.float32)
    with pytest.raises(ModelError, match=f"{kind} needs an importance matrix"):
        _core.quantize_rows(kind, x)
    flat = np.ones(BLOCK, np.float32)
    steep = flat.copy()
    steep[::8] = 100.0  # one of every codeword
    off = [((decode(kind, encode(kind, x, w)) - x) ** 2)[:, ::8].mean() for w in (flat, steep)]
    assert off[1] < 0.5 * off[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_scale_of_importance_does_not_matter(kind: str) -> None:
    x = samples()
    w = importance(BLOCK)
    np.testing.assert_array_equal(encode(kind, x, w * np.float32(1024)), encode(kind, x, w))
