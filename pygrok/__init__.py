"""pygrok: run xAI's open-weights Grok-1 on CPUs.

import pygrok

with pygrok.load("grok-1-q4_0-00001-of-00009.gguf") as model:
    print(model.generate("The answer to life is", max_tokens=20).text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

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

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "quantize":  # imported when first used: running a model does not need it
            return importlib.import_module("pygrok.quantize")
        raise AttributeError(f"module 'pygrok' has no attribute {name!r}")
