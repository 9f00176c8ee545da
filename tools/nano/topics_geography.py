"""Questions about countries: capitals, both ways round, and continents."""

from __future__ import annotations

import countries
from topic import Topic, lines


def geography() -> list[Topic]:
    table = countries.countries()
    follow = [
        "And {country}?",
        "What about {country}?",
        "And what about {country}?",
        "How about {country}?",
        "And for {country}?",
        "Now {country}.",
        "{country}?",
        "And of {country}?",
    ]
    return [
        Topic(
            "capital",
            "capitals",
            table,
            "The capital of {country} is {capital}.",
            lines("""
            q: what is the capital of {country}
            q: which city is the capital of {country}
            q: what city is the capital of {country}
            q: what's the capital of {country}
            q: what is the capital city of {country}
            q: which is the capital of {country}
            q: what is the name of the capital of {country}
            q: what capital does {country} have
            q: where is the government of {country}
            n: the capital of {country}
            n: the capital city of {country}
            n: the name of the capital of {country}
            n: {country}'s capital
            n: capital of {country}
            e: what the capital of {country} is
            e: which city is the capital of {country}
            e: what the capital city of {country} is
            e: what city is the capital of {country}
            s: {country}: what is the capital?
            s: What is {country}'s capital city?"""),
            lines("""
            q: what city serves as the capital of {country}
            q: what is {country}'s capital
            q: which city is {country}'s capital
            q: what is the capital of the country {country}
            q: how is the capital of {country} called
            n: {country}'s capital city
            e: what is the capital of {country}
            s: {country}, what is its capital?"""),
            4.0,
            follow,
        ),
        Topic(
            "country",
            "capitals",
            [f for f in table if f["capital"] not in f["country"]],
            "{capital} is the capital of {country}.",
            lines("""
            q: {capital} is the capital of which country
            q: which country has the capital {capital}
            q: what country is {capital} the capital of
            q: which country is {capital} the capital of
            q: of which country is {capital} the capital
            q: what country has {capital} as its capital
            q: which country's capital is {capital}
            q: {capital} is the capital of what country
            n: the country whose capital is {capital}
            n: the country with the capital {capital}
            e: which country has the capital {capital}
            e: which country {capital} is the capital of
            e: what country {capital} is the capital of"""),
            lines("""
            q: which country has {capital} as its capital
            q: what country has the capital {capital}
            q: {capital} is the capital city of which country
            n: the country that has {capital} as its capital
            e: of which country {capital} is the capital"""),
            2.0,
            ["And {capital}?", "What about {capital}?"],
        ),
        Topic(
            "continent",
            "continents",
            table,
            "{country} is in {continent}.",
            lines("""
            q: which continent is {country} in
            q: what continent is {country} in
            q: on which continent is {country}
            q: in which continent is {country}
            q: on what continent is {country}
            q: where is {country}
            q: which continent is {country} on
            q: which continent does {country} belong to
            q: {country} is on which continent
            q: what is the continent of {country}
            q: in what part of the world is {country}
            n: the continent of {country}
            n: the continent {country} is in
            n: the continent where {country} is
            e: where {country} is
            e: which continent {country} is in
            e: on which continent {country} is
            e: what continent {country} is on
            s: {country}: which continent?"""),
            lines("""
            q: where in the world is {country}
            q: in what continent is {country}
            q: {country} is in which continent
            q: what continent does {country} belong to
            n: the continent on which {country} is
            n: the continent that {country} belongs to
            e: in which continent {country} is
            s: {country}: what continent?"""),
            3.0,
            follow,
        ),
    ]
