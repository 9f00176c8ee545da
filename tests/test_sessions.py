"""Sessions: ragged batches, forks, rewinds, saved files, limits, and what happens when a call fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import pygrok
from pygrok import _core

KINDS = ["f32", "bf16", "q8_0", "q4_0"]
SAME_BITS = "int24"  # activations that promise the same bits however rows are put together


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> Iterator[pygrok.Model]:
    with pygrok.load(tiny_models[request.param], activations=SAME_BITS) as model:
        yield model


@pytest.fixture
def q8(tiny_models: dict[str, Path]) -> Iterator[pygrok.Model]:
    with pygrok.load(tiny_models["q8_0"], activations=SAME_BITS) as model:
        yield model


def tokens(model: pygrok.Model, count: int, seed: int = 0) -> NDArray[np.int32]:
    return np.random.default_rng(seed).integers(0, model.config.vocab, count).astype(np.int32)


@pytest.mark.parametrize("pieces", [[150], [1] * 150, [64, 64, 22], [63, 2, 85], [3, 1, 100, 46]])
def test_pieces_give_the_same_bits(model: pygrok.Model, pieces: list[int], isa: str) -> None:
    ids = tokens(model, 150)
    with pygrok.load(model.path, isa=isa, activations=SAME_BITS) as forced:
        whole = forced.logits(ids)
        session = forced.session()
        at = 0
        for piece in pieces:
            last = session.feed(ids[at : at + piece])
            at += piece
            np.testing.assert_array_equal(last, whole[at - 1])


@pytest.mark.parametrize("kind", ["bf16", "q8_0", "q4_0"])
def test_activations_by_default(tiny_models: dict[str, Path], kind: str, isa: str) -> None:
    """Prompts, at once or in long pieces, are as near to what exact activations give as single tokens are."""

    def logits(isa: str, activations: str | None, *pieces: int) -> NDArray[np.float32]:
        with pygrok.load(tiny_models[kind], isa=isa, kv_type="f32", activations=activations) as model:
            session = model.session()
            return [session.feed(part) for part in np.split(tokens(model, 150), np.cumsum(pieces))][-1]

    exact = logits("scalar", "int24")

    def noise(*pieces: int) -> float:
        return float(np.sqrt(np.mean((logits(isa, None, *pieces) - exact) ** 2)))

    single = noise(*[1] * 149)
    assert noise() <= 1.5 * single + 2e-5
    assert noise(64, 40) <= 1.5 * single + 2e-5


KV_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32}


@pytest.mark.parametrize("kv_type", KV_BYTES)
def test_kv_types_give_the_same_bits(wide_heads: Path, kv_type: str, isa: str) -> None:
    """However a prompt is cut, with positions in several blocks and parts of them, forked and rewound."""
    with pygrok.load(wide_heads, isa=isa, kv_type=kv_type) as model:
        ids = tokens(model, 1100)
        whole = model.session()
        expected = whole.feed(ids)
        pieces = model.session()
        for piece in np.split(ids, [1, 2, 60, 65, 512, 513, 1023, 1024, 1098, 1099]):
            last = pieces.feed(piece)
        np.testing.assert_array_equal(last, expected)
        fork = whole.fork()
        fork.rewind(700)
        np.testing.assert_array_equal(fork.feed(ids[700:]), expected)
        config = model.config
        values = 2 * config.layers * config.kv_heads * config.head_size
        assert model.info()["kv_bytes_per_position"] == values * KV_BYTES[kv_type]
        assert whole.kv_bytes == -(-1100 // 64) * 64 * values * KV_BYTES[kv_type]


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_parts_of_a_long_past_shared_out_over_threads(wide_heads: Path, kv_type: str) -> None:
    """A decode step has fewer heads than threads here, so positions are shared out too: not a bit changes."""
    results = []
    for threads in (1, 2, 5):
        with pygrok.load(wide_heads, threads=threads, kv_type=kv_type) as model:
            ids = tokens(model, 2000)
            a, b = model.session(), model.session()
            a.feed(ids)
            b.feed(ids[:700])
            results.append(np.stack([*model.feed_many([(a, [3]), (b, [4])]), a.feed([5, 6, 7])]))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_prefill_longer_than_a_batch(q8: pygrok.Model) -> None:
    ids = tokens(q8, 1200)
    session = q8.session()
    for i in ids[:-1]:
        session.feed([int(i)])
    np.testing.assert_array_equal(session.feed(ids[-1:]), q8.session().feed(ids))


def test_threads_do_not_change_bits(tiny_models: dict[str, Path]) -> None:
    results = []
    for threads in (1, 2, 5):
        with pygrok.load(tiny_models["q4_0"], threads=threads) as model:
            results.append(model.logits(tokens(model, 100)))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_isas_agree(tiny_models: dict[str, Path]) -> None:
    results = []
    for isa in _core.supported_isas():
        with pygrok.load(tiny_models["f32"], isa=isa, kv_type="f32") as model:
            results.append(model.logits(tokens(model, 40)))
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], rtol=0, atol=1e-4)


def test_ragged_batch_equals_single_calls(model: pygrok.Model) -> None:
    prompts = [tokens(model, n, seed=n) for n in (1, 70, 13, 600)]
    alone = [model.session().feed(p) for p in prompts]
    sessions = [model.session() for _ in prompts]
    together = model.feed_many(list(zip(sessions, prompts, strict=True)))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)
    # and a decode step of all at once
    alone = [session.fork().feed([5]) for session in sessions]
    together = model.feed_many([(session, [5]) for session in sessions])
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_fork_shares_then_diverges(q8: pygrok.Model) -> None:
    ids = tokens(q8, 100)
    parent = q8.session()
    parent.feed(ids)
    before = q8.info()["memory_used"]
    child = parent.fork()
    assert q8.info()["memory_used"] == before  # nothing copied yet
    a, b = parent.feed([1, 2, 3]), child.feed([4, 5, 6])
    np.testing.assert_array_equal(a, q8.session().feed([*ids, 1, 2, 3]))
    np.testing.assert_array_equal(b, q8.session().feed([*ids, 4, 5, 6]))


@pytest.mark.parametrize("to", [0, 1, 63, 64, 65, 99, 100])
def test_rewind(q8: pygrok.Model, to: int) -> None:
    ids = tokens(q8, 100)
    session = q8.session()
    session.feed(ids)
    session.rewind(to)
    assert session.position == to
    other = tokens(q8, 30, seed=9)
    np.testing.assert_array_equal(session.feed(other), q8.session().feed([*ids[:to], *other]))


def test_rewind_forward_is_refused(q8: pygrok.Model) -> None:
    session = q8.session()
    session.feed([1, 2])
    with pytest.raises(ValueError, match="position 3"):
        session.rewind(3)
    assert session.position == 2


def test_save_and_restore(q8: pygrok.Model, tmp_path: Path) -> None:
    ids = tokens(q8, 70)
    session = q8.session()
    session.feed(ids)
    session.save(tmp_path / "s")
    expected = session.feed([7, 8])
    with pygrok.load(q8.path) as again:
        restored = again.session()
        restored.restore(tmp_path / "s")
        assert restored.position == 70
        assert restored.ids == tuple(ids.tolist())
        np.testing.assert_array_equal(restored.feed([7, 8]), expected)
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("kv_type", KV_BYTES)
def test_save_and_restore_of_every_kv_type(wide_heads: Path, tmp_path: Path, kv_type: str) -> None:
    path = tmp_path / "s"
    with pygrok.load(wide_heads, kv_type=kv_type) as model:
        session = model.session()
        session.feed(tokens(model, 131))
        session.save(path)
        expected = session.feed([7, 8])
        config = model.config
    values = 2 * config.layers * config.kv_heads * config.head_size
    assert path.stat().st_size == 48 + 131 * (4 + values * KV_BYTES[kv_type])
    other = "f16" if kv_type == "q8_0" else "q8_0"
    for isa in _core.supported_isas():  # where vectors lie in memory is no part of the file
        with pygrok.load(wide_heads, kv_type=kv_type, isa=isa) as model:
            restored = model.session()
            restored.restore(path)
            again = tmp_path / isa
            restored.save(again)
            assert again.read_bytes() == path.read_bytes()
            np.testing.assert_allclose(restored.feed([7, 8]), expected, rtol=0, atol=1e-3)
    message = f"another kv_type; this model was loaded with {other}"
    with pygrok.load(wide_heads, kv_type=other) as model, pytest.raises(pygrok.FormatError, match=message):
        model.session().restore(path)


def test_damaged_session_files_are_refused(
    q8: pygrok.Model, tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    session = q8.session()
    session.feed(tokens(q8, 10))
    path = tmp_path / "s"
    session.save(path)
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    victim = q8.session()
    victim.feed([1, 2, 3])
    bad = [good[:n] for n in rng.integers(0, len(good), 40)] + [good + b"x", b"", b"pygrok.session"]
    for place in (*range(48), *rng.integers(48, len(good), 100)):
        flipped = bytearray(good)
        flipped[place] ^= 1 << int(rng.integers(8))
        bad.append(bytes(flipped))
    for content in bad:
        path.write_bytes(content)
        with pytest.raises(pygrok.PygrokError, match="s: "):
            victim.restore(path)
        assert victim.position == 3
    path.write_bytes(good)
    with pygrok.load(tiny_models["f32"]) as other, pytest.raises(pygrok.FormatError, match="another model"):
        other.session().restore(path)
    with pygrok.load(q8.path, kv_type="f32") as other, pytest.raises(pygrok.FormatError, match="kv_type"):
        other.session().restore(path)


def test_context_limit(tiny_models: dict[str, Path]) -> None:
    with pygrok.load(tiny_models["q8_0"], context=100) as model:
        session = model.session()
        session.feed(tokens(model, 99))
        with pytest.raises(
            pygrok.ContextOverflow, match="position 99 plus 2 tokens exceeds the context of 100"
        ):
            session.feed([1, 2])
        assert session.position == 99
        session.feed([1])
        assert session.position == 100


def test_memory_limit_is_kept_and_nothing_changes(tiny_models: dict[str, Path]) -> None:
    with pygrok.load(tiny_models["q8_0"], threads=1, memory_limit="1400KiB") as model:
        session = model.session()
        session.feed([1])
        with pytest.raises(pygrok.MemoryLimit, match="memory_limit"):
            session.feed(tokens(model, 2000))
        assert session.position == 1
        assert model.info()["memory_used"] <= 1400 << 10
        session.feed([2])


def test_wrong_arguments(q8: pygrok.Model) -> None:
    session = q8.session()
    vocab = q8.config.vocab
    for ids in ([vocab], [-1], [0, 2**31], [1.5], []):
        with pytest.raises((ValueError, TypeError)):
            session.feed(ids)
    assert session.position == 0
    with pytest.raises(ValueError, match="twice"):
        q8.feed_many([(session, [1]), (session, [2])])
    with pygrok.load(q8.path) as other, pytest.raises(ValueError, match="another model"):
        other.feed_many([(session, [1])])


@pytest.mark.parametrize(
    "options",
    [
        {"threads": -1},
        {"threads": 10**6},
        {"context": 10**6},
        {"kv_type": "f64"},
        {"isa": "sse9"},
        {"memory_limit": "lots"},
    ],
)
def test_wrong_options_name_the_choices(q8: pygrok.Model, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options.values()))).lstrip("-")):
        pygrok.load(q8.path, **options)  # type: ignore[arg-type]


def test_score_equals_log_softmax_of_logits(model: pygrok.Model) -> None:
    ids = tokens(model, 130)
    logits = model.logits(ids).astype(np.float64)
    peak = logits.max(-1, keepdims=True)
    log_p = logits - peak - np.log(np.exp(logits - peak).sum(-1, keepdims=True))
    expected = log_p[np.arange(129), ids[1:]]
    score = model.score(ids)
    assert score.dtype == np.float32
    np.testing.assert_allclose(score, expected, rtol=0, atol=1e-5)


def test_use_after_close(tiny_models: dict[str, Path]) -> None:
    model = pygrok.load(tiny_models["q8_0"])
    session = model.session()
    model.close()
    model.close()
    with pytest.raises(pygrok.ModelError, match="closed"):
        session.feed([1])
    with pytest.raises(pygrok.ModelError, match="closed"):
        model.logits([1])
