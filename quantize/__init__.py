"""Converts Grok-1 checkpoints to GGUF."""

from pygrok.quantize.conversion import ConversionReport, convert

__all__ = ["ConversionReport", "convert"]
