"""Files of routing: written row by row, read whole, refused in one line when damaged; profiles of hot experts."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from routing_traces import HEADER, skewed_trace, trace_of

from pygrok.errors import FormatError
from pygrok.expert_profile import (
    entropy,
    load_profile,
    profile_of,
    read_profile,
    repeated,
    save_profile,
    uses,
)
from pygrok.route_trace import (
    NOT_ROUTED,
    RouteTrace,
    TraceHeader,
    TraceWriter,
    is_trace,
    read_trace,
)


def write(path: Path, trace: RouteTrace, pieces: int = 3) -> Path:
    with TraceWriter(path, trace.header) as writer:
        for part in np.array_split(np.arange(len(trace)), pieces):
            probabilities = None if trace.probabilities is None else trace.probabilities[part]
            writer.append(trace.sessions[part], trace.positions[part], trace.experts[part], probabilities)
    return path


def equal(a: RouteTrace, b: RouteTrace) -> bool:
    arrays = ("sessions", "positions", "experts", "probabilities")
    return a.header == b.header and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in arrays)


@pytest.mark.parametrize("probabilities", [False, True])
def test_a_trace_comes_back(tmp_path: Path, probabilities: bool) -> None:
    made = skewed_trace(20)
    if probabilities:
        p = np.random.default_rng(0).random((20, HEADER.layers, HEADER.experts), np.float32)
        header = TraceHeader(**{**HEADER.__dict__, "probabilities": True})
        made = RouteTrace(header, made.sessions, made.positions, made.experts, p)
    path = write(tmp_path / "t", made)
    assert is_trace(path)
    read = read_trace(path)
    assert len(read) == 20
    assert equal(read, made) or (not probabilities and read.probabilities is None)
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_a_trace_appears_whole_and_survives_an_interrupt(tmp_path: Path) -> None:
    path, made = tmp_path / "t", skewed_trace(4)
    writer = TraceWriter(path, HEADER)

    def interrupted() -> None:
        with writer:
            writer.append(made.sessions, made.positions, made.experts, None)
            assert not path.exists()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert np.array_equal(read_trace(path).experts, made.experts)


def test_rows_of_another_shape_are_refused(tmp_path: Path) -> None:
    made = skewed_trace(4)
    with TraceWriter(tmp_path / "t", HEADER) as writer:
        for experts in (made.experts[:3], made.experts[:, :2], made.experts[..., :1]):
            with pytest.raises(ValueError, match="rows of shapes"):
                writer.append(made.sessions, made.positions, experts, None)
        with pytest.raises(ValueError, match="rows of shapes"):
            writer.append(made.sessions, made.positions, made.experts, np.zeros((4, 3, 4), np.float32))
    assert len(read_trace(tmp_path / "t")) == 0


def test_every_shorter_file_is_refused(tmp_path: Path) -> None:
    data = write(tmp_path / "whole", skewed_trace(3)).read_bytes()
    path = tmp_path / "cut"
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(FormatError) as caught:
            read_trace(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_bytes(data + b"x")
    with pytest.raises(FormatError, match="damaged or cut short"):
        read_trace(path)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, at: int, by: int) -> None:
    path = tmp_path_factory.getbasetemp() / "changed"
    made = skewed_trace(5)
    data = bytearray(write(path, made).read_bytes())
    data[at % len(data)] ^= by
    path.write_bytes(data)
    with suppress(FormatError):
        read = read_trace(path)
        # A text or size of the header, which no checksum covers.
        assert read.header != made.header
        assert np.array_equal(read.experts, made.experts)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 0}, "'layers' is '0'"),
        ({"layers": 1 << 40}, "'layers'"),
        ({"experts": 256}, "'experts'"),
        ({"used": 5}, "5 of 4 experts"),
        ({"used": True}, "'used'"),
        ({"model": 7}, "'model' is '7'"),
        ({"expert_bytes": -1}, "'expert_bytes'"),
        ({"probabilities": 1}, "'probabilities'"),
        ({"fingerprint": None}, "'fingerprint'"),
    ],
)
def test_headers_are_checked(tmp_path: Path, change: dict[str, object], words: str) -> None:
    text = json.dumps({**HEADER.__dict__, **change}).encode()
    path = tmp_path / "t"
    path.write_bytes(struct.pack("<16sII", b"pygrok.routes\0\0\0", 1, len(text)) + text)
    with pytest.raises(FormatError, match=words):
        read_trace(path)


def test_what_is_no_trace_says_so(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_bytes(b"x" * 100)
    assert not is_trace(path)
    with pytest.raises(FormatError, match="not a trace of routing"):
        read_trace(path)
    path.write_bytes(struct.pack("<16sII", b"pygrok.routes\0\0\0", 9, 0))
    with pytest.raises(FormatError, match=r"version 9; this pygrok reads 1"):
        read_trace(path)
    path.write_bytes(struct.pack("<16sII", b"pygrok.routes\0\0\0", 1, 2) + b"[]")
    with pytest.raises(FormatError, match="its header is not one"):
        read_trace(path)


def test_experts_beyond_the_model_are_refused(tmp_path: Path) -> None:
    experts = np.zeros((2, 3, 2), np.uint8)
    experts[1, 2, 1] = 4
    with pytest.raises(FormatError, match="row 1 names an expert beyond 4"):
        read_trace(write(tmp_path / "t", trace_of(experts)))


# use and profiles


def test_use_counts_and_entropy() -> None:
    trace = trace_of(np.array([[[0, 1]] * 3, [[0, 2]] * 3, [[0, 3]] * 3, [[0, NOT_ROUTED]] * 3]))
    assert uses(trace).tolist() == [[4, 1, 1, 1]] * 3
    shares = np.array([4, 1, 1, 1]) / 7
    assert entropy(uses(trace)) == pytest.approx([-(shares * np.log2(shares)).sum()] * 3)
    assert entropy(np.array([[2, 2, 2, 2], [5, 0, 0, 0]])).tolist() == [2.0, 0.0]
    assert repeated(trace) == pytest.approx(9 / 15)  # 0 each time, of 2 + 2 + 1 routes that follow a token
    assert np.isnan(repeated(trace_of(np.zeros((1, 3, 2)))))


def test_a_profile_comes_back_with_the_hottest_first(tmp_path: Path) -> None:
    trace = skewed_trace(100)
    profile = profile_of(trace)
    counts = uses(trace)
    layer, expert, share = profile.hot[0]
    assert counts[layer, expert] == counts.max() == share * 100
    path = tmp_path / "hot.json"
    save_profile(path, profile)
    assert load_profile(path) == [entry[:2] for entry in profile.hot]
    read = read_profile(path)
    assert [e[2] for e in read.hot] == pytest.approx([e[2] for e in profile.hot], abs=1e-6)
    assert (read.model, read.tokens, read.layers, read.experts) == ("made up", 100, 3, 4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("\xff", "no JSON"),
        ("{}", "--save-hot FILE"),
        ({"version": 2}, "version '2'"),
        ({"layers": 0}, "layers is '0'"),
        ({"experts": True}, "experts is 'True'"),
        ({"model": 3}, "model is '3'"),
        ({"hot": {}}, "no list 'hot'"),
        ({"hot": [[0, 0]]}, "entry 0 of 'hot'"),
        ({"hot": [[0, 0, 0.5], [3, 0, 0.5]]}, "entry 1 of 'hot'"),
        ({"hot": [[0, 4, 0.5]]}, "4 experts"),
        ({"hot": [[0, 0, 2]]}, "shares up to 1"),
        ({"hot": [[0, 0, 1], [0, 0, 1]]}, "twice"),
    ],
)
def test_profiles_are_checked(tmp_path: Path, text: str | dict[str, object], words: str) -> None:
    path = tmp_path / "hot.json"
    save_profile(path, profile_of(skewed_trace(10)))
    if isinstance(text, dict):
        text = json.dumps({**json.loads(path.read_text()), **text})
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError) as caught:
        load_profile(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
