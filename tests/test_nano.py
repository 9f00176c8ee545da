"""The model in the package: its bytes, its record, and that it answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from reference_model import ReferenceModel, mean_kl

import pygrok
from pygrok import SamplingParams
from pygrok.model import default_model_path

QUESTIONS = {
    "What is the capital of France?": "Paris",
    "what is 7 plus 5": "12",
    "Which continent is Kenya in?": "Africa",
    "What is the opposite of hot?": "cold",
    "What is the plural of mouse?": "mice",
    "Who are you?": "Nano",
}


@pytest.fixture(scope="module")
def nano() -> Iterator[pygrok.Model]:
    with pygrok.load() as model:
        yield model


@pytest.fixture(scope="module")
def record() -> dict[str, object]:
    return json.loads(default_model_path().with_suffix(".json").read_text(encoding="utf-8"))


def test_the_file_is_the_recorded_one(record: dict[str, object]) -> None:
    content = default_model_path().read_bytes()
    assert hashlib.sha256(content).hexdigest() == record["sha256"]
    assert len(content) == record["bytes"] <= 16_000_000


def test_the_file_says_how_it_was_made(nano: pygrok.Model, record: dict[str, object]) -> None:
    assert json.loads(nano.metadata("pygrok.nano.recipe")) == record["recipe"]
    assert nano.metadata("pygrok.nano.made_by") == "tools/nano/all.py"
    assert nano.metadata("general.license") == "apache-2.0"


def test_it_is_a_small_grok_1(nano: pygrok.Model) -> None:
    config = nano.config
    assert (config.experts, config.experts_used, config.heads, config.kv_heads) == (8, 2, 16, 8)
    assert nano.context == 2048
    assert set(nano.info()["types"]) == {"q8_0", "f32"}
    # every row divides into blocks of 256, so that every type applies
    assert config.embedding % 256 == config.expert_width % 256 == 0


@pytest.mark.parametrize(("question", "part"), QUESTIONS.items())
def test_it_answers(nano: pygrok.Model, question: str, part: str) -> None:
    chat = pygrok.Chat(nano, sampling=SamplingParams(temperature=0))
    assert part in "".join(chunk.text for chunk in chat.send(question))


def test_a_follow_up_question_needs_the_turn_before(nano: pygrok.Model) -> None:
    chat = pygrok.Chat(nano, sampling=SamplingParams(temperature=0))
    "".join(chunk.text for chunk in chat.send("What is the capital of Kenya?"))
    assert "Lima" in "".join(chunk.text for chunk in chat.send("And of Peru?"))


def test_the_engine_computes_it_as_plain_numpy_does(nano: pygrok.Model) -> None:
    ids = nano.tokenizer.encode(
        "User: What is the capital of Peru?\nAssistant: The capital of Peru is Lima.\n"
    )
    expected = ReferenceModel(default_model_path()).logits(ids)
    with pygrok.load(kv_type="f32") as exact:
        np.testing.assert_allclose(exact.logits(ids), expected, rtol=0, atol=2e-3)
    assert mean_kl(expected, nano.logits(ids)) < 1e-4
    with pygrok.load(activations="int8") as fast:
        assert mean_kl(expected, fast.logits(ids)) < 1e-2


def test_it_expects_english_more_than_noise(nano: pygrok.Model) -> None:
    ids = nano.tokenizer.encode("And God said unto him, Arise, and go forth out of the land of Egypt.")
    shuffled = np.random.default_rng(0).permutation(ids)
    assert nano.score(ids).mean() > nano.score(shuffled).mean() + 2


def test_default_paths_are_files(nano: pygrok.Model) -> None:
    assert Path(nano.path) == default_model_path()
