"""How much a model suffers from errors in each of its tensors: the coefficients of `--fit`, and their file.

For small errors the mean KL divergence of the predictions from the original's is linear in each tensor's relative
error, and errors of different tensors add up (the linearity theorem of HIGGS, arXiv 2411.17525; checked for Grok in
docs/mixes.md):

    KL = sum over tensors of s_t * e_t,   e_t = sum_ij a_j (w_ij - q_ij)^2 / sum_ij a_j w_ij^2

with a_j the importance of column j (mean squared input), so that e_t is the tensor's share of noise in its own output.
`probing` measures s_t; `estimate` derives it from the weights alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import FormatError
from pygrok.quantize.json_files import load_json, quoted, save_json
from pygrok.quantize.roles import ALWAYS_F32
from pygrok.quantize.source import SourceModel, SourceTensor

__all__ = ["Sensitivities", "estimate", "is_weight", "load_sensitivities", "save_sensitivities"]

FORMAT = "pygrok-sensitivities"
VERSION = 1
# KL in nats for a relative error of 1, as a multiple of the share of the stream's energy that the tensor's sublayer
# adds; of embeddings, outright. Measured on the model in the wheel (docs/mixes.md).
_EMBEDDING_FACTOR = 1.65
_FACTORS = {
    "query": 0.42,
    "key": 0.43,
    "value": 0.63,
    "attention_output": 0.51,
    "expert_gate": 0.23,
    "expert_up": 0.20,
    "expert_down": 0.60,
}
_SAMPLED_ROWS = 4096  # of the embedding, for its energy


@dataclass(frozen=True)
class Sensitivities:
    """values: s_t in nats by tensor name. method: "measured" or "estimated". details: how, for people and the file."""

    values: dict[str, float]
    method: str
    details: dict[str, str | int] = field(default_factory=dict)

    def predict(self, errors: Mapping[str, float]) -> float:
        """Mean KL divergence in nats of tensors with these relative errors."""
        return math.fsum(self.values[name] * error for name, error in errors.items())


def is_weight(tensor: SourceTensor) -> bool:
    """Whether the tensor's type is open to choice: norms and router stay f32."""
    return tensor.kind not in ALWAYS_F32


def estimate(source: SourceModel, embedding_multiplier: float, converter: _core.Converter) -> Sensitivities:
    """From norms and embedding alone, without running the model.

    Each sublayer's output passes an RMSNorm before it joins the residual stream, so its energy is that of the norm's
    scale, |g|^2, however large its weights are. A relative error e in one of its tensors puts noise of about e * |g|^2
    into the stream, whose energy by then is E, the embedding's plus all sublayers' so far; what follows sees normalised
    values only, and so the ratio: s_t = c_role * |g|^2 / E. The embedding is the output matrix too, where its error
    meets the logits directly: s = c. Raises OSError, ModelError for weights that are not numbers.
    """
    values: dict[str, float] = {}
    by_role = {(tensor.layer, tensor.role): tensor for tensor in source.tensors}
    energy = embedding_multiplier**2 * _row_energy(by_role[None, "embedding"], converter)
    for layer in range(source.dimensions.layers):
        for norm, roles in (
            ("attention_output_norm", ("query", "key", "value", "attention_output")),
            ("expert_output_norm", ("expert_gate", "expert_up", "expert_down")),
        ):
            added = _row_energy(by_role[layer, norm], converter)
            energy += added
            for role in roles:
                values[by_role[layer, role].name] = _FACTORS[role] * added / max(energy, 1e-30)
    for tensor in source.tensors:
        if tensor.kind == "embedding":
            values[tensor.name] = _EMBEDDING_FACTOR
    return Sensitivities(values, "estimated")


def _row_energy(tensor: SourceTensor, converter: _core.Converter) -> float:
    """Mean of the squared norms of the first rows."""
    with tensor.open() as reader:
        rows: NDArray[np.float32] = reader.values(converter, 0, 0, min(tensor.rows, _SAMPLED_ROWS))
    return float(np.mean(np.sum(rows.astype(np.float64) ** 2, axis=1)))


def save_sensitivities(path: str | Path, sensitivities: Sensitivities) -> None:
    """Writes the JSON file, in one step. Raises OSError."""
    content = {
        "method": sensitivities.method,
        "details": sensitivities.details,
        "tensors": sensitivities.values,
    }
    save_json(Path(path), FORMAT, VERSION, content)


def load_sensitivities(path: str | Path, source: SourceModel) -> Sensitivities:
    """Reads what `save_sensitivities` wrote for this model. Raises FormatError naming file and place; OSError."""
    path = Path(path)
    document = load_json(path, FORMAT, VERSION, "measure anew")
    tensors = document.get("tensors")
    if not isinstance(tensors, dict):
        raise FormatError(f"{path}: 'tensors' is missing or no object; measure anew")
    values = {name: _value(path, name, value) for name, value in tensors.items()}
    _check_names(path, values, (tensor.name for tensor in source.tensors if is_weight(tensor)))
    details = document.get("details", {})
    if not isinstance(details, dict) or not all(isinstance(d, (str, int)) for d in details.values()):
        raise FormatError(f"{path}: 'details' is no object of strings and numbers; measure anew")
    method = document.get("method")
    if method not in ("measured", "estimated"):
        raise FormatError(
            f"{path}: 'method' is {quoted(method)}, expected 'measured' or 'estimated'; measure anew"
        )
    return Sensitivities(values, method, details)


def _value(path: Path, name: str, value: Any) -> float:
    valid = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e6
    if not valid:
        raise FormatError(
            f"{path}: the value of {quoted(name)} is {quoted(value)}, expected 0 or above; measure anew"
        )
    return float(value)


def _check_names(path: Path, values: Mapping[str, float], names: Iterable[str]) -> None:
    expected = set(names)
    for problem, found in (
        ("lacks", expected - values.keys()),
        ("has, unlike this model,", values.keys() - expected),
    ):
        if found:
            raise FormatError(
                f"{path}: {problem} tensor {quoted(min(found))}: it was measured on another model; measure anew"
            )
