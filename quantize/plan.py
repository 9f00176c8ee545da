"""What the GGUF file will hold: each tensor's name, type, shape and size, and where its values come from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pygrok.quantize import tensor_types
from pygrok.quantize.mixes import MIXES, Mix
from pygrok.quantize.plan_file import PlanFile
from pygrok.quantize.roles import ALWAYS_F32
from pygrok.quantize.source import SourceModel, SourceTensor, some
from pygrok.quantize.tensor_types import FALLBACKS, FLOATS, LAST_FALLBACK, NEED_IMPORTANCE, TYPES, check_type

__all__ = [
    "Importance",
    "Plan",
    "PlanRow",
    "PlannedTensor",
    "TypeRules",
    "check_rule_name",
    "fitting",
    "make_plan",
    "plan_of",
]

# The embedding is the output matrix too: below 8 bits it costs more quality than its bytes are worth.
_EMBEDDING_BELOW_8_BITS = "q8_0"


class Importance(Protocol):
    """What a plan asks of an importance matrix; `pygrok.quantize.imatrix.ImportanceMatrix` is one."""

    def importance(self, tensor_name: str, expert: int | None) -> NDArray[np.float32] | None:
        """Mean squared input of each column, [columns]; None if the tensor is not in it."""
        ...


def check_rule_name(name: str) -> str:
    """The name. Raises ValueError, listing the choices, if it is neither a tensor type nor a mix."""
    if name not in TYPES and name not in MIXES:
        raise ValueError(
            f"unknown type '{name}'; choose a type ({', '.join(TYPES)}) or a mix ({', '.join(MIXES)})"
        )
    return name


@dataclass(frozen=True)
class TypeRules:
    """Which type each tensor gets: the last match of `overrides`, else `embedding`, else the plan file, else `default`.

    default: a tensor type, for all weights, or a mix (docs/mixes.md). embedding: type of the embedding and output
    matrix. overrides: (regular expression, type), searched for in the GGUF name; they reach all but norms and
    router, which stay f32. plan_file: types by name. Raises ValueError for an unknown name or a bad expression.
    """

    default: str
    embedding: str | None = None
    overrides: tuple[tuple[str, str], ...] = ()
    plan_file: PlanFile | None = None

    def __post_init__(self) -> None:
        check_rule_name(self.default)
        if self.embedding is not None:
            check_type(self.embedding, "embedding type")
        for pattern, name in self.overrides:
            check_type(name, f"type of tensors '{pattern}':")
            try:
                re.compile(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"tensors '{pattern}': not a regular expression: {error}") from None

    def overriding(self, source: SourceModel) -> dict[str, str]:
        """Tensor name -> type, of all that `overrides` and `embedding` reach, which a fit leaves as they are.

        Raises ValueError for an expression that matches nothing, or only what stays f32.
        """
        names = {tensor.name for tensor in source.tensors if tensor.kind not in ALWAYS_F32}
        types = {}
        if self.embedding is not None:
            types = {t.name: self.embedding for t in source.tensors if t.kind == "embedding"}
        for pattern, type_name in self.overrides:
            matching = [tensor.name for tensor in source.tensors if re.search(pattern, tensor.name)]
            if not matching:
                example = source.tensors[-2].name
                raise ValueError(f"tensors '{pattern}': matches none; names are such as {example}")
            if type_name != "f32" and not names.intersection(matching):
                raise ValueError(f"tensors '{pattern}': matches norms and routers only, which stay f32")
            types |= dict.fromkeys(names.intersection(matching), type_name)
        return types

    def wanted(self, source: SourceModel) -> dict[str, str]:
        """The type of every tensor, if its rows divide into blocks. Raises FormatError, ValueError."""
        layers = source.dimensions.layers
        always_f32 = {tensor.name for tensor in source.tensors if tensor.kind in ALWAYS_F32}
        mix = MIXES.get(self.default) if self.default not in TYPES else None
        types = {tensor.name: _default(self.default, mix, tensor, layers) for tensor in source.tensors}
        if self.plan_file is not None:
            types |= self.plan_file.assign([tensor.name for tensor in source.tensors], always_f32)
        types |= self.overriding(source)
        return types | dict.fromkeys(always_f32, "f32")


def _default(name: str, mix: Mix | None, tensor: SourceTensor, layers: int) -> str:
    if mix is not None:
        return mix.type_of(tensor.role, tensor.kind, tensor.layer or 0, layers)
    if tensor.kind != "embedding" or name in FLOATS:
        return name
    if name != "q8_0":
        return _EMBEDDING_BELOW_8_BITS
    # q8_0 holds the released int8 weights exactly: with this, the file loses nothing.
    return tensor.dtype if tensor.dtype in ("q8_0", "f16", "bf16") else "f32"


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the GGUF file. `shape` is in numpy order: [experts,] rows, columns."""

    name: str
    kind: str
    source: SourceTensor
    type: str
    shape: tuple[int, ...]
    row_bytes: int

    @property
    def role(self) -> str:
        """A key of `roles.TOP_ROLES` or `roles.LAYER_ROLES`."""
        return self.source.role

    @property
    def layer(self) -> int | None:
        """None outside the layers."""
        return self.source.layer

    @property
    def rows(self) -> int:
        """Rows of one matrix."""
        return self.source.rows

    @property
    def matrices(self) -> int:
        """1, or the number of experts."""
        return len(self.source.matrices)

    @property
    def nbytes(self) -> int:
        """Bytes in the GGUF file."""
        return self.matrices * self.rows * self.row_bytes


@dataclass(frozen=True)
class PlanRow:
    """The tensors of one part in the model that have one type, for printing. `values`: of all of them."""

    role: str
    type: str
    tensors: int
    values: int
    nbytes: int


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

    @property
    def bits_per_weight(self) -> float:
        """Of all tensors, norms included."""
        return 8 * self.nbytes / sum(tensor.source.values for tensor in self.tensors)

    @property
    def types(self) -> tuple[tuple[str, str], ...]:
        """(name, type) of every tensor, as `save_plan_file` takes them."""
        return tuple((tensor.name, tensor.type) for tensor in self.tensors)

    def rows(self) -> list[PlanRow]:
        """The plan in a few rows: in file order of roles, types by falling size."""
        groups: dict[tuple[str, str], list[PlannedTensor]] = {}
        for tensor in self.tensors:
            groups.setdefault((tensor.role, tensor.type), []).append(tensor)
        order = {role: i for i, role in enumerate(dict.fromkeys(tensor.role for tensor in self.tensors))}
        rows = [
            PlanRow(role, type_name, len(ts), sum(t.source.values for t in ts), sum(t.nbytes for t in ts))
            for (role, type_name), ts in groups.items()
        ]
        return sorted(rows, key=lambda row: (order[row.role], -row.nbytes))


def make_plan(source: SourceModel, rules: TypeRules, importance: Importance | None = None) -> Plan:
    """The type of every tensor of the source, by the rules.

    importance: needed by the types of NEED_IMPORTANCE. Where rows do not divide into a type's blocks, another one takes
    its place and a notice says so. Raises ValueError as TypeRules does, and for a type that lacks its importance;
    FormatError for a plan file that speaks of other tensors.
    """
    return plan_of(source, rules, rules.wanted(source), importance)


def plan_of(
    source: SourceModel, rules: TypeRules, wanted: Mapping[str, str], importance: Importance | None = None
) -> Plan:
    """As `make_plan`, of types by tensor name."""
    tensors: list[PlannedTensor] = []
    fallen_back: dict[tuple[str, str], list[str]] = {}
    for tensor in source.tensors:
        chosen, reason = fitting(tensor, wanted[tensor.name])
        if reason:
            fallen_back.setdefault((chosen, reason), []).append(tensor.name)
        nbytes = tensor_types.row_bytes(chosen, tensor.columns)
        tensors.append(PlannedTensor(tensor.name, tensor.kind, tensor, chosen, tensor.shape, nbytes))
    _check_importance(tensors, importance)
    return Plan(rules, tuple(tensors), tuple(_notices(fallen_back)))


def fitting(tensor: SourceTensor, wanted: str) -> tuple[str, str]:
    """The type itself or the one that takes its place for this tensor, and why ("" for itself)."""
    columns = tensor.columns
    for name in (wanted, FALLBACKS.get(wanted, LAST_FALLBACK), LAST_FALLBACK):
        if columns % tensor_types.block(name) == 0:
            chosen = name
            break
    if chosen != wanted:
        return chosen, f"rows of {columns} do not divide into {wanted} blocks of {tensor_types.block(wanted)}"
    if wanted == "q8_0" and tensor.splits_scales(tensor_types.block(wanted)):
        return "f32", f"scales change within q8_0 blocks of {tensor_types.block(wanted)}"
    return wanted, ""


def _check_importance(tensors: Iterable[PlannedTensor], importance: Importance | None) -> None:
    needing = [tensor for tensor in tensors if tensor.type in NEED_IMPORTANCE]
    if not needing:
        return
    first = needing[0]
    if importance is None:
        raise ValueError(
            f"{first.type} of {first.name} needs an importance matrix: convert to q8_0, run 'pygrok imatrix "
            "Q8_0.gguf TEXT -o FILE' on that, and give it with --imatrix FILE"
        )
    lacking = [
        tensor.name
        for tensor in needing
        if importance.importance(tensor.name, 0 if tensor.matrices > 1 else None) is None
    ]
    if lacking:
        raise ValueError(
            f"{some(lacking)}: not in the importance matrix, which {first.type} needs: make one of this model with "
            "'pygrok imatrix', or give them a type of more bits with --tensor"
        )


def _notices(fallen_back: Mapping[tuple[str, str], list[str]]) -> Iterable[str]:
    for (chosen, reason), names in fallen_back.items():
        what = f"1 tensor becomes {chosen}, as its"
        if len(names) > 1:
            what = f"{len(names)} tensors become {chosen}, as their"
        yield f"{what} {reason}: {names[0]}{', ...' if len(names) > 1 else ''}"
