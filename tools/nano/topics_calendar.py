"""Days and months: what comes after and before, the month's place in the year and its length."""

from __future__ import annotations

import facts
from topic import Topic, lines


def calendar() -> list[Topic]:
    days, months = facts.neighbours(facts.DAYS, "day"), facts.neighbours(facts.MONTHS, "day")
    made = []
    for kind, table in (("day", days), ("month", months)):
        for relation, verb in (("after", "follows"), ("before", "precedes")):
            made.append(
                Topic(
                    f"{kind}_{relation}",
                    "days" if kind == "day" else "months",
                    table,
                    "{" + relation + "} comes " + relation + " {day}.",
                    lines(f"""
                q: what {kind} comes {relation} {{day}}
                q: which {kind} comes {relation} {{day}}
                q: what {kind} is {relation} {{day}}
                q: which {kind} is {relation} {{day}}
                q: what comes {relation} {{day}}
                q: what is the {kind} {relation} {{day}}
                q: which {kind} {verb} {{day}}
                n: the {kind} {relation} {{day}}
                n: the {kind} that comes {relation} {{day}}
                e: what {kind} comes {relation} {{day}}
                e: which {kind} is {relation} {{day}}
                e: what comes {relation} {{day}}"""),
                    lines(f"""
                q: what {kind} {verb} {{day}}
                q: {relation} {{day}}, what {kind} comes
                n: the {kind} which comes {relation} {{day}}
                e: which {kind} comes {relation} {{day}}"""),
                    0.7,
                    ["And {day}?", "What about {day}?"],
                )
            )
    made.append(
        Topic(
            "month_place",
            "months",
            facts.months(),
            "{month} is the {ordinal} month of the year.",
            lines("""
        q: which month of the year is {month}
        q: what number is {month} among the months
        q: which place does {month} have in the year
        q: what is the {ordinal} month of the year
        q: which month is the {ordinal}
        q: what is the {ordinal} month
        n: the {ordinal} month of the year
        n: the {ordinal} month
        e: which month is the {ordinal}
        e: what the {ordinal} month of the year is"""),
            lines("""
        q: which is the {ordinal} month of the year
        q: which month of the year is the {ordinal}
        e: what the {ordinal} month is"""),
            0.8,
            [],
        )
    )
    made.append(
        Topic(
            "month_length",
            "months",
            facts.months(),
            "{month} has {days} days.",
            lines("""
        q: how many days does {month} have
        q: how many days are in {month}
        q: how many days are there in {month}
        q: how long is {month}
        q: how many days has {month}
        n: the number of days in {month}
        n: the length of {month}
        e: how many days {month} has
        e: how long {month} is"""),
            lines("""
        q: how many days does the month of {month} have
        q: what is the number of days in {month}
        q: {month} has how many days
        e: how many days are in {month}"""),
            0.8,
            ["And {month}?", "What about {month}?"],
        )
    )
    return made
