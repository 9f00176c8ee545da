"""The questions Nano is tested with: trained phrasings, held-out pairs, held-out phrasings, conversations."""

from __future__ import annotations

import argparse
import json
import random
import re
from functools import lru_cache
from pathlib import Path

import frames
from dialogues import (
    DEFAULT_SYSTEM,
    INTENT_SHARE,
    Turn,
    dialogue,
    factual_turn,
    held_out_pair,
    intent_turn,
    phrase,
    render,
)
from smalltalk import INTENTS
from topic import Fact, Topic
from topics import topics


def normalised(text: str) -> str:
    return re.sub(r"[^\w+*/ -]", "", text.lower()).strip()


def trainable(topic: Topic, fact: Fact, text: str) -> bool:
    """Whether a question of training about the fact reads like ``text``, give or take case and marks.

    Different wordings can make the same sentence: "What is" before one, "the capital of" inside another.
    """
    wanted = normalised(text)
    return any(
        normalised(phrase(topic, wording, frame, fact).user) == wanted
        for wording in topic.wordings
        if not held_out_pair(topic, wording, fact)
        for frame in frames.TRAINED[wording[0]]
    )


@lru_cache(maxsize=1)
def trained_small_talk() -> frozenset[str]:
    """Every sentence of small talk that training may say."""
    wordings = [wording for _, trained, _ in INTENTS.values() for wording in trained.split("|")]
    return frozenset(
        normalised(frames.place(frame, wording)) for wording in wordings for frame in frames.TRAINED["i"]
    )


def held_out_small_talk(rng: random.Random) -> Turn:
    while True:
        turn = intent_turn(rng, held_out=True)
        if normalised(turn.user) not in trained_small_talk():
            return turn


def test_turn(rng: random.Random, kind: str) -> Turn:
    """One question of ``trained``, ``pairs`` (known phrasing, pair never trained) or ``phrasing``."""
    if rng.random() < INTENT_SHARE and kind != "pairs":
        return held_out_small_talk(rng) if kind == "phrasing" else intent_turn(rng)
    everything = topics()
    while True:
        topic = rng.choices(everything, [topic.weight for topic in everything])[0]
        fact = rng.choice(topic.facts)
        if kind == "trained":
            return factual_turn(rng, topic, fact)
        if kind == "pairs":
            wording = rng.choice(topic.wordings)
            turn = phrase(topic, wording, rng.choice(frames.TRAINED[wording[0]]), fact)
            if held_out_pair(topic, wording, fact) and not trainable(topic, fact, turn.user):
                return turn
            continue
        # A held-out wording in a trained frame, or the other way round, or both.
        new_wording, new_frame = rng.choice([(True, False), (False, True), (True, True)])
        wording = rng.choice(topic.held_out if new_wording else topic.wordings)
        turn = phrase(
            topic, wording, rng.choice((frames.HELD_OUT if new_frame else frames.TRAINED)[wording[0]]), fact
        )
        if not trainable(topic, fact, turn.user):
            return turn


def test_set(kind: str, count: int, seed: int) -> list[dict[str, str]]:
    """Distinct prompts with the reply expected, half of them after the default system paragraph."""
    rng = random.Random(f"{seed}-{kind}")
    items: dict[str, dict[str, str]] = {}
    while len(items) < count:
        turn = test_turn(rng, kind)
        user = frames.careless(turn.user, rng)
        prompt = render(DEFAULT_SYSTEM if rng.random() < 0.5 else "", [], user)
        items[prompt] = {"prompt": prompt, "reply": turn.reply, "group": turn.group}
    return list(items.values())


def conversations(count: int, seed: int) -> list[dict[str, str]]:
    """The last questions of conversations of three turns and more, each with what was said before."""
    rng = random.Random(f"{seed}-conversation")
    items: list[dict[str, str]] = []
    while len(items) < count:
        sample = dialogue(rng)
        if len(sample.turns) >= 3:
            *before, last = sample.turns
            prompt = render(sample.system, [(t.user, t.reply) for t in before], last.user)
            items.append({"prompt": prompt, "reply": last.reply, "group": last.group})
    return items


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("/tmp/nano"))
    parser.add_argument("--count", type=int, default=800, help="questions in each test set")
    parser.add_argument(
        "--seed", type=int, default=2, help="the sets looked at during training were of seed 1"
    )
    arguments = parser.parse_args()
    sets = {
        kind: test_set(kind, arguments.count, arguments.seed) for kind in ("trained", "pairs", "phrasing")
    }
    sets["conversation"] = conversations(arguments.count, arguments.seed)
    (arguments.work / "tests.json").write_text(
        json.dumps(sets, indent=1, ensure_ascii=False), encoding="utf-8"
    )
    for kind, items in sets.items():
        print(f"{kind}: {len(items)} questions, such as {items[0]['prompt'].splitlines()[-2]!r}")


if __name__ == "__main__":
    main()
