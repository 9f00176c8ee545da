"""xAI's `ckpt-0` directory: which file is which tensor, and whether all are there and fit together."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pygrok.errors import FormatError
from pygrok.quantize.pickle_objects import StoredTensor
from pygrok.quantize.pickle_reader import read_tensor_file
from pygrok.quantize.roles import Dimensions
from pygrok.quantize.source import SourceModel, make_tensors, some
from pygrok.quantize.tensor_reader import StoredMatrix, StoredScales

__all__ = ["Checkpoint", "holds_checkpoint", "is_tensor_file", "open_checkpoint", "source_of"]

_FILE = re.compile(r"tensor(\d{5})_000")
_ANY_FILE = "tensor[0-9]*"  # misnamed ones too, but not a folder called tensorboard
_TOP = ("embedding", "output_norm")
# In the order of the flattened parameter tree within a layer.
_LAYER = (
    "expert_gate",
    "expert_down",
    "expert_up",
    "key",
    "attention_output",
    "query",
    "value",
    "attention_norm",
    "attention_output_norm",
    "expert_norm",
    "expert_output_norm",
    "router",
)
_QUANTIZABLE = frozenset(_LAYER[:7])
# The names that readers go by.
_DTYPES = {"int8": "int8", "float32": "f32", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all there, with tensors by role: `top[role]`, `layers[i][role]`."""

    directory: Path
    dimensions: Dimensions
    top: dict[str, StoredTensor]
    layers: tuple[dict[str, StoredTensor], ...]


def open_checkpoint(source: str | Path) -> Checkpoint:
    """Reads the headers of every file in a `ckpt-0` directory, or in the directory that holds one.

    Raises FileNotFoundError if there is none; FormatError if files are missing, misnumbered or damaged, or if
    shapes or types do not belong together: all problems in one message.
    """
    directory = _find_directory(Path(source))
    files = _list_files(directory)
    layer_count = (len(files) - len(_TOP)) // len(_LAYER)
    tensors = _read_all(files)
    top = dict(zip(_TOP, tensors, strict=False))

    # The tree's keys sort as strings: layers 0, 1, 10, 11, ..., 2, 20, ...
    layers: list[dict[str, StoredTensor]] = [{} for _ in range(layer_count)]
    for position, layer in enumerate(sorted(range(layer_count), key=str)):
        first = len(_TOP) + position * len(_LAYER)
        layers[layer] = dict(zip(_LAYER, tensors[first : first + len(_LAYER)], strict=True))

    dimensions = _infer_dimensions(directory, top, layers)
    _check_tensors(directory, dimensions, top, layers)
    return Checkpoint(directory, dimensions, top, tuple(layers))


def source_of(checkpoint: Checkpoint) -> SourceModel:
    """The checkpoint as a source: experts apart, tensors in the order of GGUF."""
    parts = (checkpoint.top, *checkpoint.layers)
    matrices = [{role: _matrices(tensor) for role, tensor in part.items()} for part in parts]
    return SourceModel(
        kind="xai",
        path=checkpoint.directory,
        directory=checkpoint.directory,
        files=tuple(sorted(tensor.path for part in parts for tensor in part.values())),
        dimensions=checkpoint.dimensions,
        tensors=make_tensors(matrices[0], matrices[1:], checkpoint.dimensions, transposed=True),
    )


def is_tensor_file(path: Path) -> bool:
    """Whether it is named as a tensor file of a checkpoint is."""
    return _FILE.fullmatch(path.name) is not None


def holds_checkpoint(directory: Path) -> bool:
    """Whether a directory or its ckpt-0 has tensor files."""
    return any(any(place.glob(_ANY_FILE)) for place in (directory, directory / "ckpt-0"))


def _matrices(tensor: StoredTensor) -> tuple[StoredMatrix, ...]:
    """One for each expert, or the only one."""
    weight, scales = tensor.weight, tensor.scales
    count = weight.shape[0] if len(weight.shape) == 3 else 1
    rows = weight.shape[-2] if len(weight.shape) > 1 else 1
    return tuple(
        StoredMatrix(
            path=tensor.path,
            offset=weight.offset + i * (weight.nbytes // count),
            dtype=_DTYPES[weight.dtype],
            rows=rows,
            columns=weight.shape[-1],
            scales=None
            if scales is None
            else StoredScales(scales.offset + i * (scales.nbytes // count), scales.shape[-2]),
        )
        for i in range(count)
    )


def _find_directory(source: Path) -> Path:
    if source.is_file():
        raise FormatError(f"{source}: a file; give the ckpt-0 directory that holds the tensor files")
    for directory in (source, source / "ckpt-0"):
        if directory.is_dir() and any(directory.glob(_ANY_FILE)):
            return directory
    if not source.exists():
        raise FileNotFoundError(
            errno.ENOENT, "no such directory; give xAI's ckpt-0 directory or its parent", str(source)
        )
    raise FormatError(
        f"{source}: no tensor files (tensor00000_000, ...) here or in its ckpt-0; give xAI's ckpt-0 directory"
    )


def _list_files(directory: Path) -> list[Path]:
    """The tensor files in order of their numbers."""
    numbered: dict[int, Path] = {}
    odd: list[str] = []
    for path in sorted(directory.glob("tensor*")):
        match = _FILE.fullmatch(path.name)
        if match:
            numbered[int(match[1])] = path
        else:
            odd.append(path.name)

    problems = []
    if odd:
        problems.append(f"names that are not of the form tensor00000_000: {some(odd)}")
    count = max(numbered, default=-1) + 1
    whole = max(1, -(-(count - len(_TOP)) // len(_LAYER)))
    expected = len(_TOP) + whole * len(_LAYER)
    missing = [f"tensor{i:05d}_000" for i in range(expected) if i not in numbered]
    if missing:
        problems.append(
            f"{len(missing)} of the {expected} files of {whole} layers missing ({len(_TOP)} + {len(_LAYER)} "
            f"a layer): {some(missing)}"
        )
    if problems:
        raise FormatError(f"{directory}: {'; '.join(problems)}; copy the checkpoint again")
    return [numbered[i] for i in range(expected)]


def _read_all(files: list[Path]) -> list[StoredTensor]:
    tensors: list[StoredTensor] = []
    problems: list[str] = []
    for path in files:
        try:
            tensors.append(read_tensor_file(path))
        except FormatError as error:
            problems.append(str(error))
    if problems:
        raise FormatError(some(problems, "; "))
    return tensors


def _infer_dimensions(
    directory: Path, top: dict[str, StoredTensor], layers: list[dict[str, StoredTensor]]
) -> Dimensions:
    embedding, gate = top["embedding"].weight.shape, layers[0]["expert_gate"].weight.shape
    query, key = layers[0]["query"].weight.shape, layers[0]["key"].weight.shape
    if len(embedding) != 2 or len(gate) != 3 or len(query) != 2 or len(key) != 2:
        raise FormatError(
            f"{directory}: not a Grok-1 checkpoint: the first files hold arrays {embedding}, {gate}, "
            f"{query}, {key}; expected embeddings [vocabulary, embedding], experts [expert, in, out], "
            "query and key [in, out]"
        )
    return Dimensions(
        layers=len(layers),
        vocabulary=embedding[0],
        embedding=embedding[1],
        experts=gate[0],
        expert_width=gate[2],
        query=query[1],
        key_value=key[1],
    )


def _check_tensors(
    directory: Path,
    dimensions: Dimensions,
    top: dict[str, StoredTensor],
    layers: list[dict[str, StoredTensor]],
) -> None:
    problems = [problem for part in (top, *layers) for problem in _problems_of(dimensions, part)]
    if problems:
        raise FormatError(f"{directory}: not one Grok-1 checkpoint: {some(problems, '; ')}")


def _problems_of(dimensions: Dimensions, part: dict[str, StoredTensor]) -> Iterator[str]:
    for role, tensor in part.items():
        name, weight, scales = tensor.path.name, tensor.weight, tensor.scales
        expected = dimensions.shape_of(role)
        if weight.shape != expected:
            yield f"{name} ({role}) has shape {weight.shape}, expected {expected}"
            continue
        if scales is None:
            allowed = ("float32", "bfloat16") if role in _QUANTIZABLE or role == "embedding" else ("float32",)
            if weight.dtype not in allowed:
                yield f"{name} ({role}) is {weight.dtype} without scales, expected {' or '.join(allowed)}"
        elif role not in _QUANTIZABLE:
            yield f"{name} ({role}) is quantized, expected a plain float32 array"
        else:
            *before, rows, columns = weight.shape
            shape = scales.shape
            if len(shape) != len(weight.shape) or shape[:-2] != tuple(before) or shape[-1] != columns:
                yield f"{name} ({role}) has scales {shape} for weights {weight.shape}"
            elif rows % shape[-2]:
                yield f"{name} ({role}) has {shape[-2]} groups of scales for {rows} rows"
