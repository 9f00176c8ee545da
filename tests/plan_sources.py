"""Models without files, for tests of what needs names, shapes and kinds only."""

from __future__ import annotations

from pathlib import Path

from pygrok.quantize.roles import LAYER_ROLES, TOP_ROLES, Dimensions
from pygrok.quantize.source import SourceModel, make_tensors
from pygrok.quantize.tensor_reader import StoredMatrix

GROK_1 = Dimensions(
    layers=64,
    vocabulary=131072,
    embedding=6144,
    experts=8,
    expert_width=32768,
    query=6144,
    key_value=1024,
)


def source_without_files(dimensions: Dimensions = GROK_1, dtype: str = "int8") -> SourceModel:
    """Weights of type `dtype`, embedding and norms f32, as in the release."""

    def stored(role: str, kind: str) -> tuple[StoredMatrix, ...]:
        shape = dimensions.shape_of(role)
        rows = shape[-2] if len(shape) > 1 else 1
        name = "f32" if kind in ("embedding", "norm", "router") else dtype
        return (StoredMatrix(Path("nowhere"), 0, name, rows, shape[-1]),) * (
            shape[0] if len(shape) == 3 else 1
        )

    top = {role: stored(role, about.kind) for role, about in TOP_ROLES.items() if role != "output"}
    layer = {role: stored(role, about.kind) for role, about in LAYER_ROLES.items()}
    tensors = make_tensors(top, [layer] * dimensions.layers, dimensions, transposed=True)
    return SourceModel("xai", Path("nowhere"), Path("nowhere"), (), dimensions, tensors)
