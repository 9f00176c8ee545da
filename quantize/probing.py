"""Measures sensitivities: quantizes one tensor of a running model at a time and looks at its predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pygrok import _core
from pygrok.errors import ModelError
from pygrok.evaluation import kl_divergence, reference_log_probabilities
from pygrok.model import Model
from pygrok.quantize.plan import Importance
from pygrok.quantize.sensitivity import Sensitivities, is_weight
from pygrok.quantize.source import SourceModel, SourceTensor
from pygrok.quantize.tensor_reader import convert_rows
from pygrok.quantize.tensor_types import block, row_bytes
from pygrok.quantize.type_errors import relative_error

__all__ = ["measure"]

# Errors large enough that the KL they cause is the sum of many small shifts. At small ones it is mostly that of tokens
# near the boundary between two experts, which a little noise of any origin sends to the other: counted for each tensor
# alone, it would be counted many times.
_PROBES = ("q2_k", "q4_0", "bf16")
_WINDOW = 512
_MOST_PROBES = 64
_ERROR_ROWS = 512  # of each matrix, from which its error is taken

Progress = Callable[[int, int], None]


def measure(
    model: Model,
    source: SourceModel,
    ids: NDArray[np.int32],
    importance: Importance | None,
    converter: _core.Converter,
    *,
    most_probes: int = _MOST_PROBES,
    progress: Progress | None = None,
) -> Sensitivities:
    """s_t = KL / e_t, with tensor t alone in 2-bit blocks (q4_0 where rows do not divide into those).

    model: the running source, with no other user. ids: a text of some thousand tokens. importance: as for the
    conversion. most_probes: with more tensors than that, neighbouring layers' tensors of one role are replaced together
    and share a value. progress: called with (evaluations done, in all); each is a pass over the text.

    Attention as a whole, the experts as a whole and everything at once are probed too: what the parts make together is
    less than their sum where they disturb the same tokens, and the values are scaled to add up to it.

    Raises ModelError if the model's predictions are not numbers, ValueError for fewer than 2 ids, MemoryLimit.
    """
    groups = _groups([tensor for tensor in source.tensors if is_weight(tensor)], most_probes)
    joint = [g for g in (_of_kind(groups, "attention"), _of_kind(groups, "expert"), groups) if len(g) > 1]
    total = 1 + len(groups) + len(joint)
    probe = _Probe(model, ids, importance, converter)
    done = 1

    def tell() -> None:
        if progress is not None:
            progress(done, total)

    tell()
    alone: dict[str, float] = {}
    for group in groups:
        kl, errors = probe.run(group)
        # One that is zero, or that the type holds exactly, has no say in the choice.
        share = kl / sum(errors.values()) if sum(errors.values()) else 0.0
        alone |= dict.fromkeys(errors, share)
        done += 1
        tell()
    scaled = dict(alone)
    for parts in joint:
        kl, errors = probe.run([tensor for group in parts for tensor in group])
        together = sum(scaled[name] * error for name, error in errors.items())
        for name in errors:
            scaled[name] *= kl / together if together else 1.0
        done += 1
        tell()
    details: dict[str, str | int] = {"tokens": len(ids), "probes": total - 1, "probe": _PROBES[0]}
    return Sensitivities(scaled, "measured", details)


def _of_kind(groups: Sequence[Sequence[SourceTensor]], kind: str) -> list[Sequence[SourceTensor]]:
    return [group for group in groups if group[0].kind == kind]


def _groups(tensors: Sequence[SourceTensor], most: int) -> list[list[SourceTensor]]:
    """Each tensor alone, or bands of layers of one role, so that there are at most `most` (or one for each role)."""
    by_role: dict[str, list[SourceTensor]] = {}
    for tensor in tensors:
        by_role.setdefault(tensor.role, []).append(tensor)
    single = sum(len(members) == 1 for members in by_role.values())
    layered = len(by_role) - single
    bands = max(1, (most - single) // layered) if layered else 1
    groups = []
    for members in by_role.values():
        count = min(bands, len(members))
        edges = [i * len(members) // count for i in range(count + 1)]
        groups += [members[a:b] for a, b in pairwise(edges)]
    return groups


class _Probe:
    """Runs the model with some tensors replaced."""

    def __init__(
        self, model: Model, ids: NDArray[np.int32], importance: Importance | None, converter: _core.Converter
    ) -> None:
        self._model = model
        self._ids = ids
        self._importance = importance
        self._converter = converter
        self._window = min(_WINDOW, model.context)
        self._reference = reference_log_probabilities(
            model, ids, window=self._window, stride=self._window - 1
        )

    def run(self, tensors: Sequence[SourceTensor]) -> tuple[float, dict[str, float]]:
        """Mean KL divergence with these tensors quantized, and the error of each."""
        errors = {}
        replaced = []
        try:
            for tensor in tensors:
                kind = next(name for name in _PROBES if tensor.columns % block(name) == 0)
                data, errors[tensor.name] = self._encode(tensor, kind)
                self._model.replace_tensor(tensor.name, kind, data)
                replaced.append(tensor.name)
            divergence = kl_divergence(
                self._model, self._ids, self._reference, window=self._window, stride=self._window - 1
            )
        finally:
            for name in replaced:
                self._model.restore_tensor(name)
        return divergence.mean, errors

    def _encode(self, tensor: SourceTensor, kind: str) -> tuple[NDArray[np.uint8], float]:
        count, rows = len(tensor.matrices), tensor.rows
        data = np.empty((count, rows, row_bytes(kind, tensor.columns)), np.uint8)
        errors = []
        with tensor.open() as reader:
            for index in range(count):
                weights = None
                if self._importance is not None:
                    weights = self._importance.importance(tensor.name, index if count > 1 else None)
                try:
                    convert_rows(self._converter, reader.matrix(index), kind, 0, data[index], weights)
                except ModelError as error:
                    raise ModelError(f"{tensor.matrices[index].path}: tensor {tensor.name} {error}") from None
                some = min(rows, _ERROR_ROWS)
                values = reader.values(self._converter, index, 0, some)
                decoded = _core.dequantize_rows(kind, data[index, :some], tensor.columns)
                errors.append(relative_error(values, decoded, weights))
        return data, float(np.mean(errors))
