"""Mixes: which type each part of the model gets under a name such as q4_k_m. docs/mixes.md tells why."""

from __future__ import annotations

from dataclasses import dataclass

from pygrok.quantize.roles import ALWAYS_F32
from pygrok.quantize.tensor_types import TYPES, bits

__all__ = ["MIXES", "Ladder", "Mix"]


@dataclass(frozen=True)
class Ladder:
    """`better` for a share (0 to 1) of the layers, a quarter of these at the start, the rest at the end; else `base`.

    Errors in the last layers have fewer layers behind them that could even them out, and these layers add most to the
    residual stream; what the first ones get wrong passes through all others.
    """

    base: str
    better: str = ""
    share: float = 0.0

    def type_of(self, layer: int, layers: int) -> str:
        """The type in layer `layer` of `layers`."""
        raised = round(self.share * layers)
        first = raised // 4
        return self.better if layer < first or layer >= layers - (raised - first) else self.base


@dataclass(frozen=True)
class Mix:
    """A type, or a ladder over the layers, for each part of a model.

    attention: of queries and output; keys and values, a sixth of their size, are q8_0, and so is the embedding, which
    is the output matrix too.
    """

    attention: str
    gate_up: Ladder
    down: Ladder
    rest: str = "q8_0"

    def type_of(self, role: str, kind: str, layer: int, layers: int) -> str:
        """The type of a tensor by its role and kind (`roles`)."""
        if kind == "expert":
            return (self.down if role == "expert_down" else self.gate_up).type_of(layer, layers)
        if role in ("query", "attention_output"):
            return self.attention
        return "f32" if kind in ALWAYS_F32 else self.rest


def _moe(name: str) -> Mix:
    """The experts of one type; the rest, 2 % of the model, of one that loses little and costs little beside them."""
    rest = "q8_0" if bits(name) >= 4 else "q6_k"
    return Mix(rest, Ladder(name), Ladder(name), rest)


MIXES = {
    "iq2_m": Mix("q5_k", Ladder("iq2_xs", "iq3_xxs", 1 / 16), Ladder("iq2_s", "iq3_xxs", 3 / 4)),
    "q2_k_s": Mix("q5_k", Ladder("q2_k"), Ladder("q2_k", "q3_k", 1 / 8)),
    "iq3_xs": Mix("q6_k", Ladder("iq3_xxs", "iq3_s", 1 / 8), Ladder("iq3_s")),
    "q3_k_s": Mix("q5_k", Ladder("q3_k"), Ladder("q3_k")),
    "iq3_m": Mix("q6_k", Ladder("iq3_s"), Ladder("iq3_s", "iq4_xs", 1 / 2)),
    "q3_k_m": Mix("q6_k", Ladder("q3_k", "iq4_xs", 1 / 8), Ladder("iq4_xs", "q4_k", 1 / 4)),
    "q3_k_l": Mix("q6_k", Ladder("q3_k", "iq4_xs", 5 / 8), Ladder("iq4_xs", "q4_k", 1 / 2)),
    "q4_k_s": Mix("q8_0", Ladder("iq4_xs", "q4_k", 1 / 4), Ladder("q4_k", "q5_k", 3 / 8)),
    "q4_k_m": Mix("q8_0", Ladder("q4_k", "q5_k", 1 / 8), Ladder("q4_k", "q5_k", 5 / 8)),
    "q5_k_s": Mix("q6_k", Ladder("q5_k"), Ladder("q5_k")),
    "q5_k_m": Mix("q8_0", Ladder("q5_k"), Ladder("q5_k", "q6_k", 3 / 8)),
} | {f"{name}_moe": _moe(name) for name in TYPES if bits(name) < 8}
