"""Writes what `Calibrator` gives, and skips, or gives it back, what an earlier process had written."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from pygrok.quantize.calibration import Calibrator
from pygrok.quantize.encode import TensorEncoder
from pygrok.quantize.plan import Plan, PlannedTensor
from pygrok.quantize.roles import ALWAYS_F32
from pygrok.quantize.writer import OutputFiles

__all__ = ["is_calibrated", "write_calibrated"]


def is_calibrated(tensor: PlannedTensor) -> bool:
    """Whether the calibrator makes its bytes: all matrices but the router."""
    return tensor.kind not in ALWAYS_F32


def write_calibrated(
    plan: Plan,
    output: OutputFiles,
    encoder: TensorEncoder,
    calibrator: Calibrator,
    advance: Callable[[int], None],
) -> None:
    """All tensors, layer by layer; those that are not the calibrator's go to `encoder`.

    advance: called with bytes of the source that are done. Raises as the two do.
    """
    planned = {tensor.name: tensor for tensor in plan.tensors}

    def read(name: str, index: int) -> NDArray[np.uint8]:
        tensor = planned[name]
        nbytes = tensor.rows * tensor.row_bytes
        return output.read((name, index), nbytes).reshape(tensor.rows, tensor.row_bytes)

    groups = list(_groups(plan))
    finished = [
        {
            (tensor.name, index)
            for tensor in group
            for index in range(tensor.matrices)
            if output.is_finished((tensor.name, index), tensor.rows * tensor.row_bytes)
        }
        for _, group in groups
    ]
    complete = [
        len(done) == sum(tensor.matrices for tensor in group)
        for done, (_, group) in zip(finished, groups, strict=True)
    ]
    # Layers after the last unfinished one need no activations.
    needed = max((i for i, is_complete in enumerate(complete) if not is_complete), default=-1) + 1
    for i, (layer, group) in enumerate(groups):
        for name, index in finished[i]:
            encoder.skipped += planned[name].source.matrices[index].nbytes
            advance(planned[name].source.matrices[index].nbytes)
        if complete[i]:
            if i < needed and layer is None:
                calibrator.replay_top(group, read)
            elif i < needed and layer is not None:
                calibrator.replay_layer(layer, group, read)
            continue
        pieces = calibrator.quantize_top(group) if layer is None else calibrator.quantize_layer(layer, group)
        for name, index, data in pieces:
            if (name, index) not in finished[i]:
                output.write((name, index), data.nbytes, 0, np.ascontiguousarray(data))
                output.end_piece((name, index))
                advance(planned[name].source.matrices[index].nbytes)
    for tensor in plan.tensors:
        if not is_calibrated(tensor):
            encoder.encode(tensor)


def _groups(plan: Plan) -> Iterator[tuple[int | None, list[PlannedTensor]]]:
    """What the calibrator makes, outside the layers first."""
    layers = list(dict.fromkeys(tensor.layer for tensor in plan.tensors))
    for layer in sorted(layers, key=lambda layer: -1 if layer is None else layer):
        group = [tensor for tensor in plan.tensors if tensor.layer == layer and is_calibrated(tensor)]
        yield layer, group
