"""`pygrok experts`: from a text or a trace to use, hit rates, a picture and a profile."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import TEXT, assert_one_line, outcome
from routing_traces import HEADER, skewed_trace

import pygrok
from pygrok.expert_cache import hit_curve
from pygrok.expert_profile import load_profile, uses
from pygrok.route_trace import RouteTrace, TraceWriter, read_trace


def written(path: Path, trace: RouteTrace) -> Path:
    with TraceWriter(path, trace.header) as writer:
        writer.append(trace.sessions, trace.positions, trace.experts, trace.probabilities)
    return path


def test_a_trace_is_counted_and_replayed(tmp_path: Path) -> None:
    trace = skewed_trace(60)
    code, out, err = outcome("experts", written(tmp_path / "t", trace), "--json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert result["uses"] == uses(trace).tolist()
    assert (result["tokens"], result["layers"], result["experts"], result["experts_used"]) == (60, 3, 4, 2)
    for name, policy in (("lru", "lru"), ("pygrok", "pygrok"), ("best", "belady")):
        curve = hit_curve(trace, policy)
        assert result["hit_rates"][name]["hit_rate"] == pytest.approx(curve.hit_rate.tolist())
        assert result["hit_rates"][name]["references"] == curve.references
    assert result["expert_bytes"] == HEADER.expert_bytes


def test_the_tables_are_for_people(tmp_path: Path) -> None:
    path = written(tmp_path / "t", skewed_trace(60))
    code, out, err = outcome("experts", path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.split()[:1] == ["layer"])
    shares = [int(cell.rstrip("░▒▓█")) for cell in lines[first + 1].split()[1:-1] if cell.rstrip("░▒▓█")]
    counts = uses(skewed_trace(60))[0]
    assert shares == [int(f"{100 * share:.0f}") for share in counts / counts.sum()]
    assert lines[first].split()[1:5] == ["0", "1", "2", "3"]
    kept = next(line for line in lines if line.split()[:1] == ["50.0%"])
    curve = hit_curve(skewed_trace(60), "belady")
    assert f"{curve.at(0.5):.1%}" in kept
    assert "5.86 KiB" in kept  # half of 12 experts of 1000 bytes
    assert "\x1b" not in out


def test_only_the_last_tokens_count(tmp_path: Path) -> None:
    trace = skewed_trace(60)
    path = written(tmp_path / "t", trace)
    result = json.loads(outcome("experts", path, "-n", "7", "--json")[1])
    assert result["tokens"] == 7
    assert result["uses"] == uses(RouteTrace(HEADER, *(a[-7:] for a in trace_arrays(trace)), None)).tolist()


def trace_arrays(trace: RouteTrace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    return trace.sessions, trace.positions, trace.experts


def test_a_text_is_run_through_a_model(tiny_model: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    hot, kept = tmp_path / "hot.json", tmp_path / "kept.routes"
    code, out, err = outcome("experts", tiny_model, text, "--json", "--save-hot", hot, "--trace", kept)
    assert (code, err) == (0, "")
    result = json.loads(out)
    with pygrok.load(tiny_model) as model:
        config, ids = model.config, model.tokenizer.encode(TEXT)
        seen = np.zeros((config.layers, config.experts), np.int64)

        def count(names: tuple[str, ...], expert: int | None, rows: np.ndarray) -> None:  # type: ignore[type-arg]
            if expert is not None and "ffn_gate_exps" in names[0]:
                seen[int(names[0].split(".")[1]), expert] += len(rows)

        model.observe([(model.session(), ids)], count)
        every = seen.copy()
        seen[:] = 0
        model.observe([(model.session(), ids[:-1])], count)
    seen[:-1] = every[:-1]  # nothing is predicted from the last token, so that its last layer is not computed
    assert result["tokens"] == len(ids)
    assert result["uses"] == seen.tolist()
    assert (result["layers"], result["experts"]) == (config.layers, config.experts)
    assert uses(read_trace(kept)).tolist() == seen.tolist()
    layer, expert = load_profile(hot)[0]
    assert seen[layer, expert] == seen.max()
    # The trace with a model takes that model's sizes.
    again = json.loads(outcome("experts", tiny_model, kept, "--json")[1])
    assert again["uses"] == result["uses"]
    assert again["expert_bytes"] == result["expert_bytes"] > 0


def test_generating_writes_a_trace(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.routes"
    code, _, err = outcome(
        "generate", tiny_model, "-p", TEXT, "-n", "5", "--temperature", "0", "--trace", path
    )
    assert (code, err) == (0, "")
    trace = read_trace(path)
    with pygrok.load(tiny_model) as model:
        prompt = len(model.tokenizer.encode(TEXT))
    assert trace.positions.tolist() == list(range(len(trace)))
    assert prompt < len(trace) <= prompt + 5
    assert (trace.experts[prompt:] < trace.header.experts).all()
    code, out, _ = outcome("experts", path)
    assert code == 0
    assert f"{len(trace)}, 2 of" in out


def test_a_model_writes_one_trace_at_a_time(tiny_model: Path, tmp_path: Path) -> None:
    with pygrok.load(tiny_model) as model:
        first, second = tmp_path / "first", tmp_path / "second"
        with model.trace(first, probabilities=True):
            model.session().feed([5, 6])
            with pytest.raises(pygrok.ModelError, match="already"), model.trace(second):
                pass
            model.session().feed([7])
        with model.trace(second):
            model.score([5, 6, 7])
        model.session().feed([8])
    trace = read_trace(first)
    assert len(read_trace(second)) == 3
    assert trace.positions.tolist() == [0, 1, 0]
    assert trace.probabilities is not None
    assert trace.probabilities.sum(axis=-1)[0, 0] == pytest.approx(1, abs=1e-5)
    likeliest = np.argsort(-trace.probabilities[2, 0])[: trace.header.used]
    assert trace.experts[2, 0].tolist() == likeliest.tolist()


@pytest.mark.parametrize("suffix", [".png", ".svg", ".PDF"])
def test_a_picture_is_drawn(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'pygrok[report]'")
    picture = tmp_path / f"use{suffix}"
    code, out, err = outcome("experts", written(tmp_path / "t", skewed_trace(30)), "--plot", picture)
    assert (code, err) == (0, "")
    assert "Hit rate" in out
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".PDF": b"%PDF"}[suffix]
    assert picture.read_bytes().startswith(start)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["t", picture.name])


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "t", skewed_trace(30))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = outcome("experts", path, "--plot", tmp_path / "use.png")
    assert (code, out) == (1, "")
    assert_one_line(err, "pip install 'pygrok[report]'")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["t", "t", "t"], 2, "expected [MODEL] FILE"),
        (["t", "--plot", "use.gif"], 2, ".png, .svg or .pdf"),
        (["t", "--plot", "nowhere/use.png"], 2, "no such directory"),
        (["cut"], 1, "cut: the trace is damaged or cut short"),
        (["missing"], 1, "missing: No such file"),
        (["empty"], 1, "empty: no token"),
        (["t", "-n", "0"], 2, "--tokens"),
    ],
)
def test_wrong_use_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    written(Path("t"), skewed_trace(5))
    Path("cut").write_bytes(Path("t").read_bytes()[:-3])
    written(Path("empty"), skewed_trace(0))
    status, out, err = outcome("experts", *arguments)
    assert (status, out) == (code, "")
    assert_one_line(err, words)


def test_a_model_of_other_dimensions_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    code, _, err = outcome("experts", tiny_model, written(tmp_path / "t", skewed_trace(5)))
    assert code == 1
    assert_one_line(err, str(tiny_model), "the trace has 3 of 4")
