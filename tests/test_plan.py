"""Which type every tensor gets: types, mixes, overrides, fallbacks, plan files good and bad."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from plan_sources import GROK_1, source_without_files

from pygrok import _core
from pygrok.errors import FormatError
from pygrok.quantize.mixes import MIXES, Ladder
from pygrok.quantize.plan import Plan, TypeRules, make_plan
from pygrok.quantize.plan_file import PlanFile, load_plan_file, save_plan_file
from pygrok.quantize.tensor_types import FALLBACKS, NEED_IMPORTANCE, TYPES, bits

SOURCE = source_without_files()
# Bits per weight that llama.cpp's mix of the name takes for a model of Grok-1's shapes (its own dry run).
USUAL_BITS = {
    "iq2_m": 2.63,
    "q2_k_s": 2.73,
    "iq3_xs": 3.29,
    "iq3_m": 3.65,
    "q3_k_s": 3.47,
    "q3_k_m": 3.84,
    "q3_k_l": 4.13,
    "q4_k_s": 4.56,
    "q4_k_m": 4.86,
    "q5_k_s": 5.51,
    "q5_k_m": 5.68,
    "mxfp4_moe": 4.34,
}


class Even:
    """Importance of all tensors but some."""

    def __init__(self, *lacking: str) -> None:
        self.lacking = lacking

    def importance(self, tensor_name: str, expert: int | None) -> NDArray[np.float32] | None:
        return None if tensor_name in self.lacking else np.ones(1, np.float32)


def types_of(plan: Plan) -> dict[str, str]:
    return dict(plan.types)


def plan_with(*entries: tuple[str, str]) -> PlanFile:
    return PlanFile(Path("my.json"), entries)


def test_every_type_reaches_all_weights() -> None:
    for name in TYPES:
        plan = make_plan(SOURCE, TypeRules(name), Even())
        types = types_of(plan)
        weights = {t.name for t in SOURCE.tensors if t.kind in ("attention", "expert")}
        assert {types[weight] for weight in weights} == {name}
        assert {t.type for t in plan.tensors if t.kind in ("norm", "router")} == {"f32"}
        embedding = {"f16": "f16", "bf16": "bf16", "q8_0": "f32", "f32": "f32"}.get(name, "q8_0")
        assert types["token_embd.weight"] == embedding
        assert not plan.notices
        assert abs(plan.bits_per_weight - bits(name)) < 0.1


@pytest.mark.parametrize(
    ("dtype", "expected"), [("q8_0", "q8_0"), ("bf16", "bf16"), ("f32", "f32"), ("q4_k", "f32")]
)
def test_q8_0_keeps_an_embedding_that_holds_less(dtype: str, expected: str) -> None:
    embedding = replace(SOURCE.tensors[0], matrices=(replace(SOURCE.tensors[0].matrices[0], dtype=dtype),))
    source = replace(SOURCE, tensors=(embedding, *SOURCE.tensors[1:]))
    assert make_plan(source, TypeRules("q8_0")).tensors[0].type == expected


@pytest.mark.parametrize("name", MIXES)
def test_mixes_hold_what_their_names_promise(name: str) -> None:
    plan = make_plan(SOURCE, TypeRules(name), Even())
    if name in USUAL_BITS:
        assert plan.bits_per_weight < USUAL_BITS[name] * 1.01
        assert plan.bits_per_weight > USUAL_BITS[name] * 0.97
    by_name = types_of(plan)
    kinds = {t.kind: bits(by_name[t.name]) for t in SOURCE.tensors if t.layer in (31, None)}
    assert min(kinds["attention"], kinds["embedding"]) >= kinds["expert"]


def test_table_of_the_documentation_is_that_of_the_code() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "mixes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    plans = {name: make_plan(SOURCE, TypeRules(name), Even()) for name in MIXES}
    assert {name: (float(b), float(gb)) for name, b, gb in rows} == {
        name: (round(plan.bits_per_weight, 2), round(plan.nbytes / 1e9, 1)) for name, plan in plans.items()
    }


@given(st.integers(1, 200), st.floats(0, 1))
def test_ladders_raise_their_share_from_both_ends(layers: int, share: float) -> None:
    ladder = Ladder("q4_k", "q6_k", share)
    raised = [i for i in range(layers) if ladder.type_of(i, layers) == "q6_k"]
    assert len(raised) == round(share * layers)
    start = [i for i in raised if i == raised.index(i)]
    if len(raised) < layers:
        assert len(start) == len(raised) // 4
    end = raised[len(start) :]
    assert end == list(range(layers - len(end), layers))


def test_overrides_last_match_wins_and_beats_everything() -> None:
    rules = TypeRules(
        "q4_k",
        embedding="q6_k",
        overrides=(("ffn_", "q3_k"), (r"blk\.(0|63)\.", "q5_k"), ("blk.0.ffn_down", "q8_0")),
        plan_file=plan_with(("*", "q2_k"), ("blk.5.attn_q.weight", "q4_1"), ("blk.5.*", "q4_0")),
    )
    types = types_of(make_plan(SOURCE, rules))
    assert types["token_embd.weight"] == "q6_k"
    assert types["blk.0.ffn_down_exps.weight"] == "q8_0"
    assert types["blk.63.attn_q.weight"] == types["blk.0.ffn_up_exps.weight"] == "q5_k"
    assert types["blk.5.ffn_up_exps.weight"] == "q3_k"
    assert types["blk.5.attn_q.weight"] == "q4_1"
    assert types["blk.5.attn_k.weight"] == "q4_0"
    assert types["blk.7.attn_v.weight"] == "q2_k"
    assert types["blk.0.ffn_gate_inp.weight"] == types["blk.0.ffn_norm.weight"] == "f32"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"default": "q4_9"}, "unknown type 'q4_9'"),
        ({"default": "q4_k", "embedding": "q4_k_m"}, "unknown embedding type"),
        ({"default": "q4_k", "overrides": (("attn", "q9"),)}, "unknown type of tensors 'attn'"),
        ({"default": "q4_k", "overrides": (("attn(", "q4_k"),)}, r"'attn\(': not a regular expression"),
        ({"default": "q4_k", "overrides": (("atn", "q4_k"),)}, "'atn': matches none; names are such as blk"),
        ({"default": "q4_k", "overrides": (("norm", "q4_k"),)}, "'norm': matches norms and routers only"),
    ],
)
def test_wrong_rules_are_told_in_one_line(rules: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make_plan(SOURCE, TypeRules(**rules))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(NEED_IMPORTANCE))
def test_types_of_few_bits_need_importance(name: str) -> None:
    with pytest.raises(
        ValueError, match=f"{name} of blk.0.attn_q.weight needs an importance matrix: .*--imatrix"
    ):
        make_plan(SOURCE, TypeRules(name))
    with pytest.raises(
        ValueError, match=f"blk.3.attn_q.weight: not in the importance matrix, which {name} needs"
    ):
        make_plan(SOURCE, TypeRules(name), Even("blk.3.attn_q.weight"))
    make_plan(SOURCE, TypeRules(name, overrides=(("blk.3.attn_q", "q4_k"),)), Even("blk.3.attn_q.weight"))


def test_fallbacks_keep_the_bits() -> None:
    geometry = _core.tensor_types()
    for wanted in TYPES:
        if geometry[wanted][1] != 256:
            continue
        assert bits(FALLBACKS[wanted]) >= bits(wanted)
        assert geometry[FALLBACKS[wanted]][1] == 32
        source = source_without_files(replace(GROK_1, layers=1, expert_width=96, query=80))
        plan = make_plan(source, TypeRules(wanted, overrides=(("ffn_(gate|up)|attn_[qkv]", "q4_k"),)))
        types = types_of(plan)
        assert types["blk.0.ffn_down_exps.weight"] == FALLBACKS[wanted]  # no importance asked for
        assert types["blk.0.attn_output.weight"] == "f16"
        assert any("rows of 96 do not divide into" in notice for notice in plan.notices)


def test_rows_add_up() -> None:
    plan = make_plan(SOURCE, TypeRules("q4_k_m"))
    rows = plan.rows()
    assert sum(row.nbytes for row in rows) == plan.nbytes
    assert sum(row.tensors for row in rows) == len(plan.tensors)
    down = [(row.type, row.tensors) for row in rows if row.role == "expert_down"]
    assert sum(count for _, count in down) == 64


def test_plan_files_give_the_plan_back(tmp_path: Path) -> None:
    plan = make_plan(SOURCE, TypeRules("q3_k_l"))
    save_plan_file(tmp_path / "plan.json", plan.types)
    again = make_plan(SOURCE, TypeRules("q8_0", plan_file=load_plan_file(tmp_path / "plan.json")))
    assert again.types == plan.types
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


GOOD = '{"format": "pygrok-plan", "version": 1, "tensors": {"blk.*": "q4_k"}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1"),
        (GOOD[:-3], "line 1, column"),
        ("[1]", "'format' is not 'pygrok-plan'"),
        (GOOD.replace("pygrok-plan", "other"), "'format' is not 'pygrok-plan'"),
        (GOOD.replace("1,", "true,"), "'version' is True, expected 1"),
        (GOOD.replace("1,", "2,"), "'version' is 2, expected 1"),
        (GOOD.replace("1,", "9" * 5000 + ","), "a number is too long"),
        (GOOD.replace('"q4_k"', "3"), "type 3 of 'blk"),
        (GOOD.replace('"q4_k"', "[[]]"), "type a list of 'blk"),
        (GOOD.replace("q4_k", "q4_k_m"), "type 'q4_k_m' of 'blk"),
        (GOOD.replace('{"blk.*": "q4_k"}', "[]"), "'tensors' is missing or no object"),
        (GOOD.replace('"version"', '"extra": 0, "version"'), "unknown key 'extra'"),
        (GOOD.replace('"blk.*": "q4_k"', '"a": "q4_k", "a": "q4_k"'), "'a' stands there twice"),
        ('{"a":' * 100_000, "nested too deeply"),
        (GOOD.replace("blk", "\udcff"), "no UTF-8"),
    ],
)
def test_hostile_plan_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(FormatError, match=re.escape(message)) as caught:
        load_plan_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_huge_plan_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(FormatError, match="larger than 16 MiB"):
        load_plan_file(path)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (("blk.64.attn_q.weight", "q4_k"), "'blk.64.attn_q.weight' in 'tensors' is no tensor of this model"),
        (("blk.*.mlp", "q4_k"), "is no tensor of this model"),
        (("output_norm.weight", "q4_k"), "'output_norm.weight' stays f32"),
    ],
)
def test_plan_files_of_other_models(entry: tuple[str, str], message: str) -> None:
    with pytest.raises(FormatError, match="my.json: .*" + re.escape(message)):
        make_plan(SOURCE, TypeRules("q4_k", plan_file=plan_with(entry)))


@given(st.lists(st.sampled_from("ab*"), max_size=12), st.text("ab", max_size=12))
def test_patterns_match_as_stars_do(pattern: list[str], name: str) -> None:
    text = "".join(pattern) + "*"
    plan = plan_with((text, "q4_k"))
    expected = re.fullmatch("".join(".*" if c == "*" else c for c in text), name) is not None
    if expected:
        assert plan.assign([name]) == {name: "q4_k"}
    else:
        with pytest.raises(FormatError):
            plan.assign([name])


def test_patterns_take_no_time() -> None:
    plan = plan_with(("*a" * 5000 + "b*", "q4_k"))
    with pytest.raises(FormatError):
        plan.assign(["a" * 20000])


@given(
    st.text(max_size=40)
    | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists).map(json.dumps)
)
def test_no_text_does_worse_than_format_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(text, encoding="utf-8", errors="replace")
    with pytest.raises(FormatError):
        load_plan_file(path)
