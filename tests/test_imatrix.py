"""Importance matrices: what the engine sums up, the files, and what is made of seldom routed experts."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_helpers import TEXT, outcome
from imatrix_helpers import assert_same, collect_small, entry, tokens
from numpy.typing import NDArray
from reference_model import Array, ReferenceModel, gelu, softmax

import pygrok
from pygrok.errors import Cancelled, FormatError, ModelError
from pygrok.quantize.imatrix import PRIOR_ROWS, ImportanceMatrix, collect

Sums = dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]


class WatchedModel(ReferenceModel):
    """The numpy model, noting what enters each matrix: name -> expert -> rows."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.seen: dict[str, dict[int, list[Array]]] = defaultdict(lambda: defaultdict(list))

    def attention(self, x: Array, block: str) -> Array:
        for name in "qkv":
            self.seen[f"{block}attn_{name}.weight"][0] += list(x)
        name = block + "attn_output.weight"
        output = self.tensors[name]
        self.tensors[name] = np.eye(output.shape[1])  # to see the heads' outputs
        mixed = super().attention(x, block)
        self.tensors[name] = output
        self.seen[name][0] += list(mixed)
        return mixed @ output.T

    def experts(self, x: Array, block: str) -> Array:
        self.seen[block + "ffn_gate_inp.weight"][0] += list(x)
        gate, up = (self.tensors[f"{block}ffn_{n}_exps.weight"] for n in ("gate", "up"))
        p = softmax(x @ self.tensors[block + "ffn_gate_inp.weight"].T)
        for t, row in enumerate(x):
            for e in np.argsort(-p[t], kind="stable")[: self.used]:
                for name in ("gate", "up"):
                    self.seen[f"{block}ffn_{name}_exps.weight"][e].append(row)
                self.seen[block + "ffn_down_exps.weight"][e].append(gelu(gate[e] @ row) * (up[e] @ row))
        return super().experts(x, block)

    def norm(self, x: Array, name: str) -> Array:
        result = super().norm(x, name)
        if name == "output_norm":
            self.seen["token_embd.weight"][0] += list(result)
        return result


def sums_of(model: pygrok.Model, pieces: list[NDArray[np.int32]]) -> Sums:
    """Of one session fed in these pieces."""
    sums, session = model.input_sums(), model.session()
    for piece in pieces:
        model.observe([(session, piece)], sums)
    return {name: (squares, counts) for names, squares, counts in sums.entries() for name in names}


def test_sums_are_the_reference_models(tiny_models: dict[str, Path]) -> None:
    with pygrok.load(tiny_models["f32"], kv_type="f32") as model:
        texts = [tokens(model, n, seed=n) for n in (70, 33)]
        sums = model.input_sums()
        model.observe([(model.session(), ids) for ids in texts], sums)
        experts = model.config.experts
    watched = WatchedModel(tiny_models["f32"])
    for ids in texts:
        watched.logits(ids)
    found = {name: (squares, counts) for names, squares, counts in sums.entries() for name in names}
    assert found.keys() == watched.seen.keys()
    for name, (squares, counts) in found.items():
        assert len(counts) == (experts if "_exps" in name else 1)
        for e, count in enumerate(counts):
            rows = np.array(watched.seen[name][e]).reshape(-1, squares.shape[1])
            assert count == len(rows), (name, e)
            np.testing.assert_allclose(squares[e], (rows**2).sum(0), rtol=2e-3, atol=1e-9, err_msg=name)
    assert len(set(found["blk.0.ffn_up_exps.weight"][1].tolist())) > 1  # experts are told apart


def test_sums_do_not_depend_on_threads_or_pieces(tiny_models: dict[str, Path]) -> None:
    results = []
    for threads, cuts in ((1, []), (2, [300]), (5, [1, 2, 150, 599])):
        with pygrok.load(tiny_models["q4_0"], threads=threads, activations="int8") as model:
            results.append(sums_of(model, np.split(tokens(model, 600), cuts)))
    for other in results[1:]:
        for name, (squares, counts) in results[0].items():
            np.testing.assert_array_equal(squares, other[name][0])
            np.testing.assert_array_equal(counts, other[name][1])


def test_callback_gets_the_rows(tiny_models: dict[str, Path]) -> None:
    with pygrok.load(tiny_models["q8_0"]) as model:
        ids = tokens(model, 530)  # two batches
        expected = sums_of(model, [ids])
        got: dict[tuple[str, int], Any] = defaultdict(float)

        def note(names: tuple[str, ...], expert: int | None, rows: NDArray[np.float32]) -> None:
            assert (expert is not None) == ("_exps" in names[0])
            for name in names:
                got[name, expert or 0] += (rows.astype(np.float64) ** 2).sum(0)

        watched, plain = model.session(), model.session()
        model.observe([(watched, ids)], note)
        for (name, expert), squares in got.items():
            np.testing.assert_allclose(squares, expected[name][0][expert], rtol=1e-12)
        assert {name for name, _ in got} == expected.keys()
        model.prefill(plain, ids)
        np.testing.assert_array_equal(watched.feed([5]), plain.feed([5]))

        def fail(*_: object) -> None:
            raise RuntimeError("enough")

        with pytest.raises(RuntimeError, match="enough"):
            model.observe([(watched, [1, 2])], fail)
        assert watched.position == 531

        def cancel(*_: object) -> None:
            model.cancel()

        with pytest.raises(Cancelled):
            model.observe([(watched, [1, 2])], cancel)
        with pytest.raises(TypeError, match="callable"):
            model.observe([(watched, [1])], 7)  # type: ignore[arg-type]


def test_sums_of_another_model(tiny_models: dict[str, Path], grok_b_f32: Path) -> None:
    with pygrok.load(tiny_models["q8_0"]) as model, pygrok.load(grok_b_f32) as other:
        with pytest.raises(ValueError, match="other dimensions"):
            model.observe([(model.session(), [1])], other.input_sums())
        session = model.session()
        assert session.feed([1]).shape == (model.config.vocab,)


def test_experts_with_few_rows_lean_on_the_layer() -> None:
    name = "blk.0.ffn_up_exps.weight"
    sums = np.array([[8000, 2000, 0], [0, 0, 0], [3, 9, 0]], np.float32)
    matrix = ImportanceMatrix({name: entry(sums, [1000, 0, 3])}, 512)
    mean = sums.sum(0) / 1003
    np.testing.assert_allclose(matrix.importance(name)[:2], mean[:2], rtol=1e-6)
    for e, count in enumerate((1000, 0, 3)):
        expected = (sums[e] + PRIOR_ROWS * mean) / (count + PRIOR_ROWS)
        found = matrix.importance(name, e, columns=3)
        assert found is not None
        assert found.dtype == np.float32
        np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-6)
        assert 0 < found[2] < 1e-5 * found.mean()  # never driven, yet not worthless
    many = matrix.importance(name, 0)
    np.testing.assert_allclose(many[:2], [8, 2], rtol=5e-3)  # stands for itself
    with pytest.raises(FormatError, match="3 experts, expert 3"):
        matrix.importance(name, 3)
    with pytest.raises(FormatError, match="3 columns, the model's tensor 4"):
        matrix.importance(name, 0, columns=4)
    assert matrix.importance("unknown") is None
    assert ImportanceMatrix({"a": entry([[0, 0]], [9])}, 512).importance("a") is None
    assert ImportanceMatrix({"a": entry([[0, 0]], [0])}, 512).importance("a") is None


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1.0, 1e38])
def test_extreme_sums_stay_finite_and_positive(scale: float) -> None:
    matrix = ImportanceMatrix({"a": entry(np.array([[1, 2, 3.0]]) * scale, [3])}, 512)
    found = matrix.importance("a")
    assert found is not None
    assert np.isfinite(found).all()
    assert (found > 0).all()


@pytest.fixture
def collected(tiny_models: dict[str, Path]) -> ImportanceMatrix:
    return collect_small(tiny_models["f32"])


def test_collect_is_chunk_by_chunk(tiny_models: dict[str, Path], collected: ImportanceMatrix) -> None:
    with pygrok.load(tiny_models["f32"], threads=1) as model:
        ids = tokens(model, 700)
        sums, seen = model.input_sums(), []
        for start in range(0, 700, 100):
            model.observe([(model.session(), ids[start : start + 100])], sums)
        model.observe([(model.session(), tokens(model, 40, 1))], sums)
        assert_same(ImportanceMatrix.from_sums(sums, 100), collected)
        collect(model, [ids], chunk_size=300, progress=seen.append)
        assert seen == [300, 600, 700]
        with pytest.raises(ValueError, match="no tokens"):
            collect(model, [])
        with pytest.raises(ValueError, match="chunk_size"):
            collect(model, [ids], chunk_size=0)
    assert (collected.tokens, collected.chunks, collected.chunk_size) == (740, 8, 100)
    assert sum(c.tokens for c in collected.coverage() if c.layer == 0) == 2 * 740


def test_merge(tiny_models: dict[str, Path], collected: ImportanceMatrix) -> None:
    with pygrok.load(tiny_models["f32"]) as model:
        parts = [tokens(model, 700), tokens(model, 40, 1)]
        a, b = (
            collect(model, [ids], chunk_size=100, datasets=[d]) for ids, d in zip(parts, "ab", strict=True)
        )
    merged = a.merge(b)
    assert_same(merged, collected)
    assert merged.datasets == ("a", "b")
    other = ImportanceMatrix({"blk.0.attn_q.weight": entry([[1, 2]], [1])}, 512, origin="other.gguf")
    with pytest.raises(FormatError, match=r"other\.gguf: blk\.0\.attn_q\.weight .* another model"):
        a.merge(other)


def test_damaged_weights_are_noticed(tiny_models: dict[str, Path]) -> None:
    with pygrok.load(tiny_models["f32"]) as model:
        name = "blk.1.attn_norm.weight"
        model.replace_tensor(name, "f32", np.full(4 * model.config.embedding, 0xFF, np.uint8))
        with pytest.raises(ModelError, match=r"enter blk\.1\.attn_q\.weight are not numbers"):
            collect(model, [[1, 2, 3]])


def test_command(tiny_model: Path, tmp_path: Path) -> None:
    import json

    text, out = tmp_path / "text.txt", tmp_path / "a.gguf"
    text.write_text(TEXT * 9)
    code, printed, err = outcome("imatrix", tiny_model, text, text, "-o", out, "--chunk", "64", "--json")
    result = json.loads(printed)
    assert (code, err) == (0, "")
    with pygrok.load(tiny_model) as model:
        ids = model.tokenizer.encode(TEXT * 9)
        assert_same(ImportanceMatrix.load(out), collect(model, [ids, ids], chunk_size=64))
        layers, experts = model.config.layers, model.config.experts
    assert result["tokens"] == 2 * len(ids)
    assert len(result["experts"]) == layers * experts
    code, _, err = outcome("imatrix", tiny_model, text, "-n", "20", "-o", tmp_path / "few")
    assert code == 0
    assert "experts saw few tokens" in err
    code, printed, err = outcome(
        "imatrix", tiny_model, text, "-n", "20", "-o", out, "--force", "--merge", out
    )
    assert (code, err) == (0, "")
    assert f"{2 * len(ids) + 20} with those merged" in printed
    assert ImportanceMatrix.load(out).tokens == 2 * len(ids) + 20
    for arguments, code, part in (
        ([tiny_model, text, "-o", out], 2, "--force"),
        ([tiny_model, "-o", tmp_path / "x"], 2, "no text given"),
        ([tiny_model, text, "-o", tmp_path / "no" / "x"], 2, "no such directory"),
        ([tiny_model, text, "-o", tmp_path / "x", "--merge", text], 1, "not an importance matrix"),
        ([tiny_model, text, "-o", tmp_path / "x", "--chunk", "90", "-c", "64"], 2, "--chunk 90"),
    ):
        status, _, err = outcome("imatrix", *arguments)
        assert (status, err.count("\n")) == (code, 1), err
        assert part in err
