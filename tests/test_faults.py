"""Files that are cut short, restored or replaced while mapped: one clear error, and the process lives on."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_evaluation import header_of

import pygrok
from pygrok import FormatError, _core
from pygrok.quantize import convert, verify
from pygrok.quantize.imatrix import ImportanceMatrix
from pygrok.quantize.imatrix_files import Contents, Entry, write_file
from pygrok.quantize.plan import PlannedTensor
from pygrok.quantize.tensor_reader import SourceMatrix, TensorReader
from pygrok.reference_file import ReferenceFile, ReferenceWriter

CUT = "was cut from [0-9]+ to [0-9]+ bytes while in use: put the whole file back, then load it again$"
IDS = [5, 6, 7]


@pytest.fixture(params=["f32", "q4_0"])
def path(request: pytest.FixtureRequest, tiny_models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copy(tiny_models[request.param], tmp_path / "model.gguf"))


def cut(path: Path, share: float = 0.3) -> None:
    os.truncate(path, int(path.stat().st_size * share))


def assert_refused(call: Callable[[], object], path: Path, match: str = CUT) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        call()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_model_that_is_cut_short_is_refused(path: Path, tiny_model: Path, threads: int) -> None:
    with pygrok.load(path, threads=threads) as model, pygrok.load(tiny_model) as other:
        expected = other.logits(IDS)
        session = model.session()
        session.feed(IDS)
        cut(path)
        for call in (
            lambda: session.feed(IDS),
            lambda: model.logits(IDS),
            lambda: model.score(IDS),
            lambda: model.feed_many([(session, IDS), (model.session(), IDS)]),
            lambda: model.generate("a", max_tokens=3),
        ):
            assert_refused(call, path)
        assert session.position == len(IDS)
        assert session.ids == tuple(IDS)
        np.testing.assert_array_equal(other.logits(IDS), expected)


def test_a_model_that_is_cut_short_while_it_computes(path: Path) -> None:
    with pygrok.load(path, threads=3) as model:
        session = model.session()
        ids = np.arange(300) % 90 + 4

        def cut_soon() -> None:
            time.sleep(0.2)
            cut(path, 0.2)

        thread = threading.Thread(target=cut_soon)
        thread.start()

        def compute() -> None:
            for _ in range(100_000):
                session.rewind(0)
                session.feed(ids)

        assert_refused(compute, path)
        thread.join()
        assert session.position == 0


def test_sessions_survive_the_model(path: Path, tmp_path: Path) -> None:
    """What was computed can be saved, and goes on bit by bit on the model loaded anew."""
    whole = path.read_bytes()
    saved = tmp_path / "session"
    with pygrok.load(path) as model:
        session = model.session()
        session.feed(IDS)
        fork = session.fork()
        expected = fork.feed([8])
        cut(path, 0.01)
        assert_refused(lambda: session.feed([8]), path)
        session.fork().save(saved)
    path.write_bytes(whole)
    with pygrok.load(path) as model:
        np.testing.assert_array_equal(model.session(saved).feed([8]), expected)


def test_a_broken_model_stays_refused_until_it_is_loaded_again(path: Path) -> None:
    whole = path.read_bytes()
    with pygrok.load(path) as model:
        expected = model.logits(IDS)
        cut(path)
        assert_refused(lambda: model.logits(IDS), path)
        with path.open("r+b") as file:
            file.write(whole)
        assert_refused(
            lambda: model.logits(IDS), path, "could not be read while in use, .* then load it again$"
        )
        with pygrok.load(path) as again:
            np.testing.assert_array_equal(again.logits(IDS), expected)


@pytest.mark.parametrize("remove", [False, True])
def test_a_replaced_file_changes_nothing(path: Path, tiny_models: dict[str, Path], remove: bool) -> None:
    """The mapping keeps the old file, as long as the new one has another inode."""
    with pygrok.load(path) as model:
        expected = model.logits(IDS)
        if remove:
            path.unlink()
        else:
            Path(shutil.copy(tiny_models["bf16"], path.with_name("new"))).replace(path)
        np.testing.assert_array_equal(model.logits(IDS), expected)
        model.file.check()


def test_views_of_a_file(path: Path) -> None:
    size = path.stat().st_size
    for _ in range(20):  # ranges are guarded anew
        _core.GgufFile(str(path)).check()
    file, other = _core.GgufFile(str(path)), _core.GgufFile(str(path))
    last = max(file.tensors, key=lambda tensor: tensor.offset)
    before = file.data(last.name)
    copy = before.copy()
    assert copy.any()
    cut(path, 0.5)
    file.check()  # nothing was read yet
    assert not before.any()
    assert_refused(file.check, path)
    assert_refused(lambda: file.data(last.name), path)
    other.check()
    del before
    os.truncate(path, size)
    _core.GgufFile(str(path)).check()


def test_metadata_of_a_file(path: Path) -> None:
    file = _core.GgufFile(str(path))
    tokens = file.get("tokenizer.ggml.tokens")
    assert len(tokens) == 400
    # Hostile lengths in the place of the strings
    raw = path.read_bytes()
    at = raw.index(b"tokenizer.ggml.tokens") + 100
    with path.open("r+b") as out:
        out.seek(at)
        out.write(b"\xff" * 64)
    with pytest.raises(FormatError, match="written over while in use: load it again"):
        file.get("tokenizer.ggml.tokens")
    os.truncate(path, 0)
    assert_refused(lambda: file.get("tokenizer.ggml.tokens"), path, "was cut|written over")
    assert_refused(file.check, path)


def test_mapped_file(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    pages = np.arange(5 * 65536, dtype=np.uint32)
    pages.tofile(path)
    file = _core.MappedFile(path)
    assert len(file) == pages.nbytes
    np.testing.assert_array_equal(file.data.view(np.uint32), pages)
    file.prefetch(5000, 70000)
    file.drop(5000, 70000)
    with pytest.raises(ValueError, match="read-only"):
        file.data[0] = 1
    os.truncate(path, 65536 + 100)
    view = file.data.view(np.uint32)
    # From the far end backwards: what was cut is zeros, the rest as it was
    assert [int(view[i]) for i in (-1, 3 * 65536, 2 * 65536)] == [0, 0, 0]
    np.testing.assert_array_equal(view[:16384], pages[:16384])
    assert_refused(file.check, path)
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(FormatError, match="empty"):
        _core.MappedFile(empty)
    with pytest.raises(FileNotFoundError):
        _core.MappedFile(tmp_path / "absent")


@pytest.mark.parametrize("type", ["q8_0", "f32"])
@pytest.mark.parametrize("tensor", ["blk.1.ffn_up_exps.weight", "blk.0.attn_q.weight"])
def test_conversion_of_a_source_that_is_cut_short(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, type: str, tensor: str
) -> None:
    source = Path(shutil.copy(tiny_models["f32"], tmp_path / "source.gguf"))
    matrix = TensorReader.matrix

    def matrix_then_cut(reader: TensorReader, index: int) -> SourceMatrix:
        found = matrix(reader, index)
        if reader.name == tensor:
            os.truncate(source, 4096)
        return found

    monkeypatch.setattr(TensorReader, "matrix", matrix_then_cut)
    assert_refused(lambda: convert(source, tmp_path / "out.gguf", type=type), source)
    assert not (tmp_path / "out.gguf").exists()


def test_conversion_of_a_checkpoint_that_is_cut_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from checkpoints import ALIGNED, make_checkpoint

    source = make_checkpoint(tmp_path / "checkpoint", **ALIGNED)
    matrix = TensorReader.matrix

    def matrix_then_cut(reader: TensorReader, index: int) -> SourceMatrix:
        found = matrix(reader, index)
        if "ffn_down_exps" in reader.name:
            os.truncate(reader.matrices[index].path, 300)
        return found

    monkeypatch.setattr(TensorReader, "matrix", matrix_then_cut)
    out = tmp_path / "out.gguf"
    assert_refused(lambda: convert(source, out, type="q4_0", no_tokenizer=True), source / "ckpt-0")
    assert not out.exists()


def test_verification_of_a_result_that_is_cut_short(
    tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.gguf"
    written = verify._written

    def written_then_cut(file: _core.GgufFile, tensor: PlannedTensor, index: int) -> SourceMatrix:
        found = written(file, tensor, index)
        os.truncate(file.paths[0], 4096)
        return found

    monkeypatch.setattr(verify, "_written", written_then_cut)
    call = lambda: convert(tiny_models["f32"], out, type="q8_0", verify=True)  # noqa: E731
    assert_refused(call, tmp_path)
    assert not out.exists()


def test_importance_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    sums = np.ones((1, 100_000), np.float32)
    write_file(path, Contents({"a.weight": Entry(sums, np.array([7.0]))}, 512), chunks=1)
    matrix = ImportanceMatrix.load(path)
    assert matrix.importance("a.weight") is not None
    cut(path)
    assert_refused(lambda: matrix.importance("a.weight"), path)
    assert_refused(lambda: matrix.merge(matrix), path)


def test_saved_logits_that_are_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "logits"
    with ReferenceWriter(path, header_of(4, 30_000)) as writer:
        writer.append(np.random.default_rng(0).normal(size=(3, 30_000)).astype(np.float32))
    file = ReferenceFile(path)
    assert np.isfinite(file.rows(0, 3)).all()
    cut(path)
    assert_refused(lambda: file.rows(1, 3), path)
