"""Other weights in the place of a loaded model's tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import pygrok
from pygrok.errors import MemoryLimit, ModelError

IDS = list(range(1, 60))


def data_of(model: pygrok.Model, name: str) -> NDArray[np.uint8]:
    return model.file.data(name)


def test_all_tensors_of_another_type_give_that_files_bits(tiny_models: dict[str, Path]) -> None:
    with pygrok.load(tiny_models["f32"]) as model, pygrok.load(tiny_models["q4_0"]) as other:
        before, used = model.logits(IDS), model.info()["memory_used"]
        names = [t.name for t in other.file.tensors]
        for tensor in other.file.tensors:
            model.replace_tensor(tensor.name, tensor.type, data_of(other, tensor.name))
        np.testing.assert_array_equal(model.logits(IDS), other.logits(IDS))
        assert model.info()["memory_used"] > used
        for name in names:
            model.restore_tensor(name)
        np.testing.assert_array_equal(model.logits(IDS), before)
        assert model.info()["memory_used"] < used + 1e6
        with pytest.raises(ValueError, match="was replaced"):
            model.restore_tensor(names[0])


@pytest.mark.parametrize("name", ["blk.0.ffn_down_exps.weight", "token_embd.weight", "output_norm.weight"])
def test_one_tensor_changes_the_logits(tiny_models: dict[str, Path], name: str) -> None:
    with pygrok.load(tiny_models["f32"]) as model:
        before = model.logits(IDS)
        half = data_of(model, name).view(np.float32).copy()
        half[::2] *= 0.5  # not all of it: a norm would undo that
        for _ in range(2):  # a second time in the place of the first
            model.replace_tensor(name, "f32", half.view(np.uint8))
        half[:] = np.nan  # the model has a copy
        changed = model.logits(IDS)
        assert np.isfinite(changed).all()
        assert np.abs(changed - before).max() > 1e-3
        model.restore_tensor(name)
        np.testing.assert_array_equal(model.logits(IDS), before)


def test_sessions_with_a_stale_past(tiny_models: dict[str, Path], tmp_path: Path) -> None:
    name = "blk.0.attn_q.weight"
    with pygrok.load(tiny_models["f32"]) as model:
        session, empty = model.session(), model.session()
        session.feed(IDS)
        expected = session.fork().feed([3])
        data = data_of(model, name).view(np.float32) * np.float32(0.5)
        model.replace_tensor(name, "f32", data.view(np.uint8))
        for stale in (session, session.fork()):
            with pytest.raises(ModelError, match="rewind it to 0"):
                stale.feed([3])
            assert stale.position == len(IDS)
        fresh = empty.feed(IDS)
        with pytest.raises(ModelError, match="replaced tensors"):
            empty.save(tmp_path / "session")
        fork = session.fork()
        fork.rewind(0)
        np.testing.assert_array_equal(fork.feed(IDS), fresh)
        model.restore_tensor(name)
        np.testing.assert_array_equal(session.feed([3]), expected)  # the weights are what they were
        with pytest.raises(ModelError, match="rewind it to 0"):
            fork.feed([3])
        session.save(tmp_path / "session")


def test_refusals(tiny_models: dict[str, Path]) -> None:
    with pygrok.load(tiny_models["f32"]) as model:
        before = model.logits(IDS)
        name = "blk.0.attn_q.weight"
        data = data_of(model, name)
        for tensor, kind, given, message in (
            ("blk.9.nothing", "f32", data, "no tensor named 'blk.9.nothing'"),
            (name, "q9_9", data, "'q9_9' is not a tensor type"),
            (name, "f64", data, "does not run this type"),
            (name, "f32", data[:-1], "f32 takes"),
            (name, "q8_0", data, "q8_0 takes"),
            (name, "f32", data.view(np.float32), "as uint8"),
            ("output_norm.weight", "f16", data_of(model, "output_norm.weight"), "norms are f32"),
        ):
            with pytest.raises(ValueError, match=message):
                model.replace_tensor(tensor, kind, given)
        np.testing.assert_array_equal(model.logits(IDS), before)
    with pytest.raises(ModelError, match="closed"):
        model.replace_tensor(name, "f32", data)
    with pygrok.load(tiny_models["f32"], threads=1) as model:
        expected = model.logits([1])
        used = model.info()["memory_used"]
    # With a short context all still fits, so that no experts give way.
    with pygrok.load(tiny_models["f32"], threads=1, context=1, memory_limit=used + (1 << 16)) as model:
        assert model.info()["paging"]["mode"] == "map"
        big = data_of(model, "token_embd.weight")
        assert len(big) > 1 << 16
        with pytest.raises(MemoryLimit, match="a replaced tensor"):
            model.replace_tensor("token_embd.weight", "f32", big)
        np.testing.assert_array_equal(model.logits([1]), expected)
