"""Models larger than their memory: the same bits, within the limit, whatever becomes of the disk."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paging_helpers import assert_same, engine, ids_of, least_limit, run

import pygrok
from pygrok import FormatError, MemoryLimit, ModelError, _core

PROMPT = [5, 6, 7, 8, 9, 10, 300, 301, 302, 17, 18, 19]
MORE = [20, 21, 20, 22, 21, 20]
STREAMED = {"direct": "direct", "buffered": "buffered", "map": "map-streamed"}


@pytest.fixture(scope="module", params=["q8_0", "f32"])
def path(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> Path:
    return tiny_models[request.param]


def file_bytes(made: _core.Engine, path: Path) -> int:
    return path.stat().st_size


@pytest.mark.parametrize("io", STREAMED)
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_every_pool_gives_the_same_bits(path: Path, io: str, threads: int) -> None:
    expected = run(engine(path, threads=threads), PROMPT, MORE)
    least = least_limit(path, threads=threads, expert_io=io)
    size = path.stat().st_size
    for limit, piece in ((least, 0), (least + size // 6, 0), (least + size // 3, 8192), (least, 8192)):
        for lookahead in (0, 1):
            made = engine(
                path,
                threads=threads,
                expert_io=io,
                memory_limit=limit,
                piece_bytes=piece,
                lookahead=lookahead,
            )
            try:
                assert_same(run(made, PROMPT, MORE), expected)
            except MemoryLimit:
                # Larger pieces leave less for buffers; the sizes chosen by themselves must do.
                assert piece != 0
                continue
            paging = made.paging()
            assert paging["mode"] == STREAMED[io]
            assert paging["tokens"] >= len(PROMPT) + len(MORE)
            assert paging["bytes_needed"] > paging["bytes_hit"] >= 0
            assert made.memory_used <= limit
            assert paging["budget_bytes"] == limit
            assert (paging["predictions"] > 0) == (lookahead > 0)
            made.close()


def test_what_fits_is_mapped_and_costs_nothing(path: Path) -> None:
    for made in (engine(path), engine(path, memory_limit=1 << 30), engine(path, expert_io="map")):
        paging = made.paging()
        assert (paging["mode"], paging["pool_bytes"], paging["lookahead"]) == ("map", 0, 0)
        assert paging["resident_bytes"] == path.stat().st_size
        run(made, PROMPT, MORE)
        after = made.paging()
        assert after["tokens"] == len(PROMPT) + len(MORE)
        assert after["bytes_needed"] == after["bytes_read"] == 0
        assert (made.resident_experts() == 1).all()
        made.drop_experts()
        made.close()


def test_bytes_are_those_of_the_routed_experts(path: Path) -> None:
    """Against the recorded routing, with a pool that holds everything: each expert is read once."""
    made = engine(path, expert_io="direct", lookahead=0)
    made.start_trace()
    run(made, PROMPT, MORE)
    _, _, experts, _ = made.take_trace()
    config, paging = made.config, made.paging()
    routed = [{e for row in experts[: len(PROMPT), layer] for e in row} for layer in range(config.layers)]
    uses = sum(len(layer) for layer in routed)
    for token in experts[len(PROMPT) :]:
        uses += token.size
        for layer in range(config.layers):
            routed[layer] |= set(token[layer])
    assert paging["bytes_needed"] == uses * paging["expert_bytes"]
    different = sum(len(layer) for layer in routed)
    missed = different * paging["expert_bytes"]
    assert paging["bytes_needed"] - paging["bytes_hit"] == missed
    assert missed <= paging["bytes_read"] <= missed + different * 3 * 8192
    resident = made.resident_experts()
    for layer in range(config.layers):
        assert {int(e) for e in np.flatnonzero(resident[layer])} == routed[layer]
    made.reset_paging()
    run(made, PROMPT, MORE)
    again = made.paging()
    assert again["bytes_hit"] == again["bytes_needed"] > 0
    assert again["bytes_read"] == again["wait_seconds"] == 0
    made.drop_experts()
    assert not made.resident_experts().any()


def test_the_limit_is_kept_while_sessions_grow(tiny_models: dict[str, Path]) -> None:
    """The cache takes memory from the experts until there is the least left, then one clear error."""
    path = tiny_models["f32"]
    limit = least_limit(path) + path.stat().st_size // 3
    made = engine(path, memory_limit=limit, expert_io="direct")
    pools = [made.paging()["pool_bytes"]]
    session = made.new_session()

    def fill(growing: _core.Session) -> None:
        for _ in range(60):
            made.feed([growing], [np.full(64, 5, np.int32)], "none")
            pools.append(made.paging()["pool_bytes"])
            assert made.memory_used <= limit

    with pytest.raises(MemoryLimit, match="raise memory_limit"):
        fill(session)
    assert session.position == 64 * (len(pools) - 1)
    assert pools[-1] < pools[0] / 2
    assert made.paging()["pool_bytes"] >= 4 * made.paging()["piece_bytes"]
    del session
    fresh = made.new_session()
    made.feed([fresh], [ids_of(5)], "none")
    assert made.paging()["pool_bytes"] > pools[-1]  # what was given back serves the experts again
    assert made.memory_used <= limit


def test_predictions_are_counted(path: Path) -> None:
    made = engine(path, expert_io="direct", lookahead=1)
    run(made, PROMPT, MORE)
    paging = made.paging()
    assert 0 < paging["predictions_right"] <= paging["predictions"]
    assert paging["bytes_wasted"] <= paging["bytes_predicted_read"] <= paging["bytes_read"]
    assert paging["lookahead"] == 1
    # Layer 0 is predicted from the embedding, the others from the layer before.
    made.reset_paging()
    made.feed([made.new_session()], [ids_of(5)], "last")
    assert made.paging()["predictions"] == made.config.layers * made.config.experts_used


def test_sessions_together(path: Path) -> None:
    # Little memory means small batches: only named activations promise that those do not show.
    plain = engine(path, activations="int24")
    paged = engine(path, memory_limit=least_limit(path) + 200_000, expert_io="direct", activations="int24")
    results = []
    for made in (plain, paged):
        sessions = [made.new_session() for _ in range(3)]
        out = made.feed(sessions, [ids_of(5, 6, 7), ids_of(8), ids_of(*range(40, 80))], "last")
        out += made.feed(sessions, [ids_of(9), ids_of(10, 11), ids_of(12)], "all")
        results.append(out)
    assert_same(results[1], results[0])


def test_observers_and_replaced_tensors(tiny_models: dict[str, Path]) -> None:
    path = tiny_models["f32"]
    seen: list[list[tuple[Any, ...]]] = [[], []]
    engines = [engine(path), engine(path, memory_limit=least_limit(path) + 300_000, expert_io="direct")]
    for made, list_ in zip(engines, seen, strict=True):
        made.feed(
            [made.new_session()],
            [ids_of(*PROMPT)],
            "none",
            lambda *a, to=list_: to.append((a[0], a[1], a[2])),
        )
    assert len(seen[0]) == len(seen[1]) > 0
    for left, right in zip(*seen, strict=True):
        assert left[:2] == right[:2]
        np.testing.assert_array_equal(left[2], right[2])

    name = "blk.1.ffn_up_exps.weight"
    data = np.ascontiguousarray(_core.GgufFile(str(path)).data(name)).reshape(-1) * 1
    outputs = []
    for made in engines:
        try:
            made.replace_tensor(name, "f32", (data.view(np.float32) * np.float32(0.5)).view(np.uint8))
        except MemoryLimit:
            assert made is engines[1]
            made.close()
            made = engine(path, memory_limit=least_limit(path) + data.nbytes + 300_000, expert_io="direct")
            assert made.paging()["mode"] == "direct"
            made.replace_tensor(name, "f32", (data.view(np.float32) * np.float32(0.5)).view(np.uint8))
        changed = run(made, PROMPT, MORE)
        made.restore_tensor(name)
        outputs.append(changed + run(made, PROMPT, MORE))
    assert_same(outputs[1], outputs[0])


def test_pinned_experts_are_there_before_the_first_token(tiny_models: dict[str, Path]) -> None:
    path = tiny_models["q8_0"]
    made = engine(path, expert_io="direct", pin_hot=[(1, 3), (0, 2)])
    resident = made.resident_experts()
    assert resident[1, 3] == resident[0, 2] == 1
    assert resident.sum() == 2
    engine(path, pin_hot=[(1, 3)]).close()  # where all is mapped its pages are brought in
    for bad in ([(2, 0)], [(0, 4)]):
        with pytest.raises(ValueError, match="pin_hot names expert"):
            engine(path, pin_hot=bad)


def test_options_are_checked(path: Path) -> None:
    with pytest.raises(ValueError, match="expert_io 'fast' is unknown: choose auto, map, direct or buffered"):
        engine(path, expert_io="fast")
    for lookahead in (-2, True, 1.5):
        with pytest.raises(ValueError, match="lookahead is"):
            pygrok.load(path, lookahead=lookahead)
    for slack in (-0.1, float("nan"), "much", True):
        with pytest.raises(ValueError, match="route_slack is"):
            pygrok.load(path, route_slack=slack)
    with pytest.raises(MemoryLimit, match="raise memory_limit"):
        pygrok.load(path, memory_limit="20kB")


def test_load_and_info(path: Path, tmp_path: Path) -> None:
    limit = least_limit(path) + 500_000
    with pygrok.load(path) as plain, pygrok.load(path, threads=2, memory_limit=limit, lookahead=0) as model:
        np.testing.assert_array_equal(model.logits(PROMPT), plain.logits(PROMPT))
        paging = model.info()["paging"]
        assert paging["mode"] in ("direct", "buffered")
        assert "reads" in paging["chosen_by"] or "measured" in paging["chosen_by"]
        json.dumps(paging)
        assert plain.info()["paging"]["mode"] == "map"
        assert plain.info()["paging"]["budget_bytes"] > 0  # what the machine has free


def test_split_files_and_files_that_are_replaced(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_models["q8_0"], tmp_path / "model.gguf"))
    expected = run(engine(path), PROMPT, MORE)
    made = engine(path, memory_limit=least_limit(path), expert_io="direct")
    Path(shutil.copy(tiny_models["f32"], tmp_path / "other")).replace(path)
    assert_same(run(made, PROMPT, MORE), expected)  # the descriptor keeps the old file


@pytest.mark.parametrize("io", STREAMED)
@pytest.mark.parametrize("threads", [1, 3])
def test_a_file_that_is_cut_short(
    tiny_models: dict[str, Path], tmp_path: Path, io: str, threads: int
) -> None:
    path = Path(shutil.copy(tiny_models["f32"], tmp_path / "model.gguf"))
    limit = least_limit(path, threads=threads) + 100_000
    made = engine(path, memory_limit=limit, expert_io=io, threads=threads)
    session = made.new_session()
    made.feed([session], [ids_of(*PROMPT)], "last")
    os.truncate(path, path.stat().st_size // 2)
    made.drop_experts()
    for _ in range(2):
        with pytest.raises(FormatError, match=r"was cut from [0-9]+ to [0-9]+ bytes") as caught:
            made.feed([session], [ids_of(*MORE)], "last")
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        assert session.position == len(PROMPT)
    made.close()


def test_traces(path: Path) -> None:
    plain = engine(path)
    with pytest.raises(ModelError, match="start a trace first"):
        plain.take_trace()
    config = plain.config
    taken = []
    for made in (plain, engine(path, memory_limit=least_limit(path) + 100_000, expert_io="direct")):
        made.start_trace(True)
        first, second = made.new_session(), made.new_session()
        made.feed([first, second], [ids_of(*PROMPT), ids_of(5)], "last")
        with pytest.raises(ValueError, match="vocabulary"):
            made.feed([first], [ids_of(10**6)], "last")
        made.feed([first], [ids_of(20)], "last")
        made.feed([second], [ids_of(21, 22)], "all")
        taken.append(made.take_trace())
        assert all(len(part) == 0 for part in made.take_trace() if part is not None)
    sessions, positions, experts, probabilities = taken[0]
    n = len(PROMPT)
    base = sessions[0]
    assert (sessions - base).tolist() == [0] * n + [1, 0, 1, 1]
    assert positions.tolist() == [*range(n), 0, n, 1, 2]
    assert experts.shape == (n + 4, config.layers, config.experts_used)
    assert experts.dtype == np.uint8
    assert probabilities is not None
    np.testing.assert_allclose(probabilities[n - 1 :].sum(-1), 1, rtol=1e-5)
    skipped = experts == 255
    assert skipped[: n - 1, -1].all()
    assert not skipped[n - 1 :].any()
    assert not skipped[:, :-1].any()
    best = np.argsort(-probabilities, axis=-1, kind="stable")[..., : config.experts_used]
    np.testing.assert_array_equal(experts[~skipped], best[~skipped])
    for left, right in zip(taken[0], taken[1], strict=True):
        np.testing.assert_array_equal(left - base if left is sessions else left, right)
    plain.start_trace(False)
    plain.feed([plain.new_session()], [ids_of(5)], "last")
    assert plain.take_trace()[3] is None


def test_route_slack(path: Path) -> None:
    limit = least_limit(path) + path.stat().st_size // 4
    tokens = list(range(5, 60))
    changed = []
    for slack in (0.0, 0.5, 1.0):  # without looking ahead, or it might have read all of them in time
        made = engine(path, memory_limit=limit, expert_io="direct", route_slack=slack, threads=1, lookahead=0)
        made.start_trace(True)
        run(made, tokens[:1], tokens[1:])
        _, _, experts, probabilities = made.take_trace()
        assert probabilities is not None
        paging = made.paging()
        assert paging["routes"] == experts.size
        changed.append(paging["routes_changed"])
        ranks = np.sort(probabilities, axis=-1)[..., ::-1]
        chosen = np.take_along_axis(probabilities, experts.astype(np.int64), axis=-1)
        np.testing.assert_array_equal(chosen[..., 0], ranks[..., 0])  # the first is never changed
        assert (chosen[..., 1] >= ranks[..., 1] * np.float32(1 - slack)).all()
        assert int((chosen[..., 1] < ranks[..., 1]).sum()) == paging["routes_changed"]
    assert changed[0] == 0 < changed[1] <= changed[2]
    # Where all is in memory nothing is changed.
    made = engine(path, route_slack=1.0)
    run(made, tokens[:1], tokens[1:])
    assert made.paging()["routes_changed"] == 0


@pytest.mark.skipif(
    "PYGROK_TEST_FULL_SIZE" not in os.environ, reason="takes a minute: set PYGROK_TEST_FULL_SIZE"
)
def test_a_file_of_the_true_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 layers of Grok-1's widths with holes for weights: zeros route every token to experts 0 and 1."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent / "bench"))
    from synthetic import make

    path = tmp_path / "full.gguf"
    make(path, "q4_0", 64, None, True)
    made = engine(path, memory_limit=5 << 30, expert_io="direct", lookahead=0)
    made.feed([made.new_session()], [ids_of(5)], "last")
    paging, resident = made.paging(), made.resident_experts()
    assert paging["bytes_needed"] == 64 * 2 * paging["expert_bytes"]
    assert paging["bytes_needed"] <= paging["bytes_read"] <= paging["bytes_needed"] * 1.01
    assert not resident[:, 2:].any()
    assert resident.any()
    assert made.memory_used <= 5 << 30
