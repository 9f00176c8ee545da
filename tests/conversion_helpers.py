"""Conversions that stop in the middle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pygrok.quantize.writer import OutputFiles


class StopError(Exception):
    """Stands for whatever may go wrong."""


@contextmanager
def failing_after(monkeypatch: pytest.MonkeyPatch, pieces: int, error: BaseException) -> Iterator[None]:
    """Within, a conversion fails when so many matrices are finished."""
    end, count = OutputFiles.end_piece, 0

    def failing(self: OutputFiles, piece: tuple[str, int]) -> None:
        nonlocal count
        if count == pieces:
            raise error
        count += 1
        end(self, piece)

    with monkeypatch.context() as patch:
        patch.setattr(OutputFiles, "end_piece", failing)
        yield
