"""Calibration: layers in parts, what is rounded with which inputs, whole conversions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from calibration_helpers import calibration, output_error
from numpy.typing import NDArray
from reference_model import mean_kl
from source_files import values_of, write_gguf

import pygrok
from pygrok import ModelError, _core
from pygrok.quantize import convert
from pygrok.quantize.calibration import CalibrationOptions, Calibrator, Piece
from pygrok.quantize.exact_model import ExactModel, Routes
from pygrok.quantize.output_matrix import similar_rows
from pygrok.quantize.plan import Plan, TypeRules, make_plan
from pygrok.quantize.rounding import Inputs, stored
from pygrok.quantize.source import open_source

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_layer_parts_refuse_shapes_that_do_not_fit() -> None:
    core = calibration()
    x = np.zeros((4, 64), np.float32)
    square, key = stored(np.zeros((64, 64), np.float32)), stored(np.zeros((32, 64), np.float32))
    with pytest.raises(ValueError, match="float32"):
        core.multiply(square, x[:, :32].copy())
    with pytest.raises(ValueError, match="same shape"):
        core.gate(square, key, x)
    with pytest.raises(ValueError, match="lengths"):
        core.attend(square, key, key, x, [3])
    with pytest.raises(ValueError, match="rows"):
        core.attend(square, square, key, x, [4])
    with pytest.raises(ValueError, match="unknown tensor type"):
        core.multiply(("q9_9", square[1]), x)
    with pytest.raises(ModelError, match="i32 cannot be calibrated"):
        core.multiply(("i32", square[1]), x)
    with pytest.raises(ValueError, match="heads"):
        calibration(heads=3)


def test_similar_rows_are_grouped_and_all_there(rng: np.random.Generator) -> None:
    centres = rng.normal(size=(4, 32))
    labels = np.repeat(np.arange(4), 16)
    rows = (centres[labels] + 0.01 * rng.normal(size=(64, 32))).astype(np.float32)
    groups = similar_rows(rows, 4)
    assert sorted(np.concatenate(groups)) == list(range(64))
    assert {tuple(set(labels[group])) for group in groups} == {(0,), (1,), (2,), (3,)}
    odd = similar_rows(np.zeros((37, 8), np.float32), 4)
    assert sorted(np.concatenate(odd)) == list(range(37))


def test_routes_break_ties_like_the_engine() -> None:
    routes = Routes(np.array([[0.25, 0.25, 0.25, 0.25], [0.1, 0.2, 0.3, 0.4]], np.float32), 2)
    assert [rows.tolist() for rows in routes.rows] == [[0], [0], [1], [1]]
    np.testing.assert_allclose(routes.square, [0.125, 0.25])


@pytest.mark.parametrize("span", [256, 300, 6144])
def test_spans_divide_rows_into_whole_blocks(span: int) -> None:
    options = CalibrationOptions(span=span)
    assert options.span_of(32768) == {256: 256, 300: 256, 6144: 4096}[span]
    assert options.span_of(96) == 96
    assert options.span_of(6144) == {256: 256, 300: 256, 6144: 6144}[span]


def test_options_are_checked() -> None:
    for name in ("damping", "ridge", "prior", "embedding_prior"):
        with pytest.raises(ValueError, match=name):
            CalibrationOptions(**{name: 0.0})
    with pytest.raises(ValueError, match="span"):
        CalibrationOptions(span=32)


class Run:
    """A small model, what to make of it, and ids to calibrate on."""

    def __init__(self, path: Path, type: str, ids: Sequence[NDArray[np.int32]]) -> None:
        self.source = open_source(path)
        self.model = self.source.hyperparameters()
        self.plan: Plan = make_plan(self.source, TypeRules(type, type))
        self.ids = ids

    def calibrator(self, threads: int = 1) -> Calibrator:
        return Calibrator(self.source, self.model, self.ids, threads=threads)

    def pieces(self, calibrator: Calibrator) -> list[Piece]:
        result = list(calibrator.quantize_top(self.plan.tensors))
        for layer in range(self.model.layers):
            result += calibrator.quantize_layer(layer, self.plan.tensors)
        return result


def chunks(count: int, length: int) -> list[NDArray[np.int32]]:
    ids = np.random.default_rng(3).integers(3, 400, (count, length))
    return list(ids.astype(np.int32))


def test_parts_of_layers_are_the_engines_forward(tiny_models: dict[str, Path]) -> None:
    ids = [*chunks(1, 700), *chunks(3, 65)]
    run = Run(tiny_models["f32"], "f32", ids)
    m = run.model
    core = calibration(heads=m.heads, kv_heads=m.kv_heads, head_size=m.head_size)
    assert (m.attention_multiplier, m.rms_epsilon) == (0.25, pytest.approx(1e-5))
    exact = ExactModel(run.source, m, core, [len(chunk) for chunk in ids])
    states = exact.last_states(np.concatenate(ids))
    logits = core.multiply(stored(exact.values("embedding", None)), states) * np.float32(m.output_multiplier)
    with pygrok.load(tiny_models["f32"], kv_type="f32") as model:
        expected = np.concatenate([model.logits(chunk) for chunk in ids])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_f32_keeps_every_bit_and_both_streams_meet(tiny_models: dict[str, Path]) -> None:
    run = Run(tiny_models["f32"], "f32", chunks(2, 40))
    calibrator = run.calibrator()
    with pygrok.load(tiny_models["f32"]) as model:
        for name, index, data in run.pieces(calibrator):
            whole = model.file.data(name).reshape(-1, *data.shape)
            np.testing.assert_array_equal(data, whole[index])
    np.testing.assert_array_equal(calibrator._h, calibrator._h_exact)


def test_pieces_are_those_of_the_plan_in_its_order(tiny_models: dict[str, Path]) -> None:
    run = Run(tiny_models["f32"], "q4_0", chunks(2, 64))
    pieces = run.pieces(run.calibrator())
    expected = [
        (tensor.name, index, (tensor.rows, tensor.row_bytes))
        for tensor in run.plan.tensors
        if tensor.kind not in ("norm", "router")
        for index in range(tensor.matrices)
    ]
    assert [(name, index, data.shape) for name, index, data in pieces] == expected


def test_same_bytes_for_any_threads_and_after_a_replay(tiny_models: dict[str, Path]) -> None:
    run = Run(tiny_models["f32"], "q4_0", chunks(4, 48))
    first = run.pieces(run.calibrator(1))
    for (name, index, data), (_, _, again) in zip(first, run.pieces(run.calibrator(3)), strict=True):
        np.testing.assert_array_equal(data, again, err_msg=f"{name} {index}")

    written = {(name, index): data for name, index, data in first}
    resumed = run.calibrator(2)
    resumed.replay_top(run.plan.tensors, lambda name, index: written[name, index])
    resumed.replay_layer(0, run.plan.tensors, lambda name, index: written[name, index])
    for name, index, data in resumed.quantize_layer(1, run.plan.tensors):
        np.testing.assert_array_equal(data, written[name, index], err_msg=f"{name} {index}")


def test_experts_without_tokens_are_rounded_soundly(tiny_models: dict[str, Path]) -> None:
    run = Run(tiny_models["f32"], "q4_0", [np.array([17], np.int32)])
    with pygrok.load(tiny_models["f32"]) as model:
        unrouted = 0
        for name, index, data in run.pieces(run.calibrator()):
            if "_exps" not in name:
                continue
            shape = next(t.shape for t in run.plan.tensors if t.name == name)
            w = model.file.data(name).view(np.float32).reshape(shape)[index]
            error = np.square(_core.dequantize_rows("q4_0", data, shape[-1]) - w).mean() / np.square(w).mean()
            assert error < 0.03, (name, index)
            unrouted += bool(error < 0.01)
        assert unrouted >= run.model.layers * 3 * (run.model.experts - run.model.experts_used)


def test_inputs_nobody_saw_count_alike() -> None:
    inputs = Inputs(calibration(), CalibrationOptions(), np.zeros((0, 64), np.float32))
    np.testing.assert_array_equal(inputs.factor[0], np.eye(64, dtype=np.float32))


def test_wrong_order_and_wrong_ids_are_refused(tiny_models: dict[str, Path]) -> None:
    run = Run(tiny_models["f32"], "q4_0", chunks(1, 8))
    calibrator = run.calibrator()
    with pytest.raises(ValueError, match="the embedding is next"):
        list(calibrator.quantize_layer(0, run.plan.tensors))
    list(calibrator.quantize_top(run.plan.tensors))
    with pytest.raises(ValueError, match="layer 0 is next"):
        list(calibrator.quantize_layer(1, run.plan.tensors))
    for ids, message in (([], "no tokens"), ([np.array([400])], "outside"), ([np.array([-1])], "outside")):
        with pytest.raises(ValueError, match=message):
            Calibrator(run.source, run.model, ids)


def test_an_output_matrix_of_its_own_is_rounded_for_the_last_states(
    tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    tied = open_source(tiny_models["f32"])
    values = values_of(tied)
    values["output.weight"] = values["token_embd.weight"][::-1].copy()
    path = write_gguf(tmp_path / "untied.gguf", values, tied.hyperparameters())
    run = Run(path, "q4_0", chunks(8, 64))
    embedding, output = (data for _, _, data in run.calibrator().quantize_top(run.plan.tensors))
    w = values["output.weight"]
    plain = _core.quantize_rows("q4_0", w)
    np.testing.assert_array_equal(
        embedding, _core.quantize_rows("q4_0", values["token_embd.weight"], 1, np.ones(128, np.float32))
    )
    states = run.calibrator()._exact.last_states(np.concatenate(run.ids))
    assert output_error("q4_0", w, output, states) < output_error("q4_0", w, plain, states)


def test_weights_that_are_no_numbers_name_the_tensor(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    sound = open_source(tiny_models["f32"])
    values = values_of(sound)
    values["blk.1.attn_k.weight"][3, 5] = np.nan
    run = Run(write_gguf(tmp_path / "nan.gguf", values, sound.hyperparameters()), "q4_0", chunks(1, 8))
    with pytest.raises(ModelError, match=r"nan\.gguf: tensor blk\.1\.attn_k\.weight holds NaN"):
        list(run.calibrator().quantize_top(run.plan.tensors))


@pytest.mark.parametrize("type", ["q4_0", "iq4_nl"])
def test_calibrated_files_are_closer_to_the_source(
    type: str, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), encoding="utf-8")
    held_out = (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")[:2000]
    options = {"type": type, "embedding_type": type, "threads": 2}
    convert(tiny_models["f32"], tmp_path / "plain.gguf", **options)  # type: ignore[arg-type]
    convert(tiny_models["f32"], tmp_path / "calibrated.gguf", calibrate=[text], **options)  # type: ignore[arg-type]
    logits = {}
    for path in (tiny_models["f32"], tmp_path / "plain.gguf", tmp_path / "calibrated.gguf"):
        with pygrok.load(path, kv_type="f32", activations="int24") as model:
            logits[path.stem] = model.logits(model.tokenizer.encode(held_out))
    exact = logits[tiny_models["f32"].stem]
    assert mean_kl(exact, logits["calibrated"]) < 0.8 * mean_kl(exact, logits["plain"])
