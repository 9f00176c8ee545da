"""`--calibrate`: error-compensated rounding, layer by layer on the activations of the quantized layers before.

Two streams of hidden states go through the layers, one of the source's weights and one of the quantized ones. A matrix
is rounded by GPTQ (arXiv 2210.17323; LDLQ of QuIP, 2307.13304) with the statistics of its inputs in the second. Before,
its weights are changed by least squares so that it gives on the second stream's inputs what it gave on the first's, and
the two matrices of a layer that write to the residual stream also take back the difference between the streams. Within
a layer each matrix sees those before it quantized. The file is a plain GGUF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import ModelError
from pygrok.quantize.exact_model import ExactModel, Routes
from pygrok.quantize.hessian import Doubles
from pygrok.quantize.hyperparameters import Hyperparameters
from pygrok.quantize.output_matrix import round_output
from pygrok.quantize.plan import PlannedTensor
from pygrok.quantize.rounding import CalibrationOptions, Floats, Inputs, gram, round_matrix, stored
from pygrok.quantize.source import SourceModel

__all__ = ["CalibrationOptions", "Calibrator", "Piece"]

Bytes = NDArray[np.uint8]
Piece = tuple[str, int, Bytes]
"""GGUF name, matrix (0, or the expert), uint8 [rows, bytes of a row]."""
Read = Callable[[str, int], Bytes]
_Encode = Callable[[PlannedTensor, int, Inputs, Callable[[Floats], Floats]], Bytes]
"""Tensor, matrix, its inputs, and what its outputs are to be, from its weights."""


class Calibrator:
    """Gives the bytes of all matrices, in the order of the file: first `quantize_top`, then every layer in turn.

    The same bytes in every run and for any number of threads. Memory: two hidden states a token; besides, the float32
    weights of one expert, its hidden activations, its statistics, and the layer's quantized gate and up matrices:
    for Grok-1 and 32768 tokens about 20 GB.
    """

    def __init__(
        self,
        source: SourceModel,
        model: Hyperparameters,
        ids: Sequence[NDArray[np.int32]],
        *,
        threads: int = 0,
        options: CalibrationOptions | None = None,
    ) -> None:
        """ids: the calibration text in chunks that see nothing of each other, each at least one token.

        threads: 0 = all available. Raises ValueError for no ids, or one outside the vocabulary.
        """
        if not ids or any(len(chunk) == 0 for chunk in ids):
            raise ValueError("the calibration text gives no tokens, or a chunk without any")
        self._ids = np.concatenate(ids).astype(np.int32)
        if self._ids.min() < 0 or self._ids.max() >= model.vocabulary:
            raise ValueError(f"the calibration text has ids outside the vocabulary of {model.vocabulary}")
        self._core = _core.Calibration(
            heads=model.heads,
            kv_heads=model.kv_heads,
            head_size=model.head_size,
            attention_multiplier=model.attention_multiplier,
            attention_soft_cap=model.attention_soft_cap,
            rms_eps=model.rms_epsilon,
            rope_base=model.rope_base,
            threads=threads,
        )
        self._model = model
        self._options = options or CalibrationOptions()
        self._exact = ExactModel(source, model, self._core, [len(chunk) for chunk in ids])
        self._next = -1  # layer; -1: the embedding
        self._h: Floats = np.empty((0, 0), np.float32)  # of the quantized layers, [n, embedding]
        self._h_exact: Floats = self._h

    def quantize_top(self, tensors: Sequence[PlannedTensor]) -> Iterator[Piece]:
        """The embedding and, if there is one, the output matrix; other tensors are passed over.

        Runs the whole source model once, for the inputs of the output matrix. Raises ModelError, OSError.
        """
        self._begin(-1)
        planned = {tensor.role: tensor for tensor in tensors if tensor.layer is None}
        embedding, output = planned["embedding"], planned.get("output")
        states = self._exact.last_states(self._ids)
        if output is None:
            data = round_output(self._exact, states, embedding.type, "embedding", self._options)
        else:
            counts = np.ones(self._model.embedding, np.float32)
            values = self._exact.values("embedding", None)
            data = _core.quantize_rows(embedding.type, values, self._core.threads, counts)
        yield embedding.name, 0, data
        if output is not None:
            yield output.name, 0, round_output(self._exact, states, output.type, "output", self._options)
        self._start(embedding, data)

    def replay_top(self, tensors: Sequence[PlannedTensor], read: Read) -> None:
        """Instead of `quantize_top` where its pieces are all written: `read` gives them back."""
        self._begin(-1)
        embedding = next(tensor for tensor in tensors if tensor.role == "embedding")
        self._start(embedding, read(embedding.name, 0))

    def quantize_layer(self, layer: int, tensors: Sequence[PlannedTensor]) -> Iterator[Piece]:
        """The matrices of a layer but the router, in the order of the file; other tensors (and layers) are passed over.

        Exhaust it before the next layer. Raises ValueError out of order; ModelError for values that do not fit a
        type, naming the tensor, or activations that are not finite; OSError.
        """
        return self._layer(layer, tensors, self._encode)

    def replay_layer(self, layer: int, tensors: Sequence[PlannedTensor], read: Read) -> None:
        """Instead of `quantize_layer` where its pieces are all written: `read` gives them back."""
        for _ in self._layer(layer, tensors, lambda tensor, index, *_: read(tensor.name, index)):
            pass

    def _begin(self, layer: int) -> None:
        if layer != self._next:
            expected = "the embedding" if self._next < 0 else f"layer {self._next}"
            raise ValueError(f"calibration goes from the embedding through all layers: {expected} is next")

    def _start(self, embedding: PlannedTensor, data: Bytes) -> None:
        rows = _core.dequantize_rows(
            embedding.type, np.ascontiguousarray(data[self._ids]), embedding.shape[-1]
        )
        self._h = rows * np.float32(self._model.embedding_multiplier)
        self._h_exact = self._exact.embed(self._ids)
        self._next = 0

    def _encode(
        self, tensor: PlannedTensor, index: int, inputs: Inputs, wanted: Callable[[Floats], Floats]
    ) -> Bytes:
        weights = self._exact.values(tensor.role, tensor.layer, index)
        try:
            missing = wanted(weights) - self._core.multiply(stored(weights), inputs.x)
            return round_matrix(inputs, weights, missing, tensor.type)
        except ModelError as error:
            raise ModelError(f"{tensor.name}: {error}") from None

    def _layer(self, layer: int, tensors: Sequence[PlannedTensor], encode: _Encode) -> Iterator[Piece]:
        self._begin(layer)
        planned = {tensor.role: tensor for tensor in tensors if tensor.layer == layer}
        yield from self._attention(layer, planned, encode)
        yield from self._experts(layer, planned, encode)
        self._next = layer + 1

    def _attention(
        self, layer: int, planned: Mapping[str, PlannedTensor], encode: _Encode
    ) -> Iterator[Piece]:
        core, exact = self._core, self._exact
        inputs = Inputs(core, self._options, exact.norm(self._h, "attention_norm", layer))
        normed = exact.norm(self._h_exact, "attention_norm", layer)
        matrices = []
        for role in ("query", "key", "value"):
            tensor = planned[role]
            data = encode(tensor, 0, inputs, self._products(normed))
            matrices.append((tensor.type, data))
            yield tensor.name, 0, data

        mixed = exact.mixed(layer, normed)
        branch = core.multiply(stored(exact.values("attention_output", layer)), mixed)
        wanted = branch + self._take_back(branch, "attention_output_norm", layer)
        q, k, v = matrices
        inputs = Inputs(core, self._options, core.attend(q, k, v, inputs.x, exact.lengths))
        tensor = planned["attention_output"]
        data = encode(tensor, 0, inputs, lambda _: wanted)
        yield tensor.name, 0, data
        self._h += exact.norm(core.multiply((tensor.type, data), inputs.x), "attention_output_norm", layer)
        self._h_exact += exact.norm(branch, "attention_output_norm", layer)

    def _experts(self, layer: int, planned: Mapping[str, PlannedTensor], encode: _Encode) -> Iterator[Piece]:
        core, exact = self._core, self._exact
        x = exact.norm(self._h, "expert_norm", layer)
        normed = exact.norm(self._h_exact, "expert_norm", layer)
        routes = exact.routes(layer, x)
        branch = exact.experts(layer, normed)
        back = self._take_back(branch, "expert_output_norm", layer)

        average = self._average(x)
        inputs = [Inputs(core, self._options, x[rows], average) for rows in routes.rows]
        matrices: dict[str, list[Bytes]] = {"expert_gate": [], "expert_up": []}
        for role, written in matrices.items():
            tensor = planned[role]
            for expert, rows in enumerate(routes.rows):
                data = encode(tensor, expert, inputs[expert], self._products(normed[rows]))
                written.append(data)
                yield tensor.name, expert, data
        del inputs

        out = np.zeros_like(x)
        tensor = planned["expert_down"]
        for expert, rows in enumerate(routes.rows):
            gate = (planned["expert_gate"].type, matrices["expert_gate"][expert])
            up = (planned["expert_up"].type, matrices["expert_up"][expert])
            hidden = Inputs(core, self._options, core.gate(gate, up, x[rows]))
            data = encode(tensor, expert, hidden, self._wanted_of_expert(layer, expert, normed, routes, back))
            yield tensor.name, expert, data
            weights = routes.weights[expert][:, None]
            out[rows] += weights * core.multiply((tensor.type, data), hidden.x)
        self._h += exact.norm(out, "expert_output_norm", layer)
        self._h_exact += exact.norm(branch, "expert_output_norm", layer)

    def _products(self, x: Floats) -> Callable[[Floats], Floats]:
        """The exact outputs for exact inputs x."""
        return lambda weights: self._core.multiply(stored(weights), x)

    def _wanted_of_expert(
        self, layer: int, expert: int, normed: Floats, routes: Routes, back: Floats
    ) -> Callable[[Floats], Floats]:
        """The expert's exact outputs and its share of what is to be taken back: its weight over their squares' sum."""

        def wanted(weights: Floats) -> Floats:
            rows = routes.rows[expert]
            hidden = self._exact.hidden(layer, expert, normed[rows])
            share = (routes.weights[expert] / routes.square[rows])[:, None]
            result: Floats = self._core.multiply(stored(weights), hidden) + share * back[rows]
            return result

        return wanted

    def _take_back(self, branch: Floats, role: str, layer: int) -> Floats:
        """What the exact branch would have to be more, [n, embedding], for the streams to meet after its norm.

        The norm divides by the branch's root mean square and multiplies by its scale; channels that it all but
        mutes cannot carry anything.
        """
        scale = self._exact.scale(role, layer)
        audible = np.abs(scale) > 1e-2 * np.abs(scale).max()
        inverse = np.where(audible, 1 / np.where(audible, scale, 1), 0)
        rms = np.sqrt(np.square(branch).mean(1, keepdims=True) + np.float32(self._model.rms_epsilon))
        result: Floats = rms * (self._h_exact - self._h) * inverse.astype(np.float32)
        return result

    def _average(self, x: Floats) -> Doubles:
        """H per token of all tokens, for experts that saw few."""
        return gram(self._core, x, self._options.span_of(x.shape[1])) / len(x)
