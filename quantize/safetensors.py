"""Where a .safetensors file keeps its tensors: the header, read without trusting it.

Format: 8 bytes length of the header, little-endian; the header, JSON; the data, to which its offsets refer.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pygrok.errors import FormatError

__all__ = ["SafeTensor", "parse_json", "read_header", "show"]

# Grok-1's 1,938 tensors take 0.3 MB; what is parsed takes some twenty times the memory of its text.
MAX_HEADER_BYTES = 8 << 20
MAX_DIMENSIONS = 8
MAX_DIGITS = 20
MAX_BYTES = 1 << 62

# Bits of a value of each type the format defines.
_BITS = {
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


@dataclass(frozen=True)
class SafeTensor:
    """One tensor: C order, little-endian, `nbytes` bytes from `offset` of the file on."""

    dtype: str  # the format's own name, as "BF16"
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def show(text: object) -> str:
    """Something from a file, safe to print within a line."""
    shown = repr(text)
    return shown if len(shown) <= 80 else f"{shown[:76]}...{shown[-1]}"


def read_header(path: Path) -> dict[str, SafeTensor]:
    """The tensors of a file by name.

    Raises FormatError, naming the file and the tensor, if the header is damaged, or if the tensors do not fill the data
    exactly, one after the other; OSError if the file cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        if len(start) < 8:
            raise FormatError(f"{path}: {size} bytes are too few for a safetensors file; download it again")
        length = int.from_bytes(start, "little")
        if length > MAX_HEADER_BYTES:
            raise FormatError(
                f"{path}: a header of {length} bytes, expected at most {MAX_HEADER_BYTES}: not a safetensors file, or "
                "damaged; download it again"
            )
        if length > size - 8:
            raise FormatError(
                f"{path}: a header of {length} bytes where the file has {size - 8} left; download it again"
            )
        text = file.read(length)
    if not text.startswith(b"{"):
        raise FormatError(
            f"{path}: the header does not begin with '{{': not a safetensors file; download it again"
        )
    header = parse_json(path, text, "header")
    about = header.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise FormatError(f"{path}: __metadata__ is not an object of texts; download the file again")
    tensors = {name: _tensor(path, name, entry, 8 + length, size) for name, entry in header.items()}
    _check_filled(path, tensors, 8 + length, size)
    return tensors


def parse_json(
    path: Path,
    text: bytes,
    what: str,
    *,
    expected: str = "a JSON object",
    remedy: str = "download the file again",
    constants: bool = False,
) -> dict[str, Any]:
    """A JSON object without repeated keys; constants: with NaN and infinity. Raises FormatError."""

    def fail(problem: str) -> NoReturn:
        raise FormatError(f"{path}: {what}: {problem}; {remedy}")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in items:
            if name in found:
                fail(f"{show(name)} occurs twice")
            found[name] = value
        return found

    def whole(digits: str) -> int:
        return int(digits) if len(digits) <= MAX_DIGITS else fail(f"a number of {len(digits)} digits")

    def constant(name: str) -> float:
        return float(name) if constants else fail(f"{name} is not JSON")

    try:
        root = json.loads(text.decode(), object_pairs_hook=pairs, parse_int=whole, parse_constant=constant)
    except FormatError:
        raise
    except UnicodeDecodeError as error:
        fail(f"byte {error.start} is not UTF-8")
    except RecursionError:
        fail("nested too deeply")
    except ValueError as error:
        fail(f"not JSON: {error}")
    if not isinstance(root, dict):
        fail(f"expected {expected}")
    return root


def _tensor(path: Path, name: str, entry: object, start: int, size: int) -> SafeTensor:
    def fail(problem: str) -> NoReturn:
        raise FormatError(f"{path}: tensor {show(name)}: {problem}; download the file again")

    if not isinstance(entry, dict):
        fail("not an object with dtype, shape and data_offsets")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _BITS:
        fail(f"unknown dtype {show(dtype)}")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
        fail(f"shape {show(shape)} is not a list of at most {MAX_DIMENSIONS} sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        fail(f"data_offsets {show(offsets)} are not two offsets")
    bits = _BITS[dtype]
    for n in shape:
        bits *= n
        if bits > 8 * MAX_BYTES:
            fail(f"shape {shape} is larger than any file")
    begin, end = offsets
    if not begin <= end <= size - start:
        fail(f"data_offsets {offsets} do not lie within the {size - start} bytes of data")
    if bits % 8 or end - begin != bits // 8:
        fail(f"{end - begin} bytes for shape {shape} of {dtype}, which takes {-(-bits // 8)}")
    return SafeTensor(dtype, tuple(shape), start + begin, end - begin)


def _check_filled(path: Path, tensors: dict[str, SafeTensor], start: int, size: int) -> None:
    """The format allows neither overlaps nor holes."""
    at = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.offset != at:
            what = "overlaps the tensor before it" if tensor.offset < at else "leaves a hole before it"
            raise FormatError(f"{path}: tensor {show(name)} {what}; download the file again")
        at += tensor.nbytes
    if at != size:
        raise FormatError(f"{path}: {size - at} bytes after the last tensor; download the file again")


def _is_size(value: object) -> bool:
    return type(value) is int and value >= 0
