"""A sequence of tokens and its key/value cache."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.ids import TokenIds

if TYPE_CHECKING:
    from pygrok.model import Model

__all__ = ["Session"]


class Session:
    """Positions in a model's key/value cache. Made by `Model.session()`.

    Several sessions of one model may be used from several threads at once; one session belongs to one at a
    time. A call that raises leaves the session as it was.
    """

    def __init__(self, model: Model, core: _core.Session) -> None:
        """For `Model.session` and `fork`."""
        self._model = model
        self._core = core

    def __repr__(self) -> str:
        return f"Session(position={self.position}, kv_bytes={self.kv_bytes})"

    @property
    def model(self) -> Model:
        """The model that this session belongs to."""
        return self._model

    @property
    def position(self) -> int:
        """How many tokens the session holds."""
        return self._core.position

    @property
    def kv_bytes(self) -> int:
        """Bytes of the key/value cache blocks that this session uses, those shared with forks included."""
        return self._core.kv_bytes

    @property
    def ids(self) -> tuple[int, ...]:
        """The ids that the session holds."""
        return tuple(self._core.ids.tolist())

    def feed(self, ids: TokenIds) -> NDArray[np.float32]:
        """Append ids; return the logits that follow the last of them, float32 [vocab].

        Raises ValueError (no ids, or one outside the vocabulary), ContextOverflow, MemoryLimit, Cancelled.
        """
        return self._model.feed_many([(self, ids)])[0]

    def rewind(self, position: int) -> None:
        """Forget everything from `position` on, 0 to the current one. Raises ValueError."""
        if isinstance(position, bool) or not isinstance(position, int | np.integer):
            raise ValueError(f"position is {position!r}: it must be a whole number")
        if not 0 <= position <= self.position:
            raise ValueError(f"position {position} is outside this session, which holds 0 to {self.position}")
        self._model.engine  # noqa: B018  (raises if the model is closed)
        self._core.rewind(int(position))

    def fork(self) -> Session:
        """A session with the same past that shares this one's cache until one of them writes."""
        self._model.engine  # noqa: B018
        return Session(self._model, self._core.fork())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the cache to a file (beside it, then renamed), for `model.session(path)`. Raises OSError."""
        self._model.engine  # noqa: B018
        self._core.save(os.fspath(path))

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Replace the past by a saved one.

        Raises OSError, FormatError (damaged, or of another model or kv_type); the past is kept then.
        """
        self._model.engine  # noqa: B018
        self._core.restore(os.fspath(path))

    def cancel(self) -> None:
        """From any thread: a call computing on this session raises Cancelled within a layer's time."""
        self._core.cancel()
