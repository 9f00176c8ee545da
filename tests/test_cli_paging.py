"""The commands under a memory limit: same answers, and figures that belong together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import TEXT, assert_one_line, outcome, start

import pygrok
from pygrok.cli import bench_paging, paging_output
from pygrok.evaluation import divergence_of
from pygrok.expert_profile import profile_of, save_profile
from pygrok.footprint import footprint
from pygrok.forecast import weights_of
from pygrok.model import default_model_path
from pygrok.route_trace import read_trace

GREEDY = ("--temperature", "0", "-n", "6", "-t", "1")


@pytest.fixture(scope="module")
def tight() -> str:
    """A limit that holds the shipped model's always needed weights and a part of its experts, in bytes."""
    weights = weights_of(footprint(pygrok._core.GgufFile(str(default_model_path()))))
    return str(weights.file_bytes - weights.expert_bytes // 4)


def test_a_limit_changes_no_text(tight: str) -> None:
    free = outcome("generate", "-p", "What is the capital of France?", *GREEDY)
    for mode in ("direct", "buffered"):
        limited = ("--memory", tight, "--expert-io", mode, "--lookahead", "0")
        assert outcome("generate", "-p", "What is the capital of France?", *GREEDY, *limited) == free
    assert free[0] == 0


def test_generate_tells_what_was_read(tight: str) -> None:
    limited = ("--memory", tight, "--expert-io", "buffered")
    code, out, _ = outcome("generate", "-p", TEXT, *GREEDY, *limited, "--json")
    paging = json.loads(out)["paging"]
    assert code == 0
    assert 0 < paging["hit_rate"] < 1
    assert paging["missed_bytes_per_token"] == pytest.approx(
        (1 - paging["hit_rate"]) * paging["needed_bytes_per_token"]
    )
    assert paging["routes_changed_share"] == 0
    code, _, err = outcome("generate", "-p", TEXT, *GREEDY, *limited, "--stats")
    assert code == 0
    assert "buffered" in err
    assert "a token" in err


def test_bench_counts_its_phases(tight: str) -> None:
    options = ("-p", "40", "-n", "5", "-r", "2", "-t", "1", "--json")
    code, out, err = outcome("bench", "--memory", tight, "--expert-io", "buffered", *options)
    result = json.loads(out)
    assert (code, err) == (0, "")
    paging = result["paging"]
    assert paging["mode"] == "buffered"
    assert paging["budget_bytes"] == int(tight)
    assert (paging["prefill"]["tokens"], paging["decode"]["tokens"]) == (80, 10)
    weights = weights_of(footprint(pygrok._core.GgufFile(str(default_model_path()))))
    assert paging["decode"]["needed_bytes_per_token"] == weights.routed_bytes
    assert (
        paging["prefill"]["needed_bytes_per_token"] < weights.routed_bytes
    )  # experts are shared by 40 tokens
    assert 0 < paging["decode"]["hit_rate"] < 1
    for phase in ("prefill", "decode"):
        part = result[phase]
        assert part["limit_tokens_per_second"] <= part["disk_limit_tokens_per_second"]
        share = 100 * part["tokens_per_second"] / part["limit_tokens_per_second"]
        assert part["percent_of_limit"] == pytest.approx(share)
    free = json.loads(outcome("bench", "--expert-io", "map", *options)[1])
    assert free["paging"]["mode"] == "map"
    assert free["paging"]["disk_read_bytes_per_second"] is None
    assert "disk_limit_tokens_per_second" not in free["decode"]


def test_bench_says_it_in_words(tight: str) -> None:
    code, out, _ = outcome(
        "bench", "--memory", tight, "--expert-io", "buffered", "-p", "9", "-n", "5", "-r", "1", "-t", "1"
    )
    assert code == 0
    for words in (
        "through the system's cache",
        "decode reads",
        "prefill reads",
        "were in memory",
        "direct reads",
    ):
        assert words in out, words
    code, out, _ = outcome("bench", "-p", "9", "-n", "5", "-r", "1", "-t", "1")
    assert code == 0
    assert "all in memory, mapped" in out
    assert "decode reads" not in out


def test_the_price_of_slack_is_measured(tight: str) -> None:
    limited = ("--memory", tight, "--expert-io", "buffered", "--lookahead", "0", "-t", "1")
    options = ("-p", "4", "-n", "4", "-r", "1", *limited)
    code, out, err = outcome("bench", *options, "--route-slack", "0.9", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    slack = result["slack"]
    assert slack["tokens"] == 31
    assert slack["routes_changed_share"] > 0
    assert 0 < slack["mean"] <= slack["maximum"]
    code, out, _ = outcome("bench", *options, "--route-slack", "0.9")
    assert "of the routes changed; KL divergence from none" in out
    assert "slack" not in json.loads(outcome("bench", *options, "--json")[1])


def test_perplexity_measures_slack_on_the_texts_beginning(tight: str, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("The capital of France is Paris, and the capital of Peru is Lima. What is 8 plus 5?")
    limited = ("--memory", tight, "--expert-io", "buffered", "--lookahead", "0", "-t", "1")
    code, out, err = outcome("perplexity", file, *limited, "--route-slack", "0.9", "--json")
    assert (code, err) == (0, "")
    slack = json.loads(out)["slack"]
    assert slack["mean"] > 0
    code, out, _ = outcome("perplexity", file, *limited, "--route-slack", "0.9")
    assert code == 0
    assert "KL divergence from none" in out


def test_divergence_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 5, 7), np.float32)
    found = divergence_of(a, b, np.zeros(5, np.int32))
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (a.astype(np.float64), b.astype(np.float64)))
    kl = (p * np.log(p / q)).sum(1)
    assert (found.mean, found.maximum) == pytest.approx((kl.mean(), kl.max()), rel=1e-5)
    assert found.top1_agreement == (a.argmax(1) == b.argmax(1)).mean()


def test_chat_stats_tell_of_experts(tight: str, tmp_path: Path) -> None:
    with start(
        "chat", "--memory", tight, "--expert-io", "buffered", "-t", "1", "--max-tokens", "3", cwd=tmp_path
    ) as process:
        out, err = process.communicate(b"Hello!\n/stats\n")
    assert process.returncode == 0, err
    assert b"through the system's cache" in err
    assert b"of the routed experts' bytes were in memory" in err
    assert b"through" not in out


def test_a_profile_is_loaded_before_the_first_token(tight: str, tmp_path: Path) -> None:
    routes, hot = tmp_path / "routes", tmp_path / "hot.json"
    limited = ("--memory", tight, "--expert-io", "buffered", "--lookahead", "0")
    assert outcome("generate", "-p", "Hello", *GREEDY, "--trace", routes)[0] == 0
    save_profile(hot, profile_of(read_trace(routes)))
    cold = json.loads(outcome("generate", "-p", "Hello", *GREEDY, *limited, "--json")[1])
    warm = json.loads(outcome("generate", "-p", "Hello", *GREEDY, *limited, "--pin-hot", hot, "--json")[1])
    assert warm["text"] == cold["text"]
    assert warm["paging"]["hit_rate"] > cold["paging"]["hit_rate"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--expert-io", "fast"], 2, "fast"),
        (["--memory", "much"], 2, "64GiB"),
        (["--memory", "1MiB"], 1, "1"),
        (["--lookahead", "-1"], 2, "--lookahead"),
        (["--route-slack", "-1"], 2, "--route-slack"),
        (["--pin-hot", "missing.json"], 1, "missing.json: No such file"),
        (["--pin-hot", "bad.json"], 1, "bad.json: not a profile of experts"),
        (["--trace", "nowhere/routes"], 1, "nowhere"),
    ],
)
def test_wrong_values_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{}")
    status, out, err = outcome("generate", "-p", "Hello", "-n", "1", *options)
    assert (status, out) == (code, "")
    assert_one_line(err, words)


# the figures


COUNTERS = {
    "mode": "direct", "chosen_by": "speed", "budget_bytes": 1 << 30, "resident_bytes": 1 << 20, "pool_bytes": 1 << 29,
    "lookahead": 1, "tokens": 4, "bytes_needed": 4000, "bytes_hit": 1000, "bytes_read": 3300, "bytes_wasted": 200,
    "bytes_predicted_read": 400, "predictions": 10, "predictions_right": 8, "routes": 50, "routes_changed": 5,
    "wait_seconds": 0.4, "read_seconds": 0.33,
}  # fmt: skip


def test_figures_are_rates_of_counters() -> None:
    found = paging_output.figures(COUNTERS)
    assert found == pytest.approx(
        {
            "tokens": 4,
            "needed_bytes_per_token": 1000,
            "missed_bytes_per_token": 750,
            "read_bytes_per_token": 825,
            "wasted_bytes_per_token": 50,
            "wait_seconds_per_token": 0.1,
            "hit_rate": 0.25,
            "prediction_accuracy": 0.8,
            "routes_changed_share": 0.1,
            "disk_bytes_per_second": 10_000,
        }
    )
    text = " ".join(f"{name} {value}" for name, value in paging_output.pairs(COUNTERS))
    for words in (
        "past the system's cache",
        "512 MiB kept",
        "25.0%",
        "80.0%",
        "10.00% of the routes",
        "100 ms",
    ):
        assert words in text, words
    nothing = paging_output.figures(dict.fromkeys(COUNTERS, 0))
    assert {value for name, value in nothing.items() if name != "tokens"} == {None}


def test_phases_are_added_up_apart() -> None:
    class Engine:
        def __init__(self) -> None:
            self.now = dict(COUNTERS)

        def reset_paging(self) -> None:
            self.now["tokens"] = 0

        def paging(self) -> dict[str, object]:
            return dict(self.now)

    engine = Engine()
    engine.now["mode"] = "map"
    meter = bench_paging.PagingMeter(engine)  # type: ignore[arg-type]
    for name, tokens in (("decode", 3), ("prefill", 5), ("decode", 4)):
        with meter.phase(name):
            engine.now["tokens"] = tokens
    result = meter.result([])
    assert (result["decode"]["tokens"], result["prefill"]["tokens"]) == (7, 5)
    assert result["decode"]["needed_bytes_per_token"] == pytest.approx(8000 / 7)
    assert result["pool_bytes"] == COUNTERS["pool_bytes"]
