"""Sentences that a wording may stand in, by its grammar, and the carelessness of people who type.

``{x}`` is the wording as it is, ``{X}`` with a capital. Held-out frames are never trained.
"""

from __future__ import annotations

import random
import re

TRAINED: dict[str, list[str]] = {
    "q": [
        "{X}?",
        "{X}?",
        "{X}?",
        "{X}?",
        "Please, {x}?",
        "Hey, {x}?",
        "Hi! {X}?",
        "Hello, {x}?",
        "Can you tell me, {x}?",
        "Quick question: {x}?",
        "I have a question: {x}?",
        "{X}, please?",
        "So, {x}?",
        "OK, {x}?",
        "Nano, {x}?",
        "{X}, Nano?",
        "Now, {x}?",
        "Tell me, {x}?",
        "Question: {x}?",
        "One more question: {x}?",
        "And {x}?",
        "Well, {x}?",
        "Please tell me: {x}?",
        "Say, {x}?",
        "Do you know? {X}?",
        "Another one: {x}?",
        "{X}? Thanks.",
        "Next: {x}?",
        "I forgot: {x}?",
        "Hello Nano. {X}?",
    ],
    "n": [
        "Tell me {x}.",
        "Tell me {x}.",
        "Name {x}.",
        "Give me {x}.",
        "Please tell me {x}.",
        "I want to know {x}.",
        "Do you know {x}?",
        "Can you give me {x}?",
        "{X}?",
        "{X}, please.",
        "Could you tell me {x}?",
        "I need {x}.",
        "What is {x}?",
        "What's {x}?",
        "{X}",
        "Can you tell me {x}?",
        "I would like to know {x}.",
        "Now {x}.",
        "Next, {x}.",
        "Please give me {x}.",
        "Say {x}.",
        "I am looking for {x}.",
        "Hey Nano, tell me {x}.",
        "Do you remember {x}?",
        "Write {x}.",
        "I ask for {x}.",
        "Show me {x}.",
    ],
    "e": [
        "Tell me {x}.",
        "Can you tell me {x}?",
        "Do you know {x}?",
        "I would like to know {x}.",
        "I wonder {x}.",
        "Could you tell me {x}?",
        "Please tell me {x}.",
        "I want to know {x}.",
        "Could you please tell me {x}?",
        "Say {x}.",
        "Will you tell me {x}?",
        "I do not know {x}.",
        "I forgot {x}.",
        "Hey, do you know {x}?",
        "I need to know {x}.",
        "Nano, tell me {x}.",
        "Do you remember {x}?",
        "I have to know {x}.",
        "I ask myself {x}.",
    ],
    "s": [
        "{X}",
        "{X}",
        "{X}",
        "Hey, {x}",
        "Nano, {x}",
        "OK. {X}",
        "Now, {x}",
        "Well, {x}",
        "Next: {x}",
        "And {x}",
    ],
    "i": [
        "{X}",
        "{X}",
        "{X}",
        "{X}",
        "{X}",
        "{X}",
        "Hey, {x}",
        "Nano, {x}",
        "OK, {x}",
        "Well, {x}",
        "So, {x}",
        "{X}, please",
    ],
}

HELD_OUT: dict[str, list[str]] = {
    "q": [
        "Let me ask you: {x}?",
        "Just tell me: {x}?",
        "Hey Nano, {x}?",
        "My question: {x}?",
        "Here is a question: {x}?",
        "Hi Nano, {x}?",
    ],
    "n": [
        "Please name {x}.",
        "Can you name {x}?",
        "Will you tell me {x}?",
        "Could you give me {x}?",
        "Do you happen to know {x}?",
    ],
    "e": [
        "Would you tell me {x}?",
        "Please say {x}.",
        "Can you please tell me {x}?",
        "Do you happen to know {x}?",
        "Hey Nano, tell me {x}.",
    ],
    "s": ["So, {x}", "Hey Nano, {x}", "Please: {x}"],
    "i": ["{X}"],
}


# First words of sentences that are written small inside a sentence.
STARTERS = frozenset(
    [
        "What",
        "Who",
        "Where",
        "When",
        "Why",
        "How",
        "Which",
        "Are",
        "Am",
        "Is",
        "Do",
        "Does",
        "Did",
        "Will",
        "Can",
        "Could",
        "May",
        "Were",
        "Have",
        "Tell",
        "Say",
        "Please",
        "Spell",
        "Calculate",
        "Compute",
        "Find",
        "Work",
        "Double",
        "Halve",
        "Opposite",
        "One",
        "Thanks",
        "Thank",
        "You",
        "That",
        "This",
        "Your",
        "Good",
        "Very",
        "Well",
        "My",
        "Today",
        "Make",
        "Give",
        "Show",
        "Describe",
        "Introduce",
        "Explain",
    ]
)


def capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]


def articles(text: str) -> str:
    """``a`` before a vowel letter becomes ``an``: tables hold bare nouns."""
    return re.sub(r"\b([Aa]) (?=[aeiou][a-z]+)", r"\1n ", text)


def fill(template: str, fact: dict[str, str]) -> str:
    """Put a fact into a wording or reply; ``{Thing}`` takes the value of ``thing`` with a capital."""
    upper = {capitalised(key): capitalised(value) for key, value in fact.items()}
    return articles(template.format_map(upper | fact))


def place(frame: str, wording: str) -> str:
    """Put a wording into a frame; inside a sentence it starts small, unless with a name or ``I``."""
    known = wording.split(" ")[0].rstrip(",.?!:") in STARTERS
    inner = wording[:1].lower() + wording[1:] if known else wording
    return frame.replace("{x}", inner).replace("{X}", capitalised(wording))


def careless(text: str, rng: random.Random) -> str:
    """Type as people do: often without capitals or the mark at the end, sometimes with one too many."""
    draw = rng.random()
    if draw < 0.3:
        text = text.lower()
    elif draw < 0.35:
        text = text[:1].lower() + text[1:]
    draw = rng.random()
    if draw < 0.25:
        text = text.rstrip("?.!")
    elif draw < 0.3:
        text = text.rstrip("?.") + rng.choice(["??", "!", " ?", "...", "?!"])
    return text.strip()
