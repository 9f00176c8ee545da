"""Stop strings in a stream of text."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["StopStrings"]


class StopStrings:
    """Cuts a text before the first stop string, wherever the stream's pieces begin and end.

    Text that may still become part of a stop string is held back. The result does not depend on the pieces:
    the string that is complete first counts, and of two complete at the same character the longer one.
    """

    def __init__(self, stop: str | Sequence[str] | None) -> None:
        """None is no stop string. Raises ValueError for anything but non-empty strings."""
        self._stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
        for index, text in enumerate(self._stops):
            if not isinstance(text, str) or not text:
                raise ValueError(f"stop[{index}] is {text!r}: a stop string is text that is not empty")
        self._held = ""

    def __bool__(self) -> bool:
        return bool(self._stops)

    def push(self, text: str) -> tuple[str, bool]:
        """Take text; return what is certain to stand before any stop string, and whether one was met."""
        held = self._held + text
        found = [(at + len(s), at) for s in self._stops if (at := held.find(s)) >= 0]
        if found:
            self._held = ""
            return held[: min(found)[1]], True
        keep = max((_overlap(held, s) for s in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def finish(self) -> str:
        """Return what is held back; the text ends here."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of text that begins stop."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
