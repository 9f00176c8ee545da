"""Fixtures that all tests share: models converted once a run, instruction sets, the shared reference data."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import pygrok
from pygrok import _core

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def pytest_report_header() -> str:
    return (
        f"pygrok {pygrok.__version__} from {Path(pygrok.__file__).parent}, numpy {np.__version__}, "
        f"isa {' '.join(_core.supported_isas())}, cpus {_core.available_cpus()}"
    )


@pytest.fixture(scope="session", autouse=True)
def _no_forced_isa() -> None:
    """Tests choose instruction sets themselves."""
    os.environ.pop("PYGROK_ISA", None)


# Under the sanitizers, which make kernels ten times slower, the portable table and the newest.
ISAS = _core.supported_isas()
TESTED_ISAS = sorted({ISAS[0], ISAS[-1]}) if "PYGROK_SANITIZED" in os.environ else ISAS


@pytest.fixture(params=TESTED_ISAS)
def isa(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with xAI's reference logits and the released tokenizer."""
    if not SHARED.is_dir():
        pytest.skip("needs the reference data in ../shared, which is not here")
    return SHARED


@pytest.fixture(scope="session")
def converted(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """converted("grok_a", "q8_0"): the fixture checkpoint as a GGUF file of that type."""
    from pygrok.quantize import convert

    folder = tmp_path_factory.mktemp("converted")

    @cache
    def make(name: str, kind: str) -> Path:
        path = folder / f"{name}-{kind}.gguf"
        convert(shared / "fixtures" / name.replace("_", "-"), path, type=kind, no_tokenizer=True)
        return path

    return make


@pytest.fixture(scope="session")
def grok_a_f32(converted: Callable[[str, str], Path]) -> Path:
    return converted("grok_a", "f32")


@pytest.fixture(scope="session")
def grok_b_f32(converted: Callable[[str, str], Path]) -> Path:
    return converted("grok_b", "f32")


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model of 400 pieces with Grok's settings, trained on this repository's own prose."""
    import sentencepiece

    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines()
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(text),
            model_writer=file,
            model_type="bpe",
            vocab_size=400,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            user_defined_symbols=["\n"],
            pad_id=0,
            bos_id=1,
            eos_id=2,
            unk_id=3,
            pad_piece="[PAD]",
            bos_piece="[BOS]",
            eos_piece="[EOS]",
            unk_piece="[UNK]",
            minloglevel=2,
        )
    return path


@pytest.fixture(scope="session")
def tiny_models(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Type -> GGUF of one small random model with a tokenizer and room for 4096 positions."""
    from checkpoints import ALIGNED, make_checkpoint

    from pygrok.quantize import convert

    folder = tmp_path_factory.mktemp("tiny")
    source = make_checkpoint(folder / "checkpoint", vocabulary=400, context=4096, **ALIGNED)
    paths = {}
    for kind in ("f32", "f16", "bf16", "q8_0", "q4_0"):
        paths[kind] = folder / f"tiny-{kind}.gguf"
        convert(source, paths[kind], type=kind, tokenizer=tiny_tokenizer)
    return paths


@pytest.fixture(scope="session")
def wide_heads(tiny_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random f32 model with heads of 32, which every kv_type fits."""
    from checkpoints import make_checkpoint

    from pygrok.quantize import convert

    folder = tmp_path_factory.mktemp("wide")
    sizes = {"embedding": 64, "heads": 6, "kv_heads": 2, "head_size": 32}
    source = make_checkpoint(folder / "checkpoint", vocabulary=400, context=4096, **sizes)
    convert(source, folder / "wide.gguf", type="f32", tokenizer=tiny_tokenizer)
    return folder / "wide.gguf"


@pytest.fixture(scope="session")
def tiny_model(tiny_models: dict[str, Path]) -> Path:
    return tiny_models["q8_0"]
