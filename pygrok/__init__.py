"""pygrok: run xAI's open-weights Grok-1 on CPUs.

import pygrok

with pygrok.load("grok-1-q4_0-00001-of-00009.gguf") as model:
    print(model.generate("The answer to life is", max_tokens=20).text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pygrok._core import __version__
    from pygrok.chat import Chat
    from pygrok.errors import Cancelled, ContextOverflow, FormatError, MemoryLimit, ModelError, PygrokError
    from pygrok.generate import Completion, GenerationChunk, Timings
    from pygrok.model import Model, load
    from pygrok.sampling import SamplingParams
    from pygrok.session import Session
    from pygrok.tokenizer import Tokenizer

__all__ = [
    "Cancelled",
    "Chat",
    "Completion",
    "ContextOverflow",
    "FormatError",
    "GenerationChunk",
    "MemoryLimit",
    "Model",
    "ModelError",
    "PygrokError",
    "SamplingParams",
    "Session",
    "Timings",
    "Tokenizer",
    "__version__",
    "load",
]

# Imported when first used: numpy and the extension take a third of a second, in which --help has long answered, and
# Ctrl-C would print a traceback before a command can catch it.
_MODULES = {
    "_core": ("__version__",),
    "chat": ("Chat",),
    "errors": ("Cancelled", "ContextOverflow", "FormatError", "MemoryLimit", "ModelError", "PygrokError"),
    "generate": ("Completion", "GenerationChunk", "Timings"),
    "model": ("Model", "load"),
    "sampling": ("SamplingParams",),
    "session": ("Session",),
    "tokenizer": ("Tokenizer",),
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "quantize" or name in _MODULES:
            return importlib.import_module(f"pygrok.{name}")
        for module, names in _MODULES.items():
            if name in names:
                value = getattr(importlib.import_module(f"pygrok.{module}"), name)
                globals()[name] = value
                return value
        raise AttributeError(f"module 'pygrok' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
