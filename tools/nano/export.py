"""Export a trained Nano in xAI's format: int8 with grouped bfloat16 scales, and a twin in float32.

Both folders hold ``ckpt-0/``, ``config.json`` with xAI's field names, and ``tokenizer.model``. The twin has
plain float32 arrays where the release has quantized objects.
"""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import torch
from model import Config, Nano
from names import SCALE_GROUPS, files


class QuantizedWeight8bit:
    """The release's container: int8 ``weight``, bfloat16 ``scales``, one per group of rows and column."""

    weight: np.ndarray
    scales: np.ndarray

    def __init__(self, weight: np.ndarray, scales: np.ndarray) -> None:
        self.weight, self.scales = weight, scales


# The release was pickled by a script that defined the class itself, with a numpy whose array constructor
# still lived in ``numpy.core``; the names in the files are these, whatever runs here.
QuantizedWeight8bit.__module__ = "__main__"
np.empty(0).__reduce__()[0].__module__ = "numpy.core.multiarray"


def quantized(weight: np.ndarray, groups: int) -> QuantizedWeight8bit:
    """Round ``[..., in, out]`` to int8 with one bfloat16 scale per column and group of input rows."""
    *lead, rows, columns = weight.shape
    grouped = weight.reshape(*lead, groups, rows // groups, columns)
    # The scale is rounded to bfloat16 first and the weights are divided by what is stored, not by what was
    # meant. A column of zeros keeps a scale of one.
    peak = np.abs(grouped).max(axis=-2)
    scales = np.where(peak > 0, peak / 127, 1).astype(ml_dtypes.bfloat16)
    codes = np.rint(grouped / scales.astype(np.float32)[..., None, :]).clip(-127, 127).astype(np.int8)
    return QuantizedWeight8bit(codes.reshape(weight.shape), scales)


def dequantized(stored: QuantizedWeight8bit) -> np.ndarray:
    """The weights that a reader of the file sees."""
    rows, groups = stored.weight.shape[-2], stored.scales.shape[-2]
    return stored.weight.astype(np.float32) * stored.scales.astype(np.float32).repeat(rows // groups, axis=-2)


def write(folder: Path, index: int, value: object) -> None:
    with (folder / f"tensor{index:05d}_000").open("wb") as file:
        pickle.dump(value, file, protocol=4)


class _Unpickler(pickle.Unpickler):
    """Reads back only what the format may hold."""

    ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("__main__", "QuantizedWeight8bit"): QuantizedWeight8bit,
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("ml_dtypes", "bfloat16"): ml_dtypes.bfloat16,
    }

    def find_class(self, module: str, name: str) -> object:
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"global not of the format: {module}.{name}") from None


def read(folder: Path, layers: int) -> dict[str, np.ndarray]:
    """A checkpoint folder as float32 arrays under the names of ``model.Nano``."""
    state = {}
    for index, (_, name) in enumerate(files(layers)):
        with (folder / f"tensor{index:05d}_000").open("rb") as file:
            value = _Unpickler(file).load()
        state[name] = dequantized(value) if isinstance(value, QuantizedWeight8bit) else value
    return state


def config_json(config: Config) -> dict[str, object]:
    """The hyperparameters under the names of xAI's code."""
    widening = 3
    width = (widening * config.embedding * 2 // 3 + 7) // 8 * 8
    if width != config.width:
        raise SystemExit(f"a widening factor of {widening} makes experts {width} wide, not {config.width}")
    return {
        "vocab_size": config.vocab,
        "pad_token": 0,
        "eos_token": 2,
        "sequence_len": config.context,
        "output_multiplier_scale": config.output_multiplier,
        "embedding_multiplier_scale": config.embedding_multiplier,
        "model": {
            "emb_size": config.embedding,
            "widening_factor": widening,
            "key_size": config.head_size,
            "num_q_heads": config.heads,
            "num_kv_heads": config.kv_heads,
            "num_layers": config.layers,
            "attn_output_multiplier": config.head_size**-0.5,
            "num_experts": config.experts,
            "num_selected_experts": config.routed,
        },
    }


def load_model(checkpoint: Path, dtype: torch.dtype = torch.float32) -> Nano:
    """A model from a training checkpoint, ready to compute with."""
    state = torch.load(checkpoint, weights_only=True)
    model = Nano(Config(**state["config"]), dtype)
    model.load_state_dict(state["model"])
    return model.requires_grad_(False).eval()


def export(model: Nano, tokenizer: Path, target: Path) -> dict[str, float]:
    """Write both folders below ``target``; return each kind of tensor's largest relative rounding error."""
    errors: dict[str, float] = {}
    for kind in ("ckpt", "f32"):
        folder = target / kind
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "ckpt-0").mkdir(parents=True)
        (folder / "config.json").write_text(
            json.dumps(config_json(model.config), indent=1) + "\n", encoding="utf-8"
        )
        shutil.copyfile(tokenizer, folder / "tokenizer.model")
    state = {name: np.ascontiguousarray(value.numpy()) for name, value in model.state_dict().items()}
    for index, (_, name) in enumerate(files(model.config.layers)):
        weight, last = state[name], name.split(".")[-1]
        write(target / "f32" / "ckpt-0", index, weight)
        if last not in SCALE_GROUPS:
            write(target / "ckpt" / "ckpt-0", index, weight)
            continue
        stored = quantized(weight, SCALE_GROUPS[last])
        write(target / "ckpt" / "ckpt-0", index, stored)
        error = float(np.linalg.norm(dequantized(stored) - weight) / np.linalg.norm(weight))
        errors[last] = max(errors.get(last, 0.0), error)
    return errors


def check(model: Nano, target: Path) -> None:
    """Read both folders back: float32 must be the model, int8 no further from it than rounding takes it."""
    layers = model.config.layers
    plain, rounded = read(target / "f32" / "ckpt-0", layers), read(target / "ckpt" / "ckpt-0", layers)
    for name, value in model.state_dict().items():
        weight = value.numpy()
        if not np.array_equal(plain[name], weight):
            raise SystemExit(f"{name}: the float32 export differs from the model")
        # Half a code, and what a peak loses when its scale is rounded down: bfloat16 has 8 bits.
        bound = np.abs(weight).max() * (0.5 / 127 + 2**-8)
        if np.abs(rounded[name] - weight).max() > bound:
            raise SystemExit(f"{name}: the int8 export is further from the model than rounding allows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("/tmp/nano"))
    parser.add_argument("--checkpoint", type=Path, default=Path("/tmp/nano/run/checkpoint.pt"))
    parser.add_argument("--target", type=Path, default=Path("/tmp/nano/export"))
    arguments = parser.parse_args()
    model = load_model(arguments.checkpoint)
    for kind, error in export(model, arguments.work / "tokenizer.model", arguments.target).items():
        print(f"{kind}: relative rounding error {error:.4f}")
    check(model, arguments.target)
    print(f"written and read back: {arguments.target}/ckpt and {arguments.target}/f32")


if __name__ == "__main__":
    main()
