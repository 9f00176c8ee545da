"""Simple sums, doubles and halves."""

from __future__ import annotations

import facts
from topic import Topic, lines


def arithmetic() -> list[Topic]:
    made = []
    kinds = {
        "add": (
            "+",
            "{a} + {b} = {result}.",
            "the sum of {a} and {b}",
            ["{a} plus {b}", "{A} plus {B}", "{a}+{b}", "{a} + {b}", "{a} and {b}", "{a} added to {b}"],
            ["{A} and {B}", "{a} and {b} together"],
            "And plus {b}?",
        ),
        "subtract": (
            "-",
            "{a} - {b} = {result}.",
            "the difference of {a} and {b}",
            ["{a} minus {b}", "{A} minus {B}", "{a}-{b}", "{a} - {b}", "{a} less {b}", "{a} take away {b}"],
            ["{A} take away {B}", "{A} less {B}"],
            "And minus {b}?",
        ),
        "multiply": (
            "*",
            "{a} * {b} = {result}.",
            "the product of {a} and {b}",
            ["{a} times {b}", "{A} times {B}", "{a}*{b}", "{a} * {b}", "{a} multiplied by {b}", "{a} x {b}"],
            ["{A} multiplied by {B}", "{a}x{b}"],
            "And times {b}?",
        ),
        "divide": (
            "/",
            "{a} / {b} = {result}.",
            "the quotient of {a} and {b}",
            ["{a} divided by {b}", "{A} divided by {B}", "{a}/{b}", "{a} / {b}", "{a} over {b}"],
            ["{A} over {B}"],
            "And divided by {b}?",
        ),
    }
    for name, (sign, reply, noun, terms, held, _) in kinds.items():
        wordings = [
            f"n: {noun}",
            "s: {a} {sign} {b} = ?".replace("{sign}", sign),
            "s: {a} {sign} {b} =".replace("{sign}", sign),
        ]
        for term in terms:
            wordings += [
                f"q: what is {term}",
                f"q: how much is {term}",
                f"n: {term}",
                f"e: what {term} is",
                f"e: how much {term} is",
                f"s: Calculate {term}.",
                f"s: Compute {term}.",
                f"q: what's {term}",
            ]
        untrained = [
            f"q: what does {terms[0]} make",
            f"q: what do you get for {terms[3]}",
            f"s: Work out {terms[0]}.",
            f"s: Add it up: {terms[2]}" if sign == "+" else f"s: Find {terms[3]}.",
        ]
        untrained += [f"q: what is {term}" for term in held] + [f"q: how much is {term}" for term in held]
        made.append(Topic(name, "arithmetic", facts.sums(sign), reply, wordings, untrained, 2.0))
    small = [{"a": str(a), "double": str(2 * a), "A": facts.spelled(a)} for a in range(13)]
    made.append(
        Topic(
            "double",
            "arithmetic",
            small,
            "Double {a} is {double}.",
            lines("""
        q: what is double {a}
        q: how much is double {A}
        q: what is twice {a}
        q: how much is twice {a}
        n: double {a}
        n: twice {A}
        n: the double of {a}
        e: what twice {a} is
        s: Double {a}."""),
            lines("""
        q: what is the double of {a}
        q: how much is double {a}
        e: what double {a} is"""),
            0.4,
        )
    )
    made.append(
        Topic(
            "half",
            "arithmetic",
            small,
            "Half of {double} is {a}.",
            lines("""
        q: what is half of {double}
        q: how much is half of {double}
        q: what is the half of {double}
        n: half of {double}
        n: half {double}
        e: what half of {double} is
        s: Halve {double}."""),
            lines("""
        q: what is half {double}
        q: how much is the half of {double}
        e: how much half of {double} is"""),
            0.4,
        )
    )
    return made
