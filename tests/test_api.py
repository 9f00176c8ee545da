"""The package's surface: public names, what importing costs, opening and closing models."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import pygrok
from pygrok import ModelError, SamplingParams, _core
from pygrok.model import default_model_path


def test_public_names() -> None:
    assert len(set(pygrok.__all__)) == len(pygrok.__all__)
    assert all(hasattr(pygrok, name) for name in pygrok.__all__)
    assert pygrok.__version__ == _core.__version__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pygrok.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_errors_have_the_builtin_kinds() -> None:
    assert issubclass(pygrok.FormatError, ValueError)
    assert issubclass(pygrok.MemoryLimit, MemoryError)
    kinds = ("FormatError", "ModelError", "ContextOverflow", "MemoryLimit", "Cancelled")
    assert all(issubclass(getattr(pygrok, kind), pygrok.PygrokError) for kind in kinds)


def test_quantize_is_imported_when_used(tmp_path: Path) -> None:
    code = (
        "import sys, pygrok; assert 'pygrok.quantize' not in sys.modules; "
        "assert callable(pygrok.quantize.convert)"
    )
    # From an empty folder: in the repository's, python would find the sources, which have no extension.
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_params_can_be_copied_and_pickled() -> None:
    params = SamplingParams(seed=3, logit_bias={4: 1.0})
    assert pickle.loads(pickle.dumps(params)) == params == copy.deepcopy(params)


def test_a_build_without_a_model_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_files(package: str | ModuleType) -> Path:
        return tmp_path

    monkeypatch.setattr("importlib.resources.files", no_files)
    with pytest.raises(ModelError, match="ships no model: give the path"):
        default_model_path()
    with pytest.raises(ModelError, match="ships no model"):
        pygrok.load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"threads": 2.5}, r"threads is 2\.5"),
        ({"context": -1}, "context is -1"),
        ({"context": True}, "context is True"),
        ({"memory_limit": "much"}, "memory_limit is 'much'"),
        ({"kv_type": "f8"}, "f8.*f32.*f16.*q8_0"),
        ({"kv_type": "q8_0"}, r"tiny-q8_0\.gguf: kv_type 'q8_0'.*blocks of 32.*heads have \d+: choose f32"),
        ({"isa": "mmx"}, "mmx.*scalar"),
    ],
)
def test_options_are_checked(tiny_model: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pygrok.load(tiny_model, **options)


def test_missing_and_wrong_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.gguf"):
        pygrok.load(tmp_path / "none.gguf")
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"not a model at all, but long enough")
    with pytest.raises(pygrok.FormatError, match=r"wrong\.gguf"):
        pygrok.load(wrong)


def test_closed_models_say_so(tiny_model: Path) -> None:
    with pygrok.load(tiny_model) as model:
        session = model.session()
        session.feed([5])
    model.close()
    assert "closed" in repr(model)
    for use in (
        lambda: model.logits([5]),
        lambda: model.score([5, 6]),
        lambda: model.generate([5]),
        lambda: model.session(),
        lambda: model.info(),
        lambda: model.tokenizer,
        lambda: session.feed([5]),
        lambda: session.fork(),
        lambda: session.rewind(0),
        lambda: pygrok.Chat(model),
    ):
        with pytest.raises(ModelError, match=r"tiny.*the model is closed: load it again"):
            use()
    model.cancel()


def test_info(tiny_model: Path) -> None:
    with pygrok.load(tiny_model, context=100, kv_type="f32") as model:
        info, config = model.info(), model.config
        assert info["file_bytes"] == tiny_model.stat().st_size
        assert (info["context"], info["kv_type"]) == (100, "f32")
        assert info["kv_bytes_per_position"] == 2 * 4 * config.layers * config.kv_heads * config.head_size
        assert 0 < info["bytes_per_token"] < sum(t["bytes"] for t in info["types"].values())
        assert info["hyperparameters"]["layers"] == config.layers
        assert info["tokenizer"]["pieces"] == model.tokenizer.vocab_size
