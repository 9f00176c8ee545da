"""A small model whose matrices are random blocks of each type runs, and computes what its dequantized twin does."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from checkpoints import make_checkpoint
from kernel_reference import QUANTIZED, dequantize, geometry, random_blocks

import pygrok
from pygrok.quantize import convert

IDS = list(range(5, 35))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float model of which every matrix row is whole blocks of 256."""
    folder = tmp_path_factory.mktemp("blocks")
    sizes = {"embedding": 256, "heads": 16, "kv_heads": 4, "context": 64}
    convert(make_checkpoint(folder / "checkpoint", **sizes), folder / "m.gguf", type="f32", no_tokenizer=True)
    return folder / "m.gguf"


def with_matrices(source: Path, target: Path, kind: str, blocks: bool) -> Path:
    """A copy with random blocks of `kind` for the matrices of the layers, or with the floats that they stand for."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "grok")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    for i, tensor in enumerate(reader.tensors):
        data = np.array(tensor.data)
        if data.ndim < 2 or not tensor.name.startswith("blk.") or "gate_inp" in tensor.name:
            writer.add_tensor(tensor.name, data)
            continue
        columns = data.shape[-1]
        random = random_blocks(kind, data.size // columns, columns, seed=i)
        values = dequantize(kind, random)
        if not blocks:
            writer.add_tensor(tensor.name, values.reshape(data.shape))
            continue
        shape = (*data.shape[:-1], columns // geometry(kind)[0] * geometry(kind)[1])
        quant = gguf.GGMLQuantizationType[kind.upper()]
        writer.add_tensor(tensor.name, random.reshape(shape), raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def logits(path: Path, **options: str) -> np.ndarray:
    with pygrok.load(path, kv_type="f32", **options) as model:
        return model.logits(IDS)


@pytest.mark.parametrize("kind", QUANTIZED)
def test_models_of_every_type_run(source: Path, tmp_path: Path, kind: str) -> None:
    quantized = with_matrices(source, tmp_path / "q.gguf", kind, blocks=True)
    exact = logits(with_matrices(source, tmp_path / "f.gguf", kind, blocks=False))
    norm = np.linalg.norm(exact)
    fine = np.linalg.norm(logits(quantized, activations="int24") - exact) / norm
    assert fine < 5e-4
    # By default activations are int8 (q8_0: int24), whose rounding this deep random model makes much of.
    coarse = np.linalg.norm(logits(quantized, isa="scalar") - exact) / norm
    assert coarse < 5e-4 if kind == "q8_0" else 1e-3 < coarse < 0.4
