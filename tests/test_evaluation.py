"""Divergence between models: the figures against numpy, saved logits, and the command."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import TEXT, assert_one_line, outcome
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import pygrok
from pygrok import evaluation
from pygrok.errors import FormatError, ModelError
from pygrok.reference_file import Header, ReferenceFile, ReferenceWriter, file_bytes

WINDOW, STRIDE, COUNT = 40, 25, 130


def ids_of(model: pygrok.Model) -> NDArray[np.int32]:
    return np.random.default_rng(5).integers(0, model.config.vocab, COUNT).astype(np.int32)


def exact_log_probabilities(model: pygrok.Model, ids: NDArray[np.int32]) -> NDArray[np.float64]:
    """Float64 [T-1, vocab], window by window, from whole windows' logits."""
    rows = []
    for start, end, first in evaluation.windows(len(ids), WINDOW, STRIDE):
        logits = model.logits(ids[start:end]).astype(np.float64)[first - 1 - start : -1]
        logits -= logits.max(1, keepdims=True)
        rows.append(logits - np.log(np.exp(logits).sum(1, keepdims=True)))
    return np.concatenate(rows)


def test_figures_are_numpys(tiny_models: dict[str, Path]) -> None:
    with (
        pygrok.load(tiny_models["f32"]) as model,
        pygrok.load(tiny_models["q4_0"], activations="int8") as other,
    ):
        ids = ids_of(model)
        reference = evaluation.reference_log_probabilities(model, ids, window=WINDOW, stride=STRIDE)
        done: list[int] = []
        found = evaluation.kl_divergence(
            other, ids, reference, window=WINDOW, stride=STRIDE, progress=done.append
        )
        p, q = exact_log_probabilities(model, ids), exact_log_probabilities(other, ids)
    assert reference.dtype == np.float32
    np.testing.assert_allclose(reference, p, rtol=0, atol=3e-6)
    assert done[-1] == COUNT - 1
    kl = (np.exp(p) * (p - q)).sum(1)
    assert kl.mean() > 1e-5
    root = math.sqrt(COUNT - 1)
    index = np.arange(COUNT - 1), ids[1:]
    difference = np.exp(q[index]) - np.exp(p[index])
    same = (p.argmax(1) == q.argmax(1)).mean()
    loss = -q[index]
    excess = p[index] - q[index]
    expected = {
        "tokens": COUNT - 1,
        "mean": kl.mean(),
        "standard_error": kl.std(ddof=1) / root,
        "median": np.median(kl),
        "percentile_90": np.quantile(kl, 0.9),
        "percentile_95": np.quantile(kl, 0.95),
        "percentile_99": np.quantile(kl, 0.99),
        "percentile_99_9": np.quantile(kl, 0.999),
        "maximum": kl.max(),
        "top1_agreement": same,
        "top1_standard_error": math.sqrt(same * (1 - same)) / root,
        "probability_difference_mean": difference.mean(),
        "probability_difference_rms": math.sqrt((difference**2).mean()),
        "mean_log_loss": loss.mean(),
        "perplexity": math.exp(loss.mean()),
        "perplexity_standard_error": math.exp(loss.mean()) * loss.std(ddof=1) / root,
        "reference_perplexity": math.exp(-p[index].mean()),
        "perplexity_ratio": math.exp(excess.mean()),
        "perplexity_ratio_standard_error": math.exp(excess.mean()) * excess.std(ddof=1) / root,
    }
    assert found.as_dict().keys() == expected.keys()
    for name, value in found.as_dict().items():
        assert value == pytest.approx(expected[name], rel=1e-4, abs=2e-8), name


def test_a_model_does_not_diverge_from_itself(tiny_models: dict[str, Path]) -> None:
    with pygrok.load(tiny_models["q8_0"]) as model:
        ids = ids_of(model)
        reference = evaluation.reference_log_probabilities(model, ids)
        found = evaluation.kl_divergence(model, ids, reference)
        shifted = evaluation.kl_divergence(model, ids, reference + np.float32(8))  # normalised anew
    assert found.maximum < 1e-7
    assert shifted.maximum < 1e-7
    assert found.top1_agreement == 1.0
    assert found.perplexity_ratio == pytest.approx(1, abs=1e-6)


def test_arguments_are_checked(tiny_models: dict[str, Path]) -> None:
    with pygrok.load(tiny_models["q8_0"], context=64) as model:
        ids = ids_of(model)
        for options, message in (
            ({"window": 65}, "window 65"),
            ({"window": 1}, "window 1"),
            ({"window": 9, "stride": 9}, "stride 9"),
        ):
            with pytest.raises(ValueError, match=message):
                evaluation.reference_log_probabilities(model, ids, **options)
        with pytest.raises(ValueError, match="at least 2"):
            evaluation.reference_log_probabilities(model, ids[:1])
        wrong = np.zeros((COUNT, model.config.vocab), np.float32)
        with pytest.raises(ValueError, match="reference has shape"):
            evaluation.kl_divergence(model, ids, wrong)
        wrong = np.full((COUNT - 1, model.config.vocab), np.nan, np.float32)
        with pytest.raises(ModelError, match="token 1 are not numbers"):
            evaluation.kl_divergence(model, ids, wrong)


def header_of(tokens: int, vocab: int) -> Header:
    return Header.of("text", np.zeros(tokens, np.int32), vocab, 8, 4)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 999), spread=st.floats(0, 200), vocab=st.integers(1, 300))
def test_saved_rows_are_as_exact_as_stated(tmp_path: Path, seed: int, spread: float, vocab: int) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.uniform(-0.5, 0.5, (3, vocab)) * spread + 7).astype(np.float32)
    path = tmp_path / "rows"
    with ReferenceWriter(path, header_of(4, vocab), force=True) as writer:
        writer.append(logits[:1])
        writer.append(logits[1:])
    assert path.stat().st_size == file_bytes(header_of(4, vocab))
    exact = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum(1, keepdims=True))
    error = np.abs(ReferenceFile(path).rows(0, 3) - exact)
    steps = (logits.max(1) - logits.min(1)).astype(np.float64) / 65535
    assert (error <= 0.5 * steps[:, None] + 3e-7 * (np.abs(exact) + 1)).all()


def test_writer_leaves_nothing_half_done(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with (
        pytest.raises(ValueError, match="1 tokens have no rows"),
        ReferenceWriter(path, header_of(3, 5)) as w,
    ):
        w.append(np.zeros((1, 5), np.float32))
    with pytest.raises(ModelError, match="not numbers"), ReferenceWriter(path, header_of(2, 5)) as w:
        w.append(np.full((1, 5), np.nan, np.float32))
    assert list(tmp_path.iterdir()) == []
    path.write_text("old")
    with pytest.raises(FileExistsError, match="--force"):
        ReferenceWriter(path, header_of(2, 5))
    with pytest.raises(OSError, match="the disk has"):
        ReferenceWriter(path, replace(header_of(2, 5), tokens=1 << 40), force=True)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_damaged_files(tmp_path: Path) -> None:
    path, bad = tmp_path / "good", tmp_path / "bad"
    with ReferenceWriter(path, header_of(3, 50)) as writer:
        writer.append(np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32))
    whole = path.read_bytes()
    for data, message in (
        (b"", "not logits"),
        (whole[:-1], "damaged: "),
        (b"X" + whole[1:], "not logits"),
        (whole[:16] + b"\x09" + whole[17:], "version 9"),
        (whole[:24] + b"\xff" * 8 + whole[32:], "damaged: "),
    ):
        bad.write_bytes(data)
        with pytest.raises(FormatError, match=message) as caught:
            ReferenceFile(bad)
        assert str(bad) in str(caught.value)
    for at in (105, 110, 113, len(whole) - 1):  # anywhere in the rows
        bad.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(FormatError, match="checksum of token"):
            ReferenceFile(bad).rows(0, 2)


def test_command(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    text, saved = tmp_path / "text.txt", tmp_path / "logits"
    text.write_text(TEXT * 4)
    f32, q4 = tiny_models["f32"], tiny_models["q4_0"]
    options = ["-w", "32", "-s", "20", "-n", "90"]
    code, out, _ = outcome("perplexity", f32, text, *options, "--save-logits", saved, "--json")
    assert code == 0
    plain = json.loads(outcome("perplexity", f32, text, *options, "--json")[1])
    for name in ("perplexity", "standard_error", "tokens"):
        assert json.loads(out)[name] == pytest.approx(plain[name], rel=1e-6)
    code, out, _ = outcome("perplexity", q4, text, "--against", saved, "--json")
    result: dict[str, Any] = json.loads(out)
    assert code == 0
    assert (result["window"], result["stride"], result["tokens"]) == (32, 20, 89)
    with pygrok.load(f32) as model, pygrok.load(q4) as other:
        ids = model.tokenizer.encode(TEXT * 4)[:90]
        reference = evaluation.reference_log_probabilities(model, ids, window=32, stride=20)
        exact = evaluation.kl_divergence(other, ids, reference, window=32, stride=20)
    assert result["divergence"]["mean"] == pytest.approx(exact.mean, rel=1e-3, abs=1e-7)
    assert result["divergence"]["perplexity_ratio"] == pytest.approx(exact.perplexity_ratio, rel=1e-4)
    code, out, _ = outcome("perplexity", q4, text, "--against", saved)
    assert code == 0
    assert "KL divergence" in out
    assert "same likeliest token" in out


def test_command_refuses_what_does_not_match(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    text, other, saved = tmp_path / "text.txt", tmp_path / "other.txt", tmp_path / "logits"
    text.write_text(TEXT)
    other.write_text(TEXT[::-1])
    model = tiny_models["f32"]
    assert outcome("perplexity", model, text, "-n", "20", "--save-logits", saved)[0] == 0
    for arguments, status, part in (
        ([model, text, "-n", "20", "--save-logits", saved], 1, "--force overwrites"),
        ([model, other, "--against", saved], 1, "another text"),
        ([model, text, "-n", "19", "--against", saved], 1, "20 tokens, here are 19"),
        ([model, text, "-s", "3", "--against", saved], 1, "not 512 every 3"),
        ([text, "--against", saved], 1, "a vocabulary of 400, the model has 4096"),
        ([model, text, "--against", text], 1, "not logits that"),
        ([model, text, "--against", saved, "--save-logits", saved], 2, "exclude each other"),
        ([model, text, "--force"], 2, "--force goes with"),
    ):
        code, _, err = outcome("perplexity", *arguments)
        assert code == status
        assert_one_line(err, part)
