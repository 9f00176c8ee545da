"""The only objects a checkpoint pickle may make: numpy arrays of three types, and `QuantizedWeight8bit`.

They are described, never constructed: an array is its type, shape and place in the file. Everything else is
`RefusedError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "DTYPE_BYTES",
    "FileBytes",
    "RefusedError",
    "StoredArray",
    "StoredTensor",
    "build",
    "call",
    "find_global",
    "new_object",
    "tensor_of",
]

MAX_DIMENSIONS = 4
MAX_BYTES = 1 << 62

DTYPE_BYTES = {"int8": 1, "float32": 4, "bfloat16": 2}
_NUMPY_CODES = {"i1": "int8", "f4": "float32"}

_QUANTIZED, _RECONSTRUCT, _NDARRAY, _DTYPE, _BFLOAT16 = (
    "quantized",
    "reconstruct",
    "ndarray",
    "dtype",
    "bfloat16",
)
_GLOBALS = {
    ("__main__", "QuantizedWeight8bit"): _QUANTIZED,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _DTYPE,
    ("ml_dtypes", "bfloat16"): _BFLOAT16,
}


class RefusedError(Exception):
    """Why something in a pickle is not accepted; the reader adds the file and the byte."""


@dataclass(frozen=True)
class StoredArray:
    """An array in a file: C order, little-endian, `nbytes` bytes from `offset` on."""

    dtype: str  # a key of DTYPE_BYTES
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class StoredTensor:
    """What one tensor file holds: a plain array, or int8 `weight` with bfloat16 `scales`."""

    path: Path
    weight: StoredArray
    scales: StoredArray | None

    @property
    def nbytes(self) -> int:
        """Bytes of payload."""
        return self.weight.nbytes + (self.scales.nbytes if self.scales else 0)


@dataclass(frozen=True)
class FileBytes:
    """A byte string, left in the file."""

    offset: int
    length: int


@dataclass(frozen=True)
class _Global:
    kind: str


@dataclass(eq=False)
class _Dtype:
    name: str
    complete: bool = False


@dataclass(eq=False)
class _Array:
    stored: StoredArray | None = None


@dataclass(eq=False)
class _Quantized:
    weight: StoredArray | None = None
    scales: StoredArray | None = None


def _show(value: object) -> str:
    """Text from the file, safe to print within a line."""
    return repr(value)[1:-1] if isinstance(value, str) else type(value).__name__


def find_global(module: object, name: object) -> object:
    """The description of a global, by name; nothing is imported."""
    kind = _GLOBALS.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
    if kind is None:
        raise RefusedError(
            f"asks for {_show(module)}.{_show(name)}, which no Grok-1 checkpoint uses; "
            "nothing was executed, but do not trust this file"
        )
    return _Global(kind)


def call(function: object, arguments: object) -> object:
    """REDUCE: the two calls that numpy's pickles make."""
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise RefusedError("a call of something that is not a function")
    if function.kind == _RECONSTRUCT:
        # numpy.core.multiarray._reconstruct(numpy.ndarray, (0,), b"b")
        if len(arguments) != 3 or arguments[0] != _Global(_NDARRAY) or arguments[1] != (0,):
            raise RefusedError("an array of another class than numpy.ndarray")
        return _Array()
    if function.kind == _DTYPE and len(arguments) == 3:
        # numpy.dtype(code or type, False, True)
        code = arguments[0]
        if code == _Global(_BFLOAT16):
            return _Dtype("bfloat16")
        if isinstance(code, str) and code in _NUMPY_CODES:
            return _Dtype(_NUMPY_CODES[code])
        raise RefusedError(f"an array of type {_show(code)}, expected int8, float32 or bfloat16")
    raise RefusedError(f"a call of {function.kind} that numpy does not write")


def new_object(cls: object, arguments: object) -> object:
    """NEWOBJ: an empty QuantizedWeight8bit."""
    if cls != _Global(_QUANTIZED) or arguments != ():
        raise RefusedError("an object of a class that is not expected")
    return _Quantized()


def build(target: object, state: object) -> None:
    """BUILD: sets the state of a dtype, an array or a quantized weight."""
    if isinstance(target, _Dtype):
        _build_dtype(target, state)
    elif isinstance(target, _Array):
        _build_array(target, state)
    elif isinstance(target, _Quantized):
        _build_quantized(target, state)
    else:
        raise RefusedError("a state for something that has none")


def _build_dtype(target: _Dtype, state: object) -> None:
    # (version, byte order, subtype, names, fields, ...); the rest repeats what the type implies.
    if not isinstance(state, tuple) or len(state) < 5 or state[2:5] != (None, None, None):
        raise RefusedError("an array type with fields or sub-arrays")
    order = state[1]
    if order not in ("<", "|") and not (order == ">" and target.name == "int8"):
        raise RefusedError(f"an array in byte order '{_show(order)}', expected little-endian '<'")
    target.complete = True


def _build_array(target: _Array, state: object) -> None:
    if not isinstance(state, tuple) or len(state) != 5:
        raise RefusedError("an array whose state is not numpy's (version, shape, type, order, bytes)")
    _, shape, dtype, fortran, payload = state
    if not isinstance(dtype, _Dtype) or not dtype.complete:
        raise RefusedError("an array without a type")
    if not isinstance(shape, tuple) or not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise RefusedError(f"an array without 1 to {MAX_DIMENSIONS} dimensions")
    nbytes = DTYPE_BYTES[dtype.name]
    for n in shape:
        if type(n) is not int or n <= 0:
            raise RefusedError("an array with a dimension that is not a positive number")
        nbytes *= n
        if nbytes > MAX_BYTES:
            raise RefusedError("an array larger than any memory")
    if not isinstance(payload, FileBytes):
        raise RefusedError("an array without bytes")
    if payload.length != nbytes:
        raise RefusedError(
            f"{payload.length} bytes for an array {shape} of {dtype.name}, which takes {nbytes}"
        )
    if fortran is not False:
        raise RefusedError("an array in Fortran order; save it in C order (numpy.ascontiguousarray)")
    target.stored = StoredArray(dtype.name, shape, payload.offset, nbytes)


def _build_quantized(target: _Quantized, state: object) -> None:
    if not isinstance(state, dict) or set(state) != {"weight", "scales"}:
        raise RefusedError("a quantized weight that does not consist of 'weight' and 'scales'")
    target.weight = _part(state, "weight", "int8")
    target.scales = _part(state, "scales", "bfloat16")


def _part(state: dict[object, object], key: str, dtype: str) -> StoredArray:
    array = state[key]
    if not isinstance(array, _Array) or array.stored is None:
        raise RefusedError(f"a quantized weight whose '{key}' is not an array")
    if array.stored.dtype != dtype:
        raise RefusedError(f"a quantized weight whose '{key}' is {array.stored.dtype}, expected {dtype}")
    return array.stored


def tensor_of(path: Path, value: object) -> StoredTensor:
    """What the whole pickle describes."""
    if isinstance(value, _Quantized) and value.weight is not None and value.scales is not None:
        return StoredTensor(path, value.weight, value.scales)
    if isinstance(value, _Array) and value.stored is not None:
        return StoredTensor(path, value.stored, None)
    raise RefusedError("the pickle holds neither an array nor a quantized weight")
