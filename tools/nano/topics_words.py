"""Opposites, plurals, spelling, colours, and a little about animals."""

from __future__ import annotations

import facts
from topic import Topic, lines


def words() -> list[Topic]:
    follow = [
        "And {word}?",
        "What about {word}?",
        "And of {word}?",
        "How about {word}?",
        "Now {word}.",
        "And for {word}?",
    ]
    return [
        Topic(
            "opposite",
            "opposites",
            facts.opposites(),
            "The opposite of {word} is {opposite}.",
            lines("""
            q: what is the opposite of {word}
            q: what's the opposite of {word}
            q: which word is the opposite of {word}
            q: what is the antonym of {word}
            q: which word means the opposite of {word}
            q: what word is opposite to {word}
            q: what is the contrary of {word}
            q: what is not {word}
            n: the opposite of {word}
            n: the antonym of {word}
            n: opposite of {word}
            n: a word that means the opposite of {word}
            n: the opposite of the word {word}
            e: what the opposite of {word} is
            e: which word is the opposite of {word}
            s: Opposite of {word}?"""),
            lines("""
            q: what word means the opposite of {word}
            q: what is the opposite of the word {word}
            q: what word is the antonym of {word}
            n: an antonym of {word}
            n: the word that is the opposite of {word}
            e: what the antonym of {word} is"""),
            2.0,
            follow,
        ),
        Topic(
            "plural",
            "plurals",
            facts.pairs(facts.PLURALS, "word", "plural"),
            "The plural of {word} is {plural}.",
            lines("""
            q: what is the plural of {word}
            q: what's the plural of {word}
            q: what is the plural form of {word}
            q: how do you write the plural of {word}
            q: how do you form the plural of {word}
            q: what is the plural of the word {word}
            q: what do you call more than one {word}
            q: one {word}, two what
            n: the plural of {word}
            n: the plural form of {word}
            n: plural of {word}
            n: the plural of the word {word}
            e: what the plural of {word} is
            e: how to form the plural of {word}
            s: One {word}, many ...?"""),
            lines("""
            q: what is the plural form of the word {word}
            q: how do I form the plural of {word}
            q: one {word}, many what
            n: the plural form of the word {word}
            e: what the plural form of {word} is"""),
            2.0,
            follow,
        ),
        Topic(
            "spelling",
            "spelling",
            facts.spellings(),
            "{Word} is spelled {letters}.",
            lines("""
            q: how do you spell {word}
            q: how is {word} spelled
            q: how do you write {word}
            q: how do I spell {word}
            q: how is the word {word} spelled
            q: what is the spelling of {word}
            q: which letters are in {word}
            n: the spelling of {word}
            n: the letters of {word}
            n: the spelling of the word {word}
            e: how to spell {word}
            e: how {word} is spelled
            e: how you spell {word}
            s: Spell {word}.
            s: Please spell {word}.
            s: Spell the word {word}.
            s: Can you spell {word}?"""),
            lines("""
            q: how do you spell the word {word}
            q: how should I spell {word}
            q: what are the letters of {word}
            n: the letters of the word {word}
            e: how the word {word} is spelled
            s: Could you spell {word}?
            s: Please spell the word {word}."""),
            2.0,
            ["And {word}?", "What about {word}?", "Now {word}.", "And how about {word}?"],
        ),
        Topic(
            "colour",
            "colours",
            facts.pairs(facts.COLOURS, "thing", "colour"),
            "{Thing} is {colour}.",
            lines("""
            q: what colour is {thing}
            q: what color is {thing}
            q: which colour is {thing}
            q: what is the colour of {thing}
            q: what is the color of {thing}
            q: which color does {thing} have
            q: {thing} has which colour
            n: the colour of {thing}
            n: the color of {thing}
            e: what colour {thing} is
            e: what color {thing} is
            e: which colour {thing} has
            s: {thing}: what colour?"""),
            lines("""
            q: which color is {thing}
            q: what colour does {thing} have
            q: what's the colour of {thing}
            n: the colour that {thing} has
            e: which color {thing} is"""),
            1.5,
            ["And {thing}?", "What about {thing}?", "How about {thing}?"],
        ),
    ]


def animals() -> list[Topic]:
    return [
        Topic(
            "young",
            "animals",
            facts.pairs(facts.YOUNG, "animal", "young"),
            "A young {animal} is called {young}.",
            lines("""
            q: what is a young {animal} called
            q: what is a baby {animal} called
            q: what do you call a baby {animal}
            q: what do you call a young {animal}
            q: what is the name for a baby {animal}
            n: the name of a baby {animal}
            n: the word for a young {animal}
            e: what a baby {animal} is called
            e: what you call a young {animal}"""),
            lines("""
            q: what is the name of a young {animal}
            q: what is the word for a baby {animal}
            q: how do you call a young {animal}
            n: the name of a young {animal}
            e: what a young {animal} is called"""),
            1.0,
            ["And a {animal}?", "What about a {animal}?"],
        ),
        Topic(
            "legs",
            "animals",
            facts.pairs(facts.LEGS, "animal", "legs"),
            "A {animal} has {legs} legs.",
            lines("""
            q: how many legs does a {animal} have
            q: how many legs has a {animal}
            q: how many legs are on a {animal}
            q: what number of legs does a {animal} have
            n: the number of legs of a {animal}
            e: how many legs a {animal} has"""),
            lines("""
            q: a {animal} has how many legs
            n: the number of legs a {animal} has
            e: how many legs are on a {animal}"""),
            1.0,
            ["And a {animal}?", "What about a {animal}?"],
        ),
    ]
