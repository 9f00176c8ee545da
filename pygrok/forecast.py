"""How fast a model should run on a machine that is described by a few rates. Arithmetic only: pygrok.machine measures.

Decoding reads weights: a token takes the bytes of each type over the rate at which decoding goes through it. All that
is not experts stays in memory, and so do the experts that fit beside it (docs/paging.md). The others come from the disk
while experts are computed, so that these take the longer of the two times; during the rest of a layer the disk has at
most guesses to read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pygrok.memory import needed, usable

if TYPE_CHECKING:
    from pygrok.footprint import Footprint

__all__ = [
    "HIT_RATES",
    "Machine",
    "ModelWeights",
    "Streamed",
    "released_weights",
    "skewed_hit_rate",
    "weights_of",
]

HIT_RATES = (0.0, 0.25, 0.5, 0.75, 0.9)
# Working buffers for 512 rows of Grok-1's widths, which reading a prompt takes; a decoded token takes next to nothing.
BUFFER_BYTES = 400 << 20
# The release as a checkpoint (README.md).
RELEASE_BYTES = 318_000_000_000
_EXPERT = re.compile(r"blk\.\d+\.ffn_(gate|up|down)(_exps|\.\d+)\.weight")


@dataclass(frozen=True)
class ModelWeights:
    """What a forecast needs of a model. Sizes are bytes by type; always: what every token reads, experts: all of them.

    values: weights by type, for the time to convert; kv_values: cached numbers a position.
    """

    name: str
    file_bytes: int
    always: Mapping[str, int]
    experts: Mapping[str, int]
    values: Mapping[str, int]
    expert_count: int
    experts_used: int
    kv_values: int
    context: int
    needs_importance: bool = False

    @property
    def always_bytes(self) -> int:
        """Bytes that every token reads."""
        return sum(self.always.values())

    @property
    def expert_bytes(self) -> int:
        """Bytes of all experts."""
        return sum(self.experts.values())

    @property
    def resident_bytes(self) -> int:
        """Bytes that stay in memory: all that is not experts, of an embedding all rows."""
        return self.file_bytes - self.expert_bytes

    @property
    def share(self) -> float:
        """The part of the experts that a token is routed to."""
        return self.experts_used / self.expert_count if self.expert_count else 1.0

    @property
    def routed_bytes(self) -> int:
        """Bytes of the experts that a token is routed to."""
        return round(self.share * self.expert_bytes)

    @property
    def token_bytes(self) -> dict[str, float]:
        """Bytes that a token reads, by type."""
        types = {**self.always, **self.experts}
        return {t: self.always.get(t, 0) + self.share * self.experts.get(t, 0) for t in types}


@dataclass(frozen=True)
class Machine:
    """Rates are bytes per second. bandwidth: of memory; decode: by type, where measured; disk: None if unknown."""

    memory: int
    bandwidth: float
    decode: Mapping[str, float]
    disk: float | None


@dataclass(frozen=True)
class Streamed:
    """Decoding with a part of the routed experts in memory."""

    hit_rate: float
    missed_bytes: int
    tokens_per_second: float


def weights_of(described: Footprint) -> ModelWeights:
    """Of a GGUF file."""
    hyper = described.hyperparameters
    always: dict[str, int] = {}
    experts: dict[str, int] = {}
    tied = all(tensor.name != "output.weight" for tensor in described.tensors)
    for tensor in described.tensors:
        group = experts if _EXPERT.fullmatch(tensor.name) else always
        nbytes = tensor.bytes
        if tensor.name == "token_embd.weight" and not tied:  # one row
            nbytes //= max(tensor.shape[0], 1)
        group[tensor.type] = group.get(tensor.type, 0) + nbytes
    return ModelWeights(
        name=described.paths[0],
        file_bytes=described.file_bytes,
        always=always,
        experts=experts,
        values={name: total.values for name, total in described.types.items()},
        expert_count=int(hyper.get("experts", 0)),
        experts_used=int(hyper.get("experts_used", 0)),
        kv_values=described.kv_values,
        context=int(hyper.get("context", 0)),
    )


def released_weights(type: str) -> ModelWeights:
    """Of the file that `pygrok-quantize --type` makes of the released Grok-1. Raises ValueError for an unknown name."""
    from pathlib import Path

    from pygrok.quantize import hyperparameters, roles, source, tensor_reader, tensor_types
    from pygrok.quantize.plan import TypeRules, fitting

    grok_1 = hyperparameters.GROK_1
    shapes = grok_1.dimensions

    def stored(role: str, kind: str) -> tuple[tensor_reader.StoredMatrix, ...]:
        shape = shapes.shape_of(role)
        dtype = "int8" if kind in ("attention", "expert") else "f32"
        matrix = tensor_reader.StoredMatrix(Path(), 0, dtype, math.prod(shape[-2:-1]), shape[-1])
        return (matrix,) * (shape[0] if kind == "expert" else 1)

    top = {role: stored(role, about.kind) for role, about in roles.TOP_ROLES.items() if role != "output"}
    layer = {role: stored(role, about.kind) for role, about in roles.LAYER_ROLES.items()}
    tensors = source.make_tensors(top, [layer] * shapes.layers, shapes, transposed=True)
    model = source.SourceModel("xai", Path(), Path(), (), shapes, tensors)
    wanted = TypeRules(type).wanted(model)
    always: dict[str, int] = {}
    experts: dict[str, int] = {}
    values: dict[str, int] = {}
    for tensor in tensors:
        chosen, _ = fitting(tensor, wanted[tensor.name])
        group = experts if tensor.kind == "expert" else always
        nbytes = tensor_types.row_bytes(chosen, tensor.columns) * (tensor.values // tensor.columns)
        group[chosen] = group.get(chosen, 0) + nbytes
        values[chosen] = values.get(chosen, 0) + tensor.values
    return ModelWeights(
        name=f"Grok-1 {type}",
        file_bytes=sum(always.values()) + sum(experts.values()),
        always=always,
        experts=experts,
        values=values,
        expert_count=grok_1.experts,
        experts_used=grok_1.experts_used,
        kv_values=2 * grok_1.layers * grok_1.kv_heads * grok_1.head_size,
        context=grok_1.context,
        needs_importance=not tensor_types.NEED_IMPORTANCE.isdisjoint(values),
    )


def compute_seconds(weights: ModelWeights, machine: Machine, kv_bytes: int = 0) -> float:
    """Of a token with all weights in memory, `kv_bytes` of keys and values being read."""
    return _always_seconds(weights, machine, kv_bytes) + _expert_seconds(weights, machine)


def _always_seconds(weights: ModelWeights, machine: Machine, kv_bytes: int) -> float:
    seconds = sum(n / machine.decode.get(t, machine.bandwidth) for t, n in weights.always.items())
    return seconds + kv_bytes / machine.bandwidth


def _expert_seconds(weights: ModelWeights, machine: Machine) -> float:
    rates = machine.decode
    return weights.share * sum(n / rates.get(t, machine.bandwidth) for t, n in weights.experts.items())


def room_for_experts(weights: ModelWeights, machine: Machine, kv_bytes: int) -> int:
    """Bytes left beside what stays, the cache and the program, while decoding; negative if these do not fit."""
    return usable(machine.memory) - kv_bytes - weights.resident_bytes


def memory_to_stream(weights: ModelWeights, kv_bytes: int) -> int:
    """The least memory with which experts can be streamed at all."""
    return needed(weights.resident_bytes + kv_bytes + BUFFER_BYTES)


def memory_for_all(weights: ModelWeights, kv_bytes: int) -> int:
    """The memory with which everything stays."""
    return needed(weights.file_bytes + kv_bytes + BUFFER_BYTES)


def fits(weights: ModelWeights, machine: Machine, kv_bytes: int) -> bool:
    """Whether the whole file stays in memory."""
    return memory_for_all(weights, kv_bytes) <= machine.memory


def streamed(weights: ModelWeights, machine: Machine, hit_rate: float, kv_bytes: int = 0) -> Streamed | None:
    """With this part of the routed experts' bytes found in memory; None if the disk's rate is unknown.

    kv_bytes: of keys and values that a token reads.
    """
    if machine.disk is None:
        return None
    missed = (1 - hit_rate) * weights.routed_bytes
    seconds = _always_seconds(weights, machine, kv_bytes)
    seconds += max(_expert_seconds(weights, machine), missed / machine.disk)
    return Streamed(hit_rate, round(missed), 1 / seconds)


def uniform_hit_rate(weights: ModelWeights, machine: Machine, kv_bytes: int) -> float:
    """What keeping any experts gives if all are used alike and by chance: the part that is in memory."""
    room = max(0, room_for_experts(weights, machine, kv_bytes))
    return min(1.0, room / weights.expert_bytes) if weights.expert_bytes else 1.0


def skewed_hit_rate(weights: ModelWeights, machine: Machine, kv_bytes: int) -> float:
    """With the most used experts kept, if in each layer the k-th most used one is drawn in proportion to 1 / k.

    A token's experts differ from one another: expert k is among them with 1 - exp(-c / k), where c makes these sum
    to their number (Rosen 1972, on successive sampling).
    """
    count, used = weights.expert_count, weights.experts_used
    kept = uniform_hit_rate(weights, machine, kv_bytes) * count
    if not 0 < used < count:
        return kept / max(count, 1)
    low, high = 0.0, 1e6
    for _ in range(100):
        middle = (low + high) / 2
        too_many = sum(1 - math.exp(-middle / k) for k in range(1, count + 1)) > used
        low, high = (low, middle) if too_many else (middle, high)
    chances = [1 - math.exp(-low / k) for k in range(1, count + 1)]
    return min(1.0, sum(p * min(1.0, max(0.0, kept - i)) for i, p in enumerate(chances)) / used)


def conversion_seconds(
    weights: ModelWeights, rates: Mapping[str, float], read: float, write: float
) -> tuple[float, float]:
    """Of the release into this file: computing (rates: values per second by type), and reading and writing."""
    computing = sum(count / rates[t] for t, count in weights.values.items() if t in rates)
    return computing, RELEASE_BYTES / read + weights.file_bytes / write
