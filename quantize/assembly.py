"""Puts named tensors, stored [out, in], together to one Grok model, or says all that is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pygrok.errors import FormatError
from pygrok.quantize.roles import LAYER_ROLES, TOP_ROLES, Dimensions
from pygrok.quantize.source import SourceTensor, make_tensors, some
from pygrok.quantize.tensor_reader import StoredMatrix

__all__ = ["Assembly", "Part", "Place"]

MAX_LAYERS = 4096  # as the engine; far above 64
MAX_EXPERTS = 1024
# What the dimensions are read from.
_TELLING = ("query", "key", "expert_gate")


@dataclass(frozen=True)
class Place:
    """What a tensor's name says: its role, its layer (None outside the layers), its expert if it holds just one."""

    role: str
    layer: int | None = None
    expert: int | None = None


@dataclass(frozen=True)
class Part:
    """A tensor as a file has it. shape in numpy order; matrices: one, or one for each expert."""

    name: str
    shape: tuple[int, ...]
    matrices: tuple[StoredMatrix, ...]


class Assembly:
    """Takes tensors by `add`, in any order; `finish` gives the model's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problems: list[str] = []
        self._parts: dict[Place, Part] = {}

    def add(self, place: Place, part: Part) -> None:
        """A tensor at its place; a second one there is a problem."""
        if (place.layer or 0) >= MAX_LAYERS or (place.expert or 0) >= MAX_EXPERTS:
            self.problems.append(f"{part.name} is beyond {MAX_LAYERS} layers or {MAX_EXPERTS} experts")
        elif place in self._parts:
            self.problems.append(f"both {self._parts[place].name} and {part.name} are there")
        else:
            self._parts[place] = part

    def finish(self) -> tuple[Dimensions, tuple[SourceTensor, ...]]:
        """Raises FormatError with all problems in one line."""
        layers = 1 + max((place.layer for place in self._parts if place.layer is not None), default=-1)
        experts = 1 + max((place.expert for place in self._parts if place.expert is not None), default=-1)
        self._refuse()
        dimensions = self._infer(layers, experts)
        top = {role: self._collect(dimensions, role, None, experts) for role in TOP_ROLES if self._has(role)}
        rest = [
            {role: self._collect(dimensions, role, layer, experts) for role in LAYER_ROLES}
            for layer in range(layers)
        ]
        self._refuse()
        return dimensions, make_tensors(top, rest, dimensions, transposed=False)

    def _has(self, role: str) -> bool:
        return role != "output" or Place(role) in self._parts

    def _refuse(self) -> None:
        if self.problems:
            raise FormatError(f"{self.path}: not one Grok-1: {some(self.problems, '; ')}")

    def _infer(self, layers: int, experts: int) -> Dimensions:
        embedding = self._parts.get(Place("embedding"))
        if embedding is None or layers == 0:
            raise FormatError(
                f"{self.path}: no tensor has a name of Grok-1's: neither an embedding nor layers"
            )
        first = {role: self._parts.get(Place(role, 0)) for role in _TELLING}
        if first["expert_gate"] is None:
            first["expert_gate"] = self._parts.get(Place("expert_gate", 0, 0))
        missing = [role for role, part in first.items() if part is None]
        if missing:
            raise FormatError(f"{self.path}: not one Grok-1: layer 0 has no {' nor '.join(missing)}")
        shapes = {role: part.shape for role, part in first.items() if part is not None}
        gate = shapes["expert_gate"]
        merged = len(gate) == 3
        if (
            len(embedding.shape) != 2
            or any(len(shapes[r]) != 2 for r in ("query", "key"))
            or len(gate) not in (2, 3)
        ):
            raise FormatError(
                f"{self.path}: not one Grok-1: embedding {embedding.shape}, query {shapes['query']}, key "
                f"{shapes['key']}, expert {gate}; expected [vocabulary, embedding] and matrices [out, in]"
            )
        return Dimensions(
            layers=layers,
            vocabulary=embedding.shape[0],
            embedding=embedding.shape[1],
            experts=gate[0] if merged else experts,
            expert_width=gate[-2],
            query=shapes["query"][0],
            key_value=shapes["key"][0],
        )

    def _collect(
        self, dimensions: Dimensions, role: str, layer: int | None, experts: int
    ) -> tuple[StoredMatrix, ...]:
        """The matrices of a tensor, or of one for each expert; notes what is missing or of another shape."""
        where = role if layer is None else f"{role} of layer {layer}"
        expected = dimensions.gguf_shape_of(role)
        part = self._parts.get(Place(role, layer))
        separate = (
            [self._parts.get(Place(role, layer, e)) for e in range(experts)] if len(expected) == 3 else []
        )
        if part is not None:
            if any(separate):
                self.problems.append(f"the {where} is there both as one tensor and by expert")
            return self._checked(part, expected)
        if not any(separate):
            self.problems.append(f"the {where} is missing")
            return ()
        missing = [str(e) for e, found in enumerate(separate) if found is None]
        if missing:
            self.problems.append(f"the {where} lacks expert {some(missing)}")
        return tuple(m for found in separate if found is not None for m in self._checked(found, expected[1:]))

    def _checked(self, part: Part, expected: tuple[int, ...]) -> tuple[StoredMatrix, ...]:
        if part.shape != expected:
            self.problems.append(f"{part.name} has shape {part.shape}, expected {expected}")
        return part.matrices
