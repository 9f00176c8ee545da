"""The unquantized model a layer at a time on a text's hidden states, and what its output matrix asks of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import ModelError
from pygrok.quantize.hyperparameters import Hyperparameters
from pygrok.quantize.roles import tensor_name
from pygrok.quantize.rounding import Floats, stored
from pygrok.quantize.source import SourceModel

__all__ = ["ExactModel", "Routes", "softmax"]

_ROWS = 256  # tokens whose logits are held at once: 128 MiB with 131072 tokens


def softmax(x: Floats) -> Floats:
    """Over the last axis."""
    weights: Floats = np.exp(x - x.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return weights


class Routes:
    """Which tokens go to which expert. As the engine has it: the `used` most probable, on a tie the lower index."""

    def __init__(self, probabilities: Floats, used: int) -> None:
        """probabilities: [n, experts]."""
        chosen = np.argsort(-probabilities, axis=1, kind="stable")[:, :used]
        mask = np.zeros(probabilities.shape, bool)
        np.put_along_axis(mask, chosen, True, axis=1)
        experts = probabilities.shape[-1]
        self.rows = [np.flatnonzero(mask[:, e]) for e in range(experts)]
        """Tokens of each expert, rising."""
        self.weights = [probabilities[rows, e] for e, rows in enumerate(self.rows)]
        """Router probabilities of these, not renormalised."""
        self.square = np.square(np.where(mask, probabilities, 0)).sum(1)
        """[n], of each token's weights together."""


class ExactModel:
    """Reads matrices from the source when they are needed, as float32."""

    def __init__(
        self,
        source: SourceModel,
        model: Hyperparameters,
        core: _core.Calibration,
        lengths: Sequence[int],
    ) -> None:
        self.source = source
        self.model = model
        self.core = core
        self.lengths = list(lengths)
        self._converter = _core.Converter(core.threads)

    def values(self, role: str, layer: int | None, expert: int = 0) -> Floats:
        """[rows, columns] of a matrix, [1, columns] of a norm."""
        tensor = self.source.tensor(tensor_name(role, layer))
        with tensor.open() as reader:
            try:
                matrix = reader.values(self._converter, expert)
            except ModelError as error:
                path = tensor.matrices[expert].path
                raise ModelError(f"{path}: tensor {tensor.name} {error}") from None
            reader.drop(expert)
        return matrix

    def scale(self, role: str, layer: int | None) -> Floats:
        """[embedding] of a norm."""
        return self.values(role, layer).reshape(-1)

    def norm(self, h: Floats, role: str, layer: int | None) -> Floats:
        """RMSNorm with the scale of that role."""
        return self.core.norm(h, self.scale(role, layer))

    def embed(self, ids: NDArray[np.int32]) -> Floats:
        """[n, embedding], the states before layer 0."""
        rows = self.values("embedding", None)[ids]
        rows *= np.float32(self.model.embedding_multiplier)
        return rows

    def mixed(self, layer: int, normed: Floats) -> Floats:
        """The heads' outputs side by side, [n, heads * head_size]."""
        q, k, v = (stored(self.values(role, layer)) for role in ("query", "key", "value"))
        return self.core.attend(q, k, v, normed, self.lengths)

    def routes(self, layer: int, normed: Floats) -> Routes:
        """The router is never quantized."""
        logits = self.core.multiply(stored(self.values("router", layer)), normed)
        return Routes(softmax(logits), self.model.experts_used)

    def hidden(self, layer: int, expert: int, rows: Floats) -> Floats:
        """gelu(gate x) * (up x) of one expert, [n, expert width]."""
        gate = self.values("expert_gate", layer, expert)
        return self.core.gate(stored(gate), stored(self.values("expert_up", layer, expert)), rows)

    def experts(self, layer: int, normed: Floats) -> Floats:
        """The routed experts' outputs added up, [n, embedding]."""
        routes = self.routes(layer, normed)
        out = np.zeros_like(normed)
        for expert, (rows, weights) in enumerate(zip(routes.rows, routes.weights, strict=True)):
            if len(rows):
                down = stored(self.values("expert_down", layer, expert))
                hidden = self.hidden(layer, expert, normed[rows])
                out[rows] += weights[:, None] * self.core.multiply(down, hidden)
        return out

    def last_states(self, ids: NDArray[np.int32]) -> Floats:
        """[n, embedding], what the output matrix is multiplied with."""
        h = self.embed(ids)
        for layer in range(self.model.layers):
            mixed = self.mixed(layer, self.norm(h, "attention_norm", layer))
            branch = self.core.multiply(stored(self.values("attention_output", layer)), mixed)
            h += self.norm(branch, "attention_output_norm", layer)
            branch = self.experts(layer, self.norm(h, "expert_norm", layer))
            h += self.norm(branch, "expert_output_norm", layer)
        return self.norm(h, "output_norm", None)

    def uncertainty(self, states: Floats, groups: Sequence[NDArray[np.intp]], role: str) -> Floats:
        """How much logit errors count, [n, groups]: the sum of p (1 - p) over the tokens of a group.

        That is the diagonal of the second derivative of the KL divergence with respect to the logits, p being the
        softmax of the states' logits. role: "output", or "embedding" if it is the output matrix.
        """
        output = stored(self.values(role, None))
        order = np.concatenate(groups)
        starts = np.cumsum([0, *(len(group) for group in groups[:-1])])
        result = np.empty((len(states), len(groups)), np.float32)
        for first in range(0, len(states), _ROWS):
            logits = self.core.multiply(output, states[first : first + _ROWS])
            p = softmax(logits * np.float32(self.model.output_multiplier))
            result[first : first + _ROWS] = np.add.reduceat((p * (1 - p))[:, order], starts, axis=1)
        return result
