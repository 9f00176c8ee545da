"""A model to quantize, whatever it is stored as: `open_source` gives its tensors in the order of a GGUF file."""

from __future__ import annotations

import errno
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pygrok.errors import FormatError
from pygrok.quantize.hyperparameters import Hyperparameters, resolve_hyperparameters
from pygrok.quantize.roles import LAYER_ROLES, TOP_ROLES, Dimensions, tensor_name
from pygrok.quantize.tensor_reader import StoredMatrix, TensorReader
from pygrok.quantize.tokenizer import Vocabulary, find_tokenizer, read_vocabulary

__all__ = ["SourceModel", "SourceTensor", "make_tensors", "open_source", "some"]

# What loses nothing worth mention: to start from less is to quantize what was quantized.
FULL_TYPES = frozenset({"int8", "f32", "f16", "bf16", "q8_0"})
MOST_SHOWN = 6


@dataclass(frozen=True)
class SourceTensor:
    """One tensor of the model, as GGUF names and shapes it.

    kind: "embedding" (the output matrix too), "norm", "attention", "router" or "expert". role: a key of
    `roles.TOP_ROLES` or `roles.LAYER_ROLES`. layer: None outside the layers. shape: in numpy order,
    [experts,] rows, columns. matrices: where its matrix or its experts lie. transpose: they are stored [in, out].
    """

    name: str
    kind: str
    role: str
    layer: int | None
    shape: tuple[int, ...]
    matrices: tuple[StoredMatrix, ...]
    transpose: bool

    @property
    def dtype(self) -> str:
        """ "int8" (with scales), "f32", "f16", "bf16" or a GGUF block type: of the first matrix, should they differ."""
        return self.matrices[0].dtype

    @property
    def rows(self) -> int:
        """Rows of one matrix."""
        return self.shape[-2] if len(self.shape) > 1 else 1

    @property
    def columns(self) -> int:
        """Values of a row."""
        return self.shape[-1]

    @property
    def values(self) -> int:
        """Values in all."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the source."""
        return sum(matrix.nbytes for matrix in self.matrices)

    @property
    def quantized(self) -> bool:
        """Whether a matrix has a type below q8_0."""
        return any(matrix.dtype not in FULL_TYPES for matrix in self.matrices)

    def splits_scales(self, block: int) -> bool:
        """Whether int8 values with different scales would share a block of a row. Never so in Grok-1 itself."""
        return any(m.scales is not None and m.rows // m.scales.groups % block != 0 for m in self.matrices)

    def open(self) -> TensorReader:
        """A context manager that gives the matrices as arrays over the mapped files."""
        return TensorReader(self.name, self.matrices, self.transpose)


@dataclass(frozen=True)
class SourceModel:
    """A model whose files are all there and whose tensors belong together.

    kind: "xai", "hugging-face" or "gguf". path: what to call it in messages. directory: where config.json and
    tokenizer.model are looked for, and one above; files: all that hold tensors. stored_hyperparameters,
    stored_vocabulary, metadata: what a GGUF file says itself; metadata holds what else is worth carrying over, by key.
    """

    kind: str
    path: Path
    directory: Path
    files: tuple[Path, ...]
    dimensions: Dimensions
    tensors: tuple[SourceTensor, ...]
    stored_hyperparameters: Hyperparameters | None = None
    stored_vocabulary: Vocabulary | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def source_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)

    def tensor(self, name: str) -> SourceTensor:
        """The tensor of a GGUF name. Raises KeyError."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    def hyperparameters(self, config: str | Path | None = None) -> Hyperparameters:
        """From `config` if given, else what the file itself says, else as `resolve_hyperparameters` finds them.

        Raises FormatError, OSError as that does.
        """
        if config is None and self.stored_hyperparameters is not None:
            return self.stored_hyperparameters
        return resolve_hyperparameters(self, config)

    def vocabulary(self, tokenizer: str | Path | None = None) -> Vocabulary | None:
        """From the SentencePiece model `tokenizer` if given, else the GGUF file's own, else tokenizer.model beside
        or above the checkpoint; None if there is none.

        Raises FormatError if it is damaged or of another size than the model's vocabulary; OSError.
        """
        if tokenizer is None:
            if self.kind == "gguf":
                return self.stored_vocabulary
            tokenizer = find_tokenizer(self.directory)
        return None if tokenizer is None else read_vocabulary(tokenizer, self.dimensions.vocabulary)

    def fingerprint(self) -> str:
        """Changes when a file's name, size or time of change does, or where a tensor lies in it: 32 hex digits.

        Raises OSError if a file is gone.
        """
        digest = hashlib.blake2b(digest_size=16)
        for path in self.files:
            status = path.stat()
            digest.update(
                f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape")
            )
        for tensor in self.tensors:
            digest.update(f"{tensor.name}\0{tensor.shape}\0{tensor.transpose}\n".encode())
            for m in tensor.matrices:
                digest.update(
                    f"{m.path.name}\0{m.offset}\0{m.dtype}\0{m.scales}\n".encode(errors="surrogateescape")
                )
        return digest.hexdigest()


def open_source(path: str | Path) -> SourceModel:
    """Opens xAI's `ckpt-0` or its parent, a Hugging Face folder, safetensors file or index, or a GGUF file.

    Reads headers only. Of a split set in GGUF or of Hugging Face shards, all must be there. Raises FileNotFoundError if
    there is nothing at `path`; FormatError if it is none of these, or damaged, incomplete or no Grok-1; OSError.
    """
    from pygrok.quantize import checkpoint

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(errno.ENOENT, f"no such file or directory; give {_KNOWN}", str(path))
    if path.is_dir():
        return _open_directory(path)
    if path.name.endswith((".safetensors", ".safetensors.index.json")):
        from pygrok.quantize import hugging_face

        return hugging_face.open_safetensors(path)
    with path.open("rb") as file:
        magic = file.read(4)
    if magic == b"GGUF" or path.suffix == ".gguf":
        from pygrok.quantize import gguf_source

        return gguf_source.open_gguf(path)
    if checkpoint.is_tensor_file(path):
        raise FormatError(f"{path}: one tensor of a checkpoint; give the ckpt-0 directory that holds it")
    raise FormatError(f"{path}: neither GGUF nor safetensors; give {_KNOWN}")


_KNOWN = "xAI's ckpt-0 directory or its parent, a folder with .safetensors files, one of them or its index, or a .gguf"


def _open_directory(path: Path) -> SourceModel:
    from pygrok.quantize import checkpoint, hugging_face

    if checkpoint.holds_checkpoint(path):
        return checkpoint.source_of(checkpoint.open_checkpoint(path))
    if hugging_face.holds_safetensors(path):
        return hugging_face.open_safetensors(path)
    ggufs = sorted(file.name for file in path.glob("*.gguf"))
    if ggufs:
        raise FormatError(f"{path}: a folder with GGUF files; give one of them: {some(ggufs)}")
    if any(path.glob("pytorch_model*.bin")):
        raise FormatError(
            f"{path}: pytorch_model*.bin files are Python programs, which are not run here; save the model as "
            "safetensors (save_pretrained(..., safe_serialization=True))"
        )
    raise FormatError(
        f"{path}: no tensor files (tensor00000_000, ...) here or in its ckpt-0, and no .safetensors; give {_KNOWN}"
    )


def make_tensors(
    top: dict[str, tuple[StoredMatrix, ...]],
    layers: list[dict[str, tuple[StoredMatrix, ...]]],
    dimensions: Dimensions,
    transposed: bool,
) -> tuple[SourceTensor, ...]:
    """Tensors in file order from matrices by role, of which all but "output" must be there.

    transposed: matrices, but not embeddings, are stored [in, out].
    """
    tensors = []
    for layer, part, roles in [(None, top, TOP_ROLES), *((i, p, LAYER_ROLES) for i, p in enumerate(layers))]:
        for role, about in roles.items():
            if role not in part and role == "output":
                continue
            tensors.append(
                SourceTensor(
                    name=tensor_name(role, layer),
                    kind=about.kind,
                    role=role,
                    layer=layer,
                    shape=dimensions.gguf_shape_of(role),
                    matrices=part[role],
                    transpose=transposed and about.kind not in ("embedding", "norm"),
                )
            )
    return tuple(tensors)


def some(items: Iterable[str], separator: str = ", ") -> str:
    """The first few, and how many more."""
    every = list(items)
    shown = separator.join(every[:MOST_SHOWN])
    left = len(every) - MOST_SHOWN
    return shown if left <= 0 else f"{shown}{separator}and {left} more"
