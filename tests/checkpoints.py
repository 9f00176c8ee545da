"""Tiny checkpoints in the exact format of the release, for tests that need no reference data."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent


def _load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "make_grok1_checkpoint", ROOT / "tools" / "make_grok1_checkpoint.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = _load_tool()
SMALL = {
    "layers": 2,
    "embedding": 64,
    "vocabulary": 96,
    "context": 32,
    "heads": 4,
    "kv_heads": 2,
    "head_size": 16,
    "widening": 3,  # expert width 128
    "experts": 4,
    "experts_used": 2,
}

# On top of SMALL: scale groups cover whole blocks of 32, as in Grok-1.
ALIGNED = {"embedding": 128, "heads": 16, "kv_heads": 4}


def make_checkpoint(directory: Path, **sizes: int) -> Path:
    """directory/ckpt-0 and config.json, random; sizes as the options of tools/make_grok1_checkpoint.py."""
    arguments = [str(directory)]
    for name, value in {**SMALL, **sizes}.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    options = TOOL.parse_options(arguments)
    TOOL.make_checkpoint(directory, options)
    (directory / "config.json").write_text(json.dumps(TOOL.config_of(options)), encoding="utf-8")
    return directory


def tensor_path(directory: Path, index: int) -> Path:
    """The file of one tensor."""
    return directory / "ckpt-0" / f"tensor{index:05d}_000"


def quantized_bytes(weight: NDArray[np.int8], scales: NDArray[np.uint16]) -> bytes:
    """A tensor file with int8 weights; scales are the bits of bfloat16."""
    file = io.BytesIO()
    TOOL.save_quantized(file, weight.shape, [weight.tobytes()], scales.shape, [scales.tobytes()])
    return file.getvalue()


def array_bytes(array: NDArray[np.float32] | NDArray[np.uint16]) -> bytes:
    """A tensor file with a plain array: float32, or uint16 for the bits of bfloat16."""
    file = io.BytesIO()
    dtype = "f4" if array.dtype == np.float32 else "bfloat16"
    TOOL.save_array(file, dtype, array.shape, [array.tobytes()])
    return file.getvalue()


def bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bits of the values, cut to bfloat16."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def from_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Exact values."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def dequantized(weight: NDArray[np.int8], scales: NDArray[np.uint16]) -> NDArray[np.float32]:
    """float32(weight) * float32(scale), scales in groups along the second to last axis."""
    repeats = weight.shape[-2] // scales.shape[-2]
    return weight.astype(np.float32) * np.repeat(from_bfloat16(scales), repeats, axis=-2)
