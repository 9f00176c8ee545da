"""A topic: its facts, its one reply, and the wordings people ask it in.

A wording is tagged with its grammar, which decides the sentences it may stand in (``frames.py``): ``q`` a
question, ``n`` a noun phrase ("the capital of France"), ``e`` an embedded question ("what the capital of
France is"), ``s`` a sentence of its own. ``held_out`` wordings are never trained; the test of held-out
phrasings uses them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Fact = dict[str, str]


@dataclass(frozen=True)
class Topic:
    """One kind of question.

    ``weight`` is its share of the turns; ``follow_up`` asks the same of another fact.
    """

    name: str
    group: str
    facts: list[Fact]
    reply: str
    wordings: list[str]
    held_out: list[str]
    weight: float = 1.0
    follow_up: list[str] = field(default_factory=list)


def lines(text: str) -> list[str]:
    """The lines of an indented block of text."""
    return [line.strip() for line in text.strip().split("\n") if line.strip()]
