"""GGUF files of arch `grok` as a source: tensors of any type that dequantizes, metadata and tokenizer carried over."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from pygrok import _core
from pygrok.errors import FormatError
from pygrok.quantize.assembly import Assembly, Part, Place
from pygrok.quantize.hyperparameters import GROK_1, Hyperparameters
from pygrok.quantize.metadata import FILE_TYPES
from pygrok.quantize.roles import LAYER_ROLES, TOP_ROLES, Dimensions
from pygrok.quantize.source import SourceModel
from pygrok.quantize.tensor_reader import StoredMatrix
from pygrok.quantize.tokenizer import Vocabulary

__all__ = ["open_gguf"]

_TOP = {f"{role.name}.weight": key for key, role in TOP_ROLES.items()}
_LAYER = {role.name: key for key, role in LAYER_ROLES.items()} | {"post_ffw_norm": "expert_output_norm"}
_IN_LAYER = re.compile(r"blk\.(\d{1,5})\.([a-z_]+)\.weight")
# Very old files hold every expert as tensors of its own.
_EXPERT = re.compile(r"blk\.(\d{1,5})\.(ffn_gate|ffn_up|ffn_down)\.(\d{1,5})\.weight")
# Frequencies that some converters store; Grok-1's follow from rope.freq_base.
_IGNORED = "rope_freqs.weight"

# Not carried over: what describes the file that is read, not the model.
_OWN_KEYS = re.compile(
    r"general\.(architecture|type|file_type|quantization_version|alignment)|split\..*|quantize\..*"
)
_NAMES_TYPE = re.compile(rf".*[ ._-](?:{'|'.join(FILE_TYPES)})", re.IGNORECASE | re.DOTALL)
_NO_TOKENIZER = ("none", "no_vocab")


def open_gguf(path: Path) -> SourceModel:
    """A GGUF file or the first of a split set.

    Raises FormatError if it is damaged, of another architecture, or no Grok-1; OSError.
    """
    file = _core.GgufFile(str(path))
    paths = [Path(name) for name in file.paths]
    architecture = file.get("general.architecture")
    if architecture != "grok":
        raise FormatError(
            f"{path}: architecture is {str(architecture)[:40]!r}; only 'grok' (Grok-1) is known here"
        )
    assembly = Assembly(path)
    readable = set(_core.runnable_types())
    for tensor in file.tensors:
        place = _place_of(tensor.name)
        if place is None:
            if tensor.name != _IGNORED:
                assembly.problems.append(f"{tensor.name[:80]!r} is not part of Grok-1")
        elif tensor.type not in readable:
            assembly.problems.append(f"{tensor.name} has type {tensor.type}, which cannot be read")
        else:
            assembly.add(place, _part(paths[tensor.shard], tensor))
    dimensions, tensors = assembly.finish()
    fields = _Fields(path, file)
    return SourceModel(
        kind="gguf",
        path=path,
        directory=paths[0].parent,
        files=tuple(paths),
        dimensions=dimensions,
        tensors=tensors,
        stored_hyperparameters=_hyperparameters(fields, dimensions),
        stored_vocabulary=_vocabulary(fields, dimensions),
        metadata=_metadata(file),
    )


def _metadata(file: _core.GgufFile) -> dict[str, Any]:
    """general.* keys that hold for the new file too: a name that ends in a type does not."""
    keys = file.keys()
    found = {
        key: file.get(key) for key in keys if key.startswith("general.") and not _OWN_KEYS.fullmatch(key)
    }
    if _NAMES_TYPE.fullmatch(str(found.get("general.name"))):
        del found["general.name"]
    return found


def _place_of(name: str) -> Place | None:
    if name in _TOP:
        return Place(_TOP[name])
    match = _IN_LAYER.fullmatch(name)
    if match and match[2] in _LAYER:
        return Place(_LAYER[match[2]], int(match[1]))
    match = _EXPERT.fullmatch(name)
    return Place(_LAYER[f"{match[2]}_exps"], int(match[1]), int(match[3])) if match else None


def _part(path: Path, tensor: _core.TensorInfo) -> Part:
    shape = tensor.shape
    rows = shape[-2] if len(shape) > 1 else 1
    count = math.prod(shape[:-2])
    step = tensor.bytes // count
    matrices = tuple(
        StoredMatrix(path, tensor.offset + i * step, tensor.type, rows, shape[-1]) for i in range(count)
    )
    return Part(tensor.name, shape, matrices)


class _Fields:
    """Typed reads of metadata, which name the file and the key when they fail."""

    def __init__(self, path: Path, file: _core.GgufFile) -> None:
        self.path = path
        self.file = file

    def fail(self, key: str, wanted: str) -> NoReturn:
        value = self.file.get(key)
        found = "missing" if value is None else repr(value)[:40]
        raise FormatError(f"{self.path}: {key} is {found}, expected {wanted}")

    def count(self, name: str, *others: str, default: int | None = None) -> int:
        key = next(
            (k for k in (f"grok.{n}" for n in (name, *others)) if self.file.get(k) is not None),
            f"grok.{name}",
        )
        value = self.file.get(key, default)
        if type(value) is not int or not 0 < value < 2**31:
            self.fail(key, "a positive whole number")
        return value

    def number(self, name: str, default: float) -> float:
        value = self.file.get(f"grok.{name}", default)
        if type(value) not in (int, float) or not math.isfinite(value) or not 0 < value < 1e9:
            self.fail(f"grok.{name}", "a positive number")
        return float(value)

    def token(self, name: str, default: int) -> int:
        value = self.file.get(f"tokenizer.ggml.{name}_token_id", default)
        return value if type(value) is int and 0 <= value < 2**31 else default


def _hyperparameters(fields: _Fields, shapes: Dimensions) -> Hyperparameters:
    """What the file says; the release's values where older files say nothing."""
    heads = fields.count("attention.head_count")
    found = Hyperparameters(
        layers=fields.count("block_count"),
        vocabulary=shapes.vocabulary,
        embedding=fields.count("embedding_length"),
        context=fields.count("context_length", default=GROK_1.context),
        heads=heads,
        kv_heads=fields.count("attention.head_count_kv", default=heads),
        head_size=fields.count("attention.key_length", "rope.dimension_count", default=shapes.query // heads),
        experts=fields.count("expert_count"),
        experts_used=fields.count("expert_used_count"),
        expert_width=fields.count("expert_feed_forward_length", "feed_forward_length"),
        embedding_multiplier=fields.number("embedding_scale", GROK_1.embedding_multiplier),
        output_multiplier=fields.number("logit_scale", GROK_1.output_multiplier),
        attention_multiplier=fields.number("attention.output_scale", GROK_1.attention_multiplier),
        pad_id=fields.token("padding", GROK_1.pad_id),
        bos_id=fields.token("bos", GROK_1.bos_id),
        eos_id=fields.token("eos", GROK_1.eos_id),
        attention_soft_cap=fields.number("attn_logit_softcapping", GROK_1.attention_soft_cap),
        rms_epsilon=fields.number("attention.layer_norm_rms_epsilon", GROK_1.rms_epsilon),
        rope_base=fields.number("rope.freq_base", GROK_1.rope_base),
    )
    if fields.file.get("grok.final_logit_softcapping", 0) != 0:
        raise FormatError(
            f"{fields.path}: grok.final_logit_softcapping is set: this is a later Grok than Grok-1"
        )
    problems = [
        f"{name} is {value} in the metadata, {getattr(shapes, name)} in the tensors"
        for name, value in found.dimensions.__dict__.items()
        if value != getattr(shapes, name)
    ]
    problems += found.problems()
    if problems:
        raise FormatError(f"{fields.path}: {'; '.join(problems)}")
    return found


def _vocabulary(fields: _Fields, shapes: Dimensions) -> Vocabulary | None:
    """The tokenizer as the file has it, every key of it; None if there is none."""
    file = fields.file
    kind = file.get("tokenizer.ggml.model")
    if kind is None or (isinstance(kind, str) and kind in _NO_TOKENIZER):
        return None
    pieces = file.get("tokenizer.ggml.tokens")
    if not isinstance(pieces, list):
        fields.fail("tokenizer.ggml.tokens", "the pieces of the vocabulary")
    if len(pieces) != shapes.vocabulary:
        fields.fail("tokenizer.ggml.tokens", f"{shapes.vocabulary} pieces, as the embedding has rows")
    for name, kinds in (("scores", "f"), ("token_type", "iu")):
        values = file.get(f"tokenizer.ggml.{name}")
        if values is not None and (
            not isinstance(values, np.ndarray) or values.dtype.kind not in kinds or len(values) != len(pieces)
        ):
            fields.fail(f"tokenizer.ggml.{name}", f"{len(pieces)} numbers, one for each piece")
    keys = file.keys()
    carried: dict[str, Any] = {key: file.get(key) for key in keys if key.startswith("tokenizer.")}
    scores, types = carried.get("tokenizer.ggml.scores"), carried.get("tokenizer.ggml.token_type")
    return Vocabulary(
        path=fields.path,
        pieces=pieces,
        scores=[] if scores is None else scores.tolist(),
        types=[] if types is None else types.tolist(),
        adds_space_prefix=bool(carried.get("tokenizer.ggml.add_space_prefix", True)),
        removes_extra_spaces=bool(carried.get("tokenizer.ggml.remove_extra_whitespaces", False)),
        carried=carried,
    )
