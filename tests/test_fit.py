"""The knapsack against brute force, sensitivities, and plans that fit a size."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from checkpoints import array_bytes, make_checkpoint, tensor_path
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import pygrok
import pygrok.quantize
from pygrok import _core
from pygrok.errors import FormatError, ModelError
from pygrok.evaluation import kl_divergence, reference_log_probabilities
from pygrok.quantize.fit import fit_plan, sensitivities_of
from pygrok.quantize.knapsack import Infeasible, Option, solve
from pygrok.quantize.plan import Plan, TypeRules
from pygrok.quantize.plan_file import PlanFile
from pygrok.quantize.probing import measure
from pygrok.quantize.sensitivity import (
    Sensitivities,
    is_weight,
    load_sensitivities,
    save_sensitivities,
)
from pygrok.quantize.source import SourceModel, open_source
from pygrok.quantize.tensor_types import NEED_IMPORTANCE
from pygrok.quantize.type_errors import type_errors

MULTIPLIER = 16.0
# Rows of 256 and of a multiple: all types fit.
SIZES = {"embedding": 256, "heads": 16, "kv_heads": 4, "widening": 3, "layers": 3}

options = st.lists(
    st.builds(Option, st.integers(1, 40), st.floats(0, 8) | st.integers(0, 3).map(float)),
    min_size=1,
    max_size=5,
)


@given(st.lists(options, min_size=1, max_size=5), st.integers(0, 200))
def test_knapsack_is_as_good_as_brute_force(tensors: list[list[Option]], budget: int) -> None:
    fitting = [c for c in itertools.product(*tensors) if sum(option.size for option in c) <= budget]
    if not fitting:
        with pytest.raises(Infeasible) as caught:
            solve(tensors, budget)
        assert caught.value.least == sum(min(option.size for option in choices) for choices in tensors)
        return
    best = min(sum(option.loss for option in choice) for choice in fitting)
    found = solve(tensors, budget)
    chosen = [choices[i] for choices, i in zip(tensors, found.choices, strict=True)]
    assert found.size == sum(option.size for option in chosen) <= budget
    assert found.loss == pytest.approx(sum(option.loss for option in chosen))
    assert found.loss <= best * (1 + 2e-6) + 1e-12
    assert found.loss - found.gap <= best + 1e-9


@given(st.lists(options, min_size=4, max_size=8), st.integers(40, 300), st.integers(1, 3))
def test_knapsack_with_a_short_list_says_how_far_off_it_may_be(
    tensors: list[list[Option]], budget: int, states: int
) -> None:
    try:
        exact = solve(tensors, budget)
    except Infeasible:
        return
    rough = solve(tensors, budget, max_states=states)
    assert rough.size <= budget
    assert exact.loss * (1 - 2e-6) - 1e-9 <= rough.loss <= exact.loss + rough.gap + exact.loss * 2e-6 + 1e-9


def test_knapsack_of_the_size_of_grok_1_is_exact_and_quick() -> None:
    rng = np.random.default_rng(0)
    bits = np.array([2.06, 2.31, 2.56, 3.06, 3.44, 4.25, 4.5, 5.5, 6.56, 8.5, 16])
    values = np.array([6144**2, 6144**2, 6144 * 1024, 6144 * 1024, *[8 * 6144 * 32768] * 3])
    tensors = [
        [Option(int(n * b / 8), float(s * 4.0**-b * np.exp(rng.normal() / 10))) for b in bits]
        for n, s in itertools.product(values, np.exp(rng.normal(size=64)))
    ]
    for budget in (90, 130, 190):
        found = solve(tensors, budget * 10**9)
        assert found.gap <= 1e-5 * found.loss
        assert found.size <= budget * 10**9


def test_a_tensor_needs_an_option() -> None:
    with pytest.raises(ValueError, match="no option"):
        solve([[Option(1, 1.0)], []], 10)


class Importance:
    """Falls from column to column, so that weighted errors differ from plain ones."""

    def importance(self, tensor_name: str, expert: int | None) -> NDArray[np.float32] | None:
        columns = 512 if "down" in tensor_name else 256
        return (
            None if tensor_name == "blk.0.attn_k.weight" else np.geomspace(100, 1, columns, dtype=np.float32)
        )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("fit"), **SIZES)


@pytest.fixture(scope="module")
def source(checkpoint: Path) -> SourceModel:
    return open_source(checkpoint)


@pytest.fixture(scope="module")
def estimated(source: SourceModel) -> Sensitivities:
    return sensitivities_of(source, MULTIPLIER, threads=1)


def file_bytes(plan: Plan) -> int:
    """Tensors, padding and a header."""
    return 12345 + sum(-(-tensor.nbytes // 32) * 32 for tensor in plan.tensors)


def names_of(source: SourceModel) -> set[str]:
    return {tensor.name for tensor in source.tensors if is_weight(tensor)}


def test_errors_are_those_of_the_codecs(source: SourceModel) -> None:
    converter = _core.Converter(1)
    tensor = source.tensor("blk.1.attn_v.weight")  # 64 rows: sampled whole
    with tensor.open() as reader:
        values = reader.values(converter, 0)
    for importance in (None, Importance()):
        weights = np.ones(256, np.float32) if importance is None else importance.importance(tensor.name, None)
        assert weights is not None
        found = type_errors(tensor, ("q4_k", "q8_0", "f32"), importance, converter)
        for name in found:
            packed = _core.quantize_rows(name, values, importance=None if importance is None else weights)
            off = _core.dequantize_rows(name, packed, 256).astype(np.float64) - values
            expected = (off**2 @ weights).sum() / (values.astype(np.float64) ** 2 @ weights).sum()
            assert found[name] == pytest.approx(expected, rel=1e-5)
        assert 0 == found["f32"] < found["q8_0"] < found["q4_k"] < 0.02


def test_types_that_cannot_hold_the_values_are_left_out(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, **SIZES)
    embedding = np.full((96, 256), 1e5, np.float32)
    tensor_path(directory, 0).write_bytes(array_bytes(embedding))
    tensor = open_source(directory).tensors[0]
    converter = _core.Converter(1)
    assert type_errors(tensor, ("f16", "q8_0", "f32"), None, converter).keys() == {"q8_0", "f32"}
    with pytest.raises(ModelError, match="f16"):
        type_errors(tensor, ("f16",), None, converter)


def test_estimates_follow_the_energy_of_norms(source: SourceModel, estimated: Sensitivities) -> None:
    assert estimated.method == "estimated"
    assert estimated.values.keys() == names_of(source)
    converter = _core.Converter(1)

    def squares(name: str) -> float:
        with source.tensor(name).open() as reader:
            values = reader.values(converter, 0).astype(np.float64)
        return float((values**2).sum(axis=1).mean())

    stream = MULTIPLIER**2 * squares("token_embd.weight") + squares("blk.0.attn_output_norm.weight")
    expected = squares("blk.0.attn_output_norm.weight") / stream
    values = estimated.values
    assert values["blk.0.attn_v.weight"] == pytest.approx(0.63 * expected, rel=1e-4)
    stream += squares("blk.0.layer_output_norm.weight")
    expected = squares("blk.0.layer_output_norm.weight") / stream
    assert values["blk.0.ffn_down_exps.weight"] == pytest.approx(0.6 * expected, rel=1e-4)


def test_plans_fit_and_spend_what_they_may(source: SourceModel, estimated: Sensitivities) -> None:
    everything = file_bytes(
        fit_plan(source, TypeRules("q4_k"), 1 << 40, estimated, file_bytes=file_bytes).plan
    )
    before = np.inf
    for share in (0.1, 0.13, 0.17, 0.25, 0.5):
        budget = int(share * everything)
        steps: list[tuple[str, int, int]] = []
        fit = fit_plan(
            source,
            TypeRules("q4_k"),
            budget,
            estimated,
            file_bytes=file_bytes,
            importance=Importance(),
            threads=1,
            progress=lambda what, done, total, steps=steps: steps.append((what, done, total)),
        )
        assert fit.file_bytes == file_bytes(fit.plan) <= budget
        assert fit.file_bytes > 0.98 * budget
        assert fit.predicted_kl == pytest.approx(
            sum(estimated.values[name] * error for name, error in fit.errors.items())
        )
        assert fit.predicted_kl < before
        before = fit.predicted_kl
        types = dict(fit.plan.types)
        assert types["blk.0.attn_k.weight"] not in NEED_IMPORTANCE
        assert steps[-1] == ("encoding samples", 22, 22)


def test_what_is_given_a_type_keeps_it(source: SourceModel, estimated: Sensitivities) -> None:
    rules = TypeRules(
        "q4_k",
        embedding="q5_k",
        overrides=(("blk.0.attn_v", "q8_0"),),
        plan_file=PlanFile(
            Path("plan.json"), (("blk.0.attn_*.weight", "q4_0"), ("output_norm.weight", "f32"))
        ),
    )
    types = dict(fit_plan(source, rules, 2_500_000, estimated, file_bytes=file_bytes).plan.types)
    assert types["token_embd.weight"] == "q5_k"
    assert types["blk.0.attn_v.weight"] == "q8_0"
    assert types["blk.0.attn_q.weight"] == types["blk.0.attn_output.weight"] == "q4_0"
    assert types["blk.0.attn_norm.weight"] == "f32"


def test_headers_that_grow_with_the_parts_are_counted(source: SourceModel, estimated: Sensitivities) -> None:
    def in_parts(plan: Plan) -> int:
        return file_bytes(plan) + 4096 * (1 + plan.nbytes // 100_000)

    fit = fit_plan(source, TypeRules("q4_k"), 2_500_000, estimated, file_bytes=in_parts)
    assert 2_400_000 < in_parts(fit.plan) == fit.file_bytes <= 2_500_000


def test_too_small_a_size_says_what_is_possible(source: SourceModel, estimated: Sensitivities) -> None:
    with pytest.raises(
        ValueError, match=r"a file of 1000 bytes is too small .* at least (\d+) bytes; .*--imatrix"
    ) as e:
        fit_plan(source, TypeRules("q4_k"), 1000, estimated, file_bytes=file_bytes)
    found = re.search(r"at least (\d+) bytes", str(e.value))
    assert found is not None
    least = int(found[1])
    assert fit_plan(source, TypeRules("q4_k"), least, estimated, file_bytes=file_bytes).file_bytes == least


def test_tensors_that_do_not_matter_get_little(source: SourceModel, estimated: Sensitivities) -> None:
    values = dict.fromkeys(estimated.values, 1e-9) | {"blk.1.attn_q.weight": 1.0}
    fit = fit_plan(
        source, TypeRules("q4_k"), 2_500_000, Sensitivities(values, "measured"), file_bytes=file_bytes
    )
    types = dict(fit.plan.types)
    assert types["blk.1.attn_q.weight"] in ("f32", "q8_0")
    assert types["blk.2.ffn_up_exps.weight"] in ("q2_k", "q3_k", "q4_k")


def test_sensitivities_come_back_from_their_file(
    tmp_path: Path, source: SourceModel, estimated: Sensitivities
) -> None:
    path = tmp_path / "s.json"
    saved = Sensitivities(estimated.values, "measured", {"tokens": 7, "text": "a"})
    save_sensitivities(path, saved)
    assert load_sensitivities(path, source) == saved
    assert sensitivities_of(source, MULTIPLIER, file=path) == saved
    assert [file.name for file in tmp_path.iterdir()] == ["s.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "pygrok-plan"}, "'format' is not 'pygrok-sensitivities'"),
        ({"version": 7}, "'version' is 7, expected 1"),
        ({"method": "guessed"}, "'method' is 'guessed'"),
        ({"tensors": 3}, "'tensors' is missing or no object"),
        ({"details": {"a": []}}, "'details' is no object"),
        ({"tensors": {"token_embd.weight": float("nan")}}, "the value of 'token_embd.weight' is nan"),
        ({"tensors": {"token_embd.weight": -1}}, "the value of 'token_embd.weight' is -1"),
        ({"tensors": {"token_embd.weight": True}}, "the value of 'token_embd.weight' is True"),
        ({"tensors": {"token_embd.weight": 1}}, "lacks tensor 'blk.0.attn_k.weight'"),
        ({"more": "x"}, "has, unlike this model, tensor 'x'"),
    ],
)
def test_wrong_sensitivities(
    tmp_path: Path,
    source: SourceModel,
    estimated: Sensitivities,
    change: dict[str, object],
    message: str,
) -> None:
    path = tmp_path / "s.json"
    save_sensitivities(path, estimated)
    document = json.loads(path.read_text())
    if "more" in change:
        document["tensors"]["x"] = 1
    else:
        document |= change
    path.write_text(json.dumps(document))
    with pytest.raises(FormatError, match=re.escape(message)) as caught:
        load_sensitivities(path, source)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def runnable(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runnable") / "f32.gguf"
    pygrok.quantize.convert(checkpoint, path, "f32", no_tokenizer=True)
    return path


@pytest.mark.parametrize("probes", [64, 6])
def test_measured_sensitivities_add_up(runnable: Path, probes: int) -> None:
    source = open_source(runnable)
    converter = _core.Converter(1)
    ids = np.random.default_rng(1).integers(0, 96, 60).astype(np.int32)
    steps: list[tuple[int, int]] = []
    with pygrok.load(runnable, kv_type="f32", threads=1, activations="int24") as model:
        before = model.logits(ids[:20])
        found = measure(
            model,
            source,
            ids,
            None,
            converter,
            most_probes=probes,
            progress=lambda done, total: steps.append((done, total)),
        )
        np.testing.assert_array_equal(model.logits(ids[:20]), before)  # everything was put back

        reference = reference_log_probabilities(model, ids, window=32, stride=31)
        errors = {}
        for tensor in filter(is_weight, source.tensors):
            with tensor.open() as reader:
                parts = [reader.values(converter, i) for i in range(len(tensor.matrices))]
            packed = np.stack([_core.quantize_rows("q2_k", part) for part in parts])
            model.replace_tensor(tensor.name, "q2_k", packed)
            errors[tensor.name] = type_errors(tensor, ["q2_k"], None, converter)["q2_k"]
        together = kl_divergence(model, ids, reference, window=32, stride=31).mean
    assert found.predict(errors) == pytest.approx(together, rel=0.05)
    assert found.values.keys() == names_of(source)
    assert all(0 <= value < 100 for value in found.values.values())
    assert len(set(found.values.values())) == (22 if probes == 64 else 8)
    assert steps == [(i + 1, len(steps)) for i in range(len(steps))]


def test_texts_are_needed_to_measure(runnable: Path) -> None:
    assert sensitivities_of(open_source(runnable), MULTIPLIER, threads=1).method == "estimated"
    with pytest.raises(ModelError, match="no tokenizer"):
        sensitivities_of(open_source(runnable), MULTIPLIER, text="some text", threads=1)
