"""Everything with facts that Nano can talk about."""

from __future__ import annotations

from functools import lru_cache

from topic import Topic
from topics_arithmetic import arithmetic
from topics_calendar import calendar
from topics_geography import geography
from topics_words import animals, words


@lru_cache(maxsize=1)
def topics() -> list[Topic]:
    """Every topic, in a fixed order."""
    return geography() + arithmetic() + words() + animals() + calendar()
