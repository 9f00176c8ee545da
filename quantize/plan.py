"""What the GGUF file will hold: each tensor's name, type, shape and size, and where its values come from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pygrok import _core
from pygrok.quantize.checkpoint import Checkpoint
from pygrok.quantize.pickle_objects import StoredTensor

__all__ = ["TYPES", "Plan", "PlannedTensor", "TypeRules", "make_plan"]

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
# The embedding is the output matrix too: below 8 bits it costs more quality than its bytes are worth. With q8_0, which
# holds the released int8 weights exactly, it stays exact too.
_EMBEDDING_DEFAULT = {"q4_0": "q8_0", "q8_0": "f32"}
_FALLBACK = "f16"
_ALWAYS_F32 = frozenset({"norm", "router"})

# GGUF name and kind by role in the checkpoint. Kinds are what type rules speak of.
_TOP = {"embedding": ("token_embd.weight", "embedding"), "output_norm": ("output_norm.weight", "norm")}
_LAYER = {
    "attention_norm": ("attn_norm", "norm"),
    "query": ("attn_q", "attention"),
    "key": ("attn_k", "attention"),
    "value": ("attn_v", "attention"),
    "attention_output": ("attn_output", "attention"),
    "attention_output_norm": ("attn_output_norm", "norm"),
    "expert_norm": ("ffn_norm", "norm"),
    "router": ("ffn_gate_inp", "router"),
    "expert_gate": ("ffn_gate_exps", "expert"),
    "expert_up": ("ffn_up_exps", "expert"),
    "expert_down": ("ffn_down_exps", "expert"),
    "expert_output_norm": ("layer_output_norm", "norm"),
}


@dataclass(frozen=True)
class TypeRules:
    """Which type each kind of tensor gets."""

    default: str
    embedding: str | None = None

    def __post_init__(self) -> None:
        for option, name in (("type", self.default), ("embedding type", self.embedding)):
            if name is not None and name not in TYPES:
                raise ValueError(f"unknown {option} '{name}'; choose one of {', '.join(TYPES)}")

    def wanted(self, kind: str) -> str:
        """The type for a kind of tensor, if its rows divide into blocks."""
        if kind in _ALWAYS_F32:
            return "f32"
        if kind == "embedding":
            return self.embedding or _EMBEDDING_DEFAULT.get(self.default, self.default)
        return self.default


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the GGUF file. `shape` is in numpy order: [experts,] rows, columns."""

    name: str
    kind: str
    source: StoredTensor
    transpose: bool
    type: str
    shape: tuple[int, ...]
    row_bytes: int

    @property
    def rows(self) -> int:
        """Rows of one matrix."""
        return self.shape[-2] if len(self.shape) > 1 else 1

    @property
    def matrices(self) -> int:
        """1, or the number of experts."""
        return math.prod(self.shape[:-2])

    @property
    def nbytes(self) -> int:
        """Bytes in the GGUF file."""
        return self.matrices * self.rows * self.row_bytes


@dataclass(frozen=True)
class Plan:
    """All tensors in file order, and what the user should know about their types."""

    rules: TypeRules
    tensors: tuple[PlannedTensor, ...]
    notices: tuple[str, ...] = field(default=())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors)


def make_plan(checkpoint: Checkpoint, rules: TypeRules) -> Plan:
    """Layers in numeric order, so that a layer's tensors lie together in the file."""
    geometry = _core.tensor_types()
    tensors: list[PlannedTensor] = []
    fallen_back: dict[tuple[str, str], list[str]] = {}

    def add(name: str, kind: str, source: StoredTensor) -> None:
        stored = source.weight.shape
        transpose = kind not in ("embedding", "norm")
        shape = (*stored[:-2], stored[-1], stored[-2]) if transpose else stored
        wanted = rules.wanted(kind)
        chosen = wanted
        if shape[-1] % geometry[wanted][1]:
            chosen = _FALLBACK
            reason = f"rows of {shape[-1]} do not divide into {wanted} blocks of {geometry[wanted][1]}"
            fallen_back.setdefault((chosen, reason), []).append(name)
        elif wanted == "q8_0" and _splits_scales(source, geometry[wanted][1]):
            chosen = "f32"
            reason = f"scales change within {wanted} blocks of {geometry[wanted][1]}"
            fallen_back.setdefault((chosen, reason), []).append(name)
        _, block, block_bytes = geometry[chosen]
        row_bytes = shape[-1] // block * block_bytes
        tensors.append(PlannedTensor(name, kind, source, transpose, chosen, shape, row_bytes))

    for role, (name, kind) in _TOP.items():
        add(name, kind, checkpoint.top[role])
    for i, layer in enumerate(checkpoint.layers):
        for role, (name, kind) in _LAYER.items():
            add(f"blk.{i}.{name}.weight", kind, layer[role])

    notices = tuple(
        f"{len(names)} tensors become {chosen}, as their {reason}: {names[0]}{', ...' if len(names) > 1 else ''}"
        for (chosen, reason), names in fallen_back.items()
    )
    return Plan(rules, tuple(tensors), notices)


def _splits_scales(source: StoredTensor, block: int) -> bool:
    """Whether int8 values with different scales would share a block. Never so in Grok-1 itself."""
    if source.scales is None:
        return False
    return source.weight.shape[-2] // source.scales.shape[-2] % block != 0
