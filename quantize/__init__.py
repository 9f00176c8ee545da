"""Converts Grok-1 checkpoints to GGUF."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pygrok.quantize.conversion import ConversionReport, convert

__all__ = ["ConversionReport", "convert"]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Imported when first used, as in `pygrok`."""
        if name not in __all__:
            raise AttributeError(f"module 'pygrok.quantize' has no attribute {name!r}")
        from pygrok.quantize import conversion

        return getattr(conversion, name)
