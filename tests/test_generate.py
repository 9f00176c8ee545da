"""Generation: chunks, stop strings, limits, sessions; on a scripted engine, then on the real one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_engine import BOS, EOS, GREEDY, SMALL, fake_model, saying
from hypothesis import given, settings
from hypothesis import strategies as st

import pygrok
from pygrok import ContextOverflow, ModelError, SamplingParams
from pygrok.generate import steps
from pygrok.memory import parse_bytes
from pygrok.sampling import Sampler
from pygrok.stopping import StopStrings

# --- stop strings --------------------------------------------------------------------------------------


def cut(text: str, stops: list[str], ends: list[int]) -> str:
    """What comes out when text arrives in pieces that end at `ends`."""
    finder = StopStrings(stops)
    shown, start = "", 0
    for end in [*sorted(ends), len(text)]:
        piece, met = finder.push(text[start:end])
        shown, start = shown + piece, max(start, end)
        if met:
            return shown
    return shown + finder.finish()


@settings(deadline=None)  # the machine may be busy
@given(
    st.text("ab\n", max_size=14),
    st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 14), max_size=6),
)
def test_stops_do_not_depend_on_the_pieces(text: str, stops: list[str], ends: list[int]) -> None:
    shown = cut(text, stops, ends)
    assert shown == cut(text, stops, list(range(len(text))))
    # By definition: the first end of any stop string, and the longest that ends there.
    found = min(((text.find(s) + len(s), text.find(s)) for s in stops if s in text), default=None)
    assert shown == (text if found is None else text[: found[1]])


def test_only_what_may_become_a_stop_is_held_back() -> None:
    finder = StopStrings("\nUser:")
    assert finder.push("Paris.\nUs") == ("Paris.", False)
    assert finder.push("ed") == ("\nUsed", False)
    assert finder.push("\n\nUser") == ("\n", False)
    assert finder.push(": more") == ("", True)


@pytest.mark.parametrize("stop", [[""], ["a", 3], [None]])
def test_stops_are_checked(stop: Any) -> None:
    with pytest.raises(ValueError, match="a stop string is text that is not empty"):
        StopStrings(stop)


# --- on a script ---------------------------------------------------------------------------------------


def test_chunks_join_to_the_completion() -> None:
    model, _ = fake_model(saying("hello é world"))
    chunks = list(model.stream("the answer", GREEDY))
    whole = model.generate("the answer", GREEDY)
    assert whole.text == "".join(c.text for c in chunks) == "hello é world"
    assert (
        whole.ids
        == [t for c in chunks for t in c.ids]
        == [*SMALL.encode("hello é world", add_dummy_prefix=False), EOS]
    )
    assert whole.prompt_ids == SMALL.encode("the answer")
    assert [c.finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["eos"]
    assert whole.finish_reason == "eos"
    assert all(len(c.ids) == 1 for c in chunks)


def test_a_character_of_many_tokens_comes_whole() -> None:
    model, _ = fake_model(saying("日🤖"))
    texts = [c.text for c in model.stream("x", GREEDY)]
    assert [t for t in texts if t] == ["日", "🤖"]
    cut_short = model.generate("x", GREEDY, max_tokens=5)
    assert cut_short.text == "日\ufffd\ufffd"


@pytest.mark.parametrize("stop", ["wor", [" hello wor", "wor"], ["zzz", "world!", "wor"]])
def test_stop_string_spanning_tokens(stop: str | list[str]) -> None:
    model, _ = fake_model(saying("hello wo rwworld again"))
    whole = model.generate("x", GREEDY, stop=stop)
    assert (whole.text, whole.finish_reason) == ("hello wo rw", "stop")


def test_what_was_held_for_a_stop_comes_out_at_the_end() -> None:
    model, _ = fake_model(saying("hello\nUs"))
    whole = model.generate("x", GREEDY, stop="\nUser:")
    assert (whole.text, whole.finish_reason) == ("hello\nUs", "eos")


def test_stop_completed_by_the_last_bytes() -> None:
    model, _ = fake_model(saying("日"))
    whole = model.generate("x", GREEDY, max_tokens=2, stop="\ufffd\ufffd")
    assert (whole.text, whole.finish_reason) == ("", "stop")


@pytest.mark.parametrize("count", [0, 1, 3])
def test_max_tokens(count: int) -> None:
    model, engine = fake_model(saying("hello world", end=False))
    session = model.session()
    chunks = list(model.stream("the answer", GREEDY, max_tokens=count, session=session))
    assert sum(len(c.ids) for c in chunks) == count
    assert chunks[-1].finish_reason == "length"
    assert chunks[-1].timings.tokens == count
    assert chunks[-1].timings.prompt_tokens == len(SMALL.encode("the answer"))
    assert session.position == len(SMALL.encode("the answer")) + max(0, count - 1)
    assert len(engine.fed) == max(1, count)


def test_context_is_filled_and_no_more() -> None:
    model, _ = fake_model(saying("hello world", end=False), context=12)
    session = model.session()
    whole = model.generate([4] * 10, GREEDY, max_tokens=None, session=session)
    assert (len(whole.ids), whole.finish_reason, session.position) == (3, "context", 12)
    full = model.generate([4] * 12, GREEDY, max_tokens=None)
    assert (len(full.ids), full.finish_reason) == (1, "context")


def test_too_long_a_prompt_feeds_nothing() -> None:
    model, engine = fake_model(saying("x"), context=600)
    session = model.session()
    with pytest.raises(ContextOverflow, match="601 tokens at position 0 do not fit the context of 600"):
        model.generate([4] * 601, GREEDY, session=session)
    assert (session.position, engine.fed) == (0, [])


def test_long_prompts_report_progress() -> None:
    model, engine = fake_model(saying("x"))
    seen: list[tuple[int, int]] = []
    model.generate([4] * 1030, GREEDY, max_tokens=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(512, 1030), (1024, 1030), (1030, 1030)]
    assert engine.fed == [512, 512, 6]


def test_a_session_is_continued_without_a_new_space() -> None:
    model, _ = fake_model(saying("hello world"))
    session = model.session()
    model.generate("the ", GREEDY, max_tokens=0, session=session)
    whole = model.generate("answer", GREEDY, session=session)
    assert whole.prompt_ids == SMALL.encode("answer", add_dummy_prefix=False)
    assert session.ids == (*SMALL.encode("the "), *whole.prompt_ids, *whole.ids[:-1])


def test_prompt_with_bos() -> None:
    model, _ = fake_model(saying("hello"), {"tokenizer.ggml.add_bos_token": True})
    assert model.generate("the", GREEDY).prompt_ids == [BOS, *SMALL.encode("the")]
    plain, _ = fake_model(saying(" hello"))
    from_nothing = plain.generate("", GREEDY)
    assert (from_nothing.prompt_ids, from_nothing.text) == ([BOS], "hello")


def test_model_without_tokenizer() -> None:
    model, _ = fake_model(lambda held: (held[-1] + 1) % 5, {"tokenizer.ggml.model": "none"}, padding=9)
    whole = model.generate([3], GREEDY, max_tokens=4)
    assert (whole.ids, whole.text, whole.finish_reason) == ([4, 0, 1, 2], "", "length")
    with pytest.raises(ModelError, match="holds no tokenizer"):
        model.stream("text")
    with pytest.raises(ModelError, match="holds no tokenizer"):
        model.stream([1], stop="x")


def test_padding_rows_are_never_sampled() -> None:
    model, _ = fake_model(lambda held: SMALL.vocab_size, padding=1)
    assert model.generate([5], GREEDY, max_tokens=1).ids == [0]


def test_end_tokens() -> None:
    eot = SMALL.piece_id("~")
    model, _ = fake_model(saying("a~b~", end=False), {"tokenizer.ggml.eot_token_id": eot})
    assert model.generate("x", GREEDY).text == "a"
    assert model.generate("x", GREEDY, ignore_eos=True, max_tokens=4).text == "a~b~"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": -1}, "max_tokens is -1"),
        ({"max_tokens": 1.5}, "max_tokens is 1.5"),
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [10**6]}, r"prompt\[0\] is 1000000"),
        ({"stop": [""]}, "stop string"),
    ],
)
def test_arguments_are_checked_at_the_call(arguments: dict[str, Any], message: str) -> None:
    model, _ = fake_model(saying("x"))
    with pytest.raises(ValueError, match=message):
        model.stream(**{"prompt": "x", **arguments})


def test_sessions_of_other_models_are_refused() -> None:
    model, other = fake_model(saying("x"))[0], fake_model(saying("x"))[0]
    with pytest.raises(ValueError, match="another model"):
        model.stream("x", session=other.session())


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), pygrok.Cancelled("stopped")])
def test_interrupted_sessions_stay_usable(failure: Any) -> None:
    model, engine = fake_model(saying("hello world", end=False))
    session = model.session()
    chunks = model.stream("the", GREEDY, session=session)
    next(chunks)
    engine.fail = failure
    with pytest.raises(type(failure)):
        next(chunks)
    assert session.ids == tuple(SMALL.encode("the"))
    assert model.generate("answer", GREEDY, max_tokens=2, session=session).text == "he"
    assert (
        session.position == len(SMALL.encode("the")) + len(SMALL.encode("answer", add_dummy_prefix=False)) + 1
    )


def test_penalties_see_the_whole_session() -> None:
    model, _ = fake_model(lambda held: 7)
    params = SamplingParams(temperature=0, logit_bias={8: 19.0}, presence_penalty=5.0)
    assert model.generate([7, 9], params, max_tokens=1).ids == [8]
    assert model.generate([9, 9], params, max_tokens=2).ids == [7, 8]


def test_a_sampler_goes_on() -> None:
    model, _ = fake_model(lambda held: 0)
    flat = SamplingParams(temperature=50, top_p=1, seed=1)
    sampler = Sampler(flat)
    both = [model.generate([5], sampler, max_tokens=5).ids for _ in range(2)]
    assert both[0] == model.generate([5], flat, max_tokens=5).ids
    assert both[0] != both[1]


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (5, 5),
        ("64GiB", 64 << 30),
        ("1.5 GB", 1_500_000_000),
        ("2m", 2 << 20),
        ("10kib", 10240),
        ("100b", 100),
        ("7", 7),
    ],
)
def test_memory_amounts(amount: Any, expected: int) -> None:
    assert parse_bytes(amount) == expected


@pytest.mark.parametrize("amount", [0, -1, "", "lots", "12 parsecs", "-3GiB", "9999999TiB", 1.5, True])
def test_bad_memory_amounts(amount: Any) -> None:
    with pytest.raises(ValueError, match="memory_limit is"):
        parse_bytes(amount)


# --- on the real engine --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tiny_model: Path) -> Any:
    with pygrok.load(tiny_model, kv_type="f32") as model:
        yield model


def test_greedy_ids_are_the_argmax_of_the_logits(tiny: pygrok.Model) -> None:
    prompt = tiny.tokenizer.encode("hello world")
    whole = tiny.generate(prompt, GREEDY, max_tokens=12, ignore_eos=True)
    rows = tiny.logits([*prompt, *whole.ids])[len(prompt) - 1 : -1, : tiny.tokenizer.vocab_size]
    for row, token in zip(rows, whole.ids, strict=True):
        assert row[token] >= row.max() - 1e-4  # alone and in one batch the sums may round differently


def test_same_seed_same_text(tiny: pygrok.Model) -> None:
    params = SamplingParams(temperature=1, seed=11)
    first = tiny.generate("hello", params, max_tokens=20, ignore_eos=True)
    assert tiny.generate("hello", params, max_tokens=20, ignore_eos=True).ids == first.ids
    other = tiny.generate("hello", SamplingParams(temperature=1, seed=12), max_tokens=20, ignore_eos=True)
    assert other.ids != first.ids


def test_threads_share_a_model(tiny: pygrok.Model) -> None:
    prompts = [f"{n} hello" for n in range(4)]
    alone = [tiny.generate(p, GREEDY, max_tokens=10).ids for p in prompts]
    together: list[list[int]] = [[] for _ in prompts]

    def work(index: int) -> None:
        together[index] = tiny.generate(prompts[index], GREEDY, max_tokens=10).ids

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_logits_of_a_step_belong_to_the_caller(tiny: pygrok.Model) -> None:
    session = tiny.session()
    first = session.feed([5])
    kept = first.copy()
    session.feed([6])
    np.testing.assert_array_equal(first, kept)
    first[:] = 0
    assert session.feed([7]).any()


def test_steps_hold_all_but_the_last(tiny: pygrok.Model) -> None:
    session = tiny.session()
    made = steps(session, [5, 6], Sampler(GREEDY))
    ids = [next(made) for _ in range(3)]
    assert session.ids == (5, 6, *ids[:2])


def test_released_model_continues_greedily(grok_a_f32: Path, shared: Path) -> None:
    reference = np.load(shared / "fixtures" / "grok-a" / "reference.npz")
    with pygrok.load(grok_a_f32, kv_type="f32") as model:
        for n in range(4):
            whole = model.generate(reference[f"tokens_{n}"], GREEDY, max_tokens=24)
            assert whole.ids == reference[f"greedy_f32_{n}"].tolist()
