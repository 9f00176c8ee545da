"""Generate Nano's dialogues: single questions and conversations of several turns, and the held-out test sets.

Held out of training are whole phrasings (wordings and frames marked so) and, for the trained wordings, every
tenth (fact, wording) pair, in whatever frame.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

import frames
from facts import NAMES
from smalltalk import INTENTS
from topic import Fact, Topic
from topics import topics

DEFAULT_SYSTEM = (
    "A conversation between a curious user and a helpful assistant. "
    "The assistant gives short, honest answers."
)
OTHER_SYSTEMS = (
    "You are Nano, a small and friendly assistant.",
    "The assistant is called Nano. It answers in one sentence.",
    "A chat between a user and an assistant.",
    "The following is a conversation with a helpful assistant.",
)
QUESTION = re.compile(
    r"^(hello, |hi, |hey, )?(who|what|whom|by whom|on what|which|where|when|why|how|"
    r"are|am|is|do|does|did|will|can|could|may|were|have)\b",
    re.IGNORECASE,
)
# The largest share of the turns that are greetings, small talk and questions about Nano.
INTENT_SHARE = 0.2
# Sums and remembered names take longest to learn, so training asks for them more often than the tests do.
ARITHMETIC_BOOST = 3.5
MEMORY_SHARE = 0.12


@dataclass(frozen=True)
class Turn:
    """One question with its reply, and where it came from."""

    user: str
    reply: str
    group: str
    topic: Topic | None = None
    fact: Fact | None = None


@dataclass(frozen=True)
class Dialogue:
    system: str
    turns: list[Turn]


def held_out_pair(topic: Topic, wording: str, fact: Fact) -> bool:
    """Whether this wording is never asked about this fact in training."""
    digest = hashlib.md5(
        f"{topic.name}|{wording}|{sorted(fact.items())}".encode(), usedforsecurity=False
    ).digest()
    return digest[0] % 10 == 0


def phrase(topic: Topic, wording: str, frame: str, fact: Fact) -> Turn:
    """The turn that a fact, a wording and a frame make."""
    user = frames.place(frame, frames.fill(wording[3:], fact))
    reply = frames.capitalised(frames.fill(topic.reply, fact))
    return Turn(frames.capitalised(user), reply, topic.group, topic, fact)


def factual_turn(rng: random.Random, topic: Topic, fact: Fact | None = None) -> Turn:
    """A question of the training set."""
    while True:
        chosen = fact or rng.choice(topic.facts)
        wording = rng.choice(topic.wordings)
        if not held_out_pair(topic, wording, chosen):
            return phrase(topic, wording, rng.choice(frames.TRAINED[wording[0]]), chosen)


def punctuated(text: str, rng: random.Random) -> str:
    """Give a small-talk sentence its closing mark, mostly."""
    if text[-1] in "?!." or rng.random() < 0.1:
        return text
    return text + ("?" if QUESTION.match(text) else rng.choice([".", "!", ""]))


def intent_turn(rng: random.Random, held_out: bool = False) -> Turn:
    """Small talk. Intents with many wordings come more often."""
    replies = list(INTENTS)
    reply = rng.choices(replies, [len(INTENTS[r][1].split("|")) ** 0.5 for r in replies])[0]
    group, trained, untrained = INTENTS[reply]
    text = rng.choice((untrained if held_out else trained).split("|"))
    if not held_out:
        text = frames.place(rng.choice(frames.TRAINED["i"]), text)
    return Turn(punctuated(text, rng), reply, group)


def first_turn(rng: random.Random) -> Turn:
    if rng.random() < INTENT_SHARE:
        return intent_turn(rng)
    everything = topics()
    weights = [t.weight * (ARITHMETIC_BOOST if t.group == "arithmetic" else 1.0) for t in everything]
    return factual_turn(rng, rng.choices(everything, weights)[0])


def by_name(name: str) -> Topic:
    return next(topic for topic in topics() if topic.name == name)


def follow_up(rng: random.Random, last: Turn) -> Turn | None:
    """A short question that only the turn before it makes plain, or None where there is none."""
    topic, fact = last.topic, last.fact
    if topic is None or fact is None:
        return None
    other = {"capital": "continent", "continent": "capital"}.get(topic.name)
    if other and rng.random() < 0.4:
        asked = {
            "continent": [
                "And which continent is it in?",
                "Which continent is that in?",
                "Where is that?",
                "And where is it?",
                "On which continent is it?",
                "What continent is that?",
            ],
            "capital": [
                "And what is its capital?",
                "What is its capital?",
                "And the capital?",
                "What is the capital there?",
                "And its capital?",
                "Which city is its capital?",
            ],
        }[other]
        target = by_name(other)
        reply = frames.capitalised(frames.fill(target.reply, fact))
        return Turn(rng.choice(asked), reply, target.group, target, fact)
    cycle = re.fullmatch(r"(day|month)_(after|before)", topic.name)
    if cycle and rng.random() < 0.6:
        fact = next(f for f in topic.facts if f["day"] == fact[cycle[2]])
        user = rng.choice(
            [f"And {cycle[2]} that?", f"And {cycle[2]} {fact['day']}?", f"What comes {cycle[2]} that?"]
        )
        return Turn(user, frames.fill(topic.reply, fact), topic.group, topic, fact)
    if topic.follow_up:
        fact = rng.choice(topic.facts)
        user = frames.capitalised(frames.fill(rng.choice(topic.follow_up), fact))
        return Turn(user, frames.capitalised(frames.fill(topic.reply, fact)), topic.group, topic, fact)
    return None


def name_turns(rng: random.Random) -> tuple[Turn, Turn]:
    """The user gives a name and asks for it again later."""
    name = rng.choice(NAMES)
    given = rng.choice(
        [
            "My name is {}.",
            "I am {}.",
            "I am called {}.",
            "Hello, I am {}.",
            "Hi, my name is {}.",
            "Call me {}.",
            "You can call me {}.",
            "Hello! My name is {}.",
            "I'm {}.",
        ]
    )
    asked = rng.choice(
        [
            "What is my name?",
            "Who am I?",
            "Do you know my name?",
            "Do you remember my name?",
            "What's my name?",
            "Tell me my name.",
            "What am I called?",
            "And what is my name?",
            "Can you tell me my name?",
        ]
    )
    return (
        Turn(given.format(name), f"Nice to meet you, {name}!", "memory"),
        Turn(asked, f"Your name is {name}.", "memory"),
    )


def dialogue(rng: random.Random) -> Dialogue:
    """A conversation of the training set, one to six turns."""
    length = rng.choices((1, 2, 3, 4, 5, 6), (45, 18, 13, 10, 8, 6))[0]
    turns: list[Turn] = []
    while len(turns) < length:
        following = follow_up(rng, turns[-1]) if turns and rng.random() < 0.4 else None
        turns.append(following or first_turn(rng))
    if rng.random() < MEMORY_SHARE:
        given, asked = name_turns(rng)
        place = rng.randrange(len(turns) + 1)
        turns = [*turns[:place], given, *turns[place:], asked]
    turns = [Turn(frames.careless(t.user, rng), t.reply, t.group, t.topic, t.fact) for t in turns]
    draw = rng.random()
    system = DEFAULT_SYSTEM if draw < 0.35 else rng.choice(OTHER_SYSTEMS) if draw < 0.45 else ""
    return Dialogue(system, turns)


def dialogues(seed: int) -> Iterator[Dialogue]:
    """The endless training stream."""
    rng = random.Random(seed)
    while True:
        yield dialogue(rng)


def render(system: str, turns: list[tuple[str, str]], question: str) -> str:
    """The prompt that asks ``question``, in the project's chat template."""
    head = f"{system}\n\n" if system else ""
    return (
        head
        + "".join(f"User: {user}\nAssistant: {reply}\n" for user, reply in turns)
        + f"User: {question}\nAssistant:"
    )
