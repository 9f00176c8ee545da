"""The exceptions pygrok raises.

The C++ core raises these same classes by name, so this module imports nothing.
"""

from __future__ import annotations

__all__ = [
    "Cancelled",
    "ContextOverflow",
    "FormatError",
    "MemoryLimit",
    "ModelError",
    "PygrokError",
]


class PygrokError(Exception):
    """Base of every error pygrok raises on purpose; its text is one line for a person."""


class FormatError(PygrokError, ValueError):
    """A file (GGUF, tokenizer, session, chat) is damaged, truncated or not of the expected kind."""


class ModelError(PygrokError):
    """A model cannot do what was asked: wrong architecture, no tokenizer, already closed, not found."""


class ContextOverflow(PygrokError):  # noqa: N818
    """More positions were asked for than the context holds; the session is left as it was."""


class MemoryLimit(PygrokError, MemoryError):  # noqa: N818
    """The KV cache and buffers would exceed `memory_limit`, or the system refused the memory."""


class Cancelled(PygrokError):  # noqa: N818
    """A computation was stopped by `cancel()`; the session stays usable at its last position."""
