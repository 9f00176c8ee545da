"""`pygrok bench` and `pygrok perplexity`: their figures follow from what the library computes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import TEXT, assert_one_line, outcome

import pygrok
from pygrok.evaluation import windows


def test_bench_json(tiny_model: Path) -> None:
    code, out, err = outcome(
        "bench", tiny_model, "-p", "20", "-n", "3", "-r", "3", "--threads", "1", "--json"
    )
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert (result["prefill"]["tokens"], result["decode"]["tokens"]) == (20, 3)
    for phase in ("prefill", "decode"):
        part = result[phase]
        assert part["tokens_per_second"] == sorted(part["runs"])[1] > 0
        share = 100 * part["tokens_per_second"] / part["limit_tokens_per_second"]
        assert part["percent_of_limit"] == pytest.approx(share)
    info = json.loads(outcome("info", tiny_model, "--json")[1])
    assert result["bytes_per_token"] == info["bytes_per_token"]
    limit = result["read_bytes_per_second"] / info["bytes_per_token"]
    assert result["decode"]["limit_tokens_per_second"] == pytest.approx(limit)
    assert result["threads"] == 1
    assert result["memory"]["peak_bytes"] >= result["memory"]["anonymous_bytes"] > 0


def test_bench_text_and_lengths(tiny_model: Path) -> None:
    code, out, _ = outcome("bench", tiny_model, "-r", "1")
    assert code == 0
    assert "tokens/s over 64 tokens" in out
    code, _, err = outcome("bench", tiny_model, "-p", "10", "-n", "10", "--context", "16")
    assert code == 2
    assert_one_line(err, "context of 16")


@pytest.mark.parametrize(
    ("count", "window", "stride"), [(2, 5, 2), (5, 5, 2), (6, 5, 4), (100, 16, 8), (101, 7, 1)]
)
def test_windows_score_every_token_once(count: int, window: int, stride: int) -> None:
    scored: list[int] = []
    for start_, end, first in windows(count, window, stride):
        assert end - start_ <= window
        assert start_ < first
        assert first - start_ >= min(window - stride, 1) or start_ == 0
        scored += range(first, end)
    assert scored == list(range(1, count))


def test_perplexity_is_that_of_the_logits(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    code, out, _ = outcome("perplexity", tiny_model, file, "--window", "8", "--stride", "5", "--json")
    result = json.loads(out)
    assert code == 0
    losses = []
    with pygrok.load(tiny_model) as model:
        ids = model.tokenizer.encode(TEXT)
        for start_, end, first in windows(len(ids), 8, 5):
            logits = model.logits(ids[start_:end]).astype(np.float64)
            normalised = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
            normalised -= logits.max(1, keepdims=True)
            losses += [-normalised[i - start_ - 1, ids[i]] for i in range(first, end)]
    assert result["tokens"] == len(ids) - 1 == len(losses)
    assert result["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-5)
    error = np.std(losses, ddof=1) / math.sqrt(len(losses)) * result["perplexity"]
    assert result["standard_error"] == pytest.approx(error, rel=1e-4)
    code, out, _ = outcome("perplexity", tiny_model, file)
    assert code == 0
    assert out.startswith("perplexity ")


@pytest.mark.parametrize(
    ("options", "code", "part"),
    [
        (["-w", "9", "-s", "9"], 2, "--stride 9"),
        (["-w", "90", "-c", "64"], 2, "--window 90"),
        (["-n", "1"], 2, ""),
    ],
)
def test_perplexity_checks_its_windows(
    tiny_model: Path, tmp_path: Path, options: list[str], code: int, part: str
) -> None:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    status, _, err = outcome("perplexity", tiny_model, file, *options)
    assert status == code
    assert_one_line(err, part)


def test_perplexity_of_the_packages_model(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("In the beginning God created the heaven and the earth.", encoding="utf-8")
    code, out, err = outcome("perplexity", file)
    assert (code, err) == (0, "")
    assert out.startswith("perplexity ")
    code, _, err = outcome("perplexity", file, file, file)
    assert code == 2
    assert "expected [MODEL] FILE" in err


def test_perplexity_needs_two_tokens(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "empty.txt"
    file.touch()
    status, _, err = outcome("perplexity", tiny_model, file)
    assert status == 1
    assert_one_line(err, str(file), "at least 2")
