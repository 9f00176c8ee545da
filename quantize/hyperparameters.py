"""The model's hyperparameters: what the shapes tell, and what only a config can."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pygrok.errors import FormatError
from pygrok.quantize.checkpoint import Checkpoint, Dimensions

__all__ = ["GROK_1", "Hyperparameters", "find_config", "resolve_hyperparameters"]

ATTENTION_SOFT_CAP = 30.0
RMS_EPSILON = 1e-5
ROPE_BASE = 10000.0


@dataclass(frozen=True)
class Hyperparameters:
    """Everything that the GGUF metadata says of a Grok model."""

    layers: int
    vocabulary: int
    embedding: int
    context: int
    heads: int
    kv_heads: int
    head_size: int
    experts: int
    experts_used: int
    expert_width: int
    embedding_multiplier: float
    output_multiplier: float
    attention_multiplier: float
    pad_id: int
    bos_id: int
    eos_id: int

    @property
    def dimensions(self) -> Dimensions:
        """The shapes that these hyperparameters imply."""
        return Dimensions(
            layers=self.layers,
            vocabulary=self.vocabulary,
            embedding=self.embedding,
            experts=self.experts,
            expert_width=self.expert_width,
            query=self.heads * self.head_size,
            key_value=self.kv_heads * self.head_size,
        )


GROK_1 = Hyperparameters(
    layers=64,
    vocabulary=131072,
    embedding=6144,
    context=8192,
    heads=48,
    kv_heads=8,
    head_size=128,
    experts=8,
    experts_used=2,
    expert_width=32768,
    embedding_multiplier=78.38367176906169,
    output_multiplier=0.5773502691896257,
    attention_multiplier=0.08838834764831845,
    pad_id=0,
    bos_id=1,
    eos_id=2,
)


def expert_width(embedding: int, widening: float) -> int:
    """Width of an expert: two thirds of `widening * embedding`, rounded up to a multiple of 8."""
    width = int(widening * embedding) * 2 // 3
    return -(-width // 8) * 8


def find_config(checkpoint: Checkpoint) -> Path | None:
    """`config.json` in the checkpoint's directory or the one above."""
    for directory in (checkpoint.directory, checkpoint.directory.absolute().parent):
        if (directory / "config.json").is_file():
            return directory / "config.json"
    return None


def resolve_hyperparameters(checkpoint: Checkpoint, config: str | Path | None = None) -> Hyperparameters:
    """From `config`, else Grok-1's own if the shapes are Grok-1's, else from config.json beside the checkpoint.

    Raises FormatError if the config is damaged or contradicts the shapes, or if nothing tells the
    hyperparameters; OSError if `config` cannot be read.
    """
    shapes = checkpoint.dimensions
    # Any number of layers: a prefix of Grok-1 has its hyperparameters too.
    grok_1 = Hyperparameters(**{**GROK_1.__dict__, "layers": shapes.layers})
    if config is None and grok_1.dimensions == shapes:
        return grok_1
    path = Path(config) if config is not None else find_config(checkpoint)
    if path is not None:
        found = _read_config(path)
        problems = _differences(found.dimensions, shapes)
        if problems:
            raise FormatError(f"{path}: does not describe {checkpoint.directory}: {'; '.join(problems)}")
        return found

    known = ", ".join(f"{name} {value}" for name, value in shapes.__dict__.items())
    raise FormatError(
        f"{checkpoint.directory}: the shapes are not Grok-1's ({known}) and do not tell the number of "
        "heads, the context, the experts used or the multipliers: give --config FILE, with xAI's field names"
    )


def _differences(config: Dimensions, shapes: Dimensions) -> list[str]:
    what = {
        "layers": "num_layers",
        "vocabulary": "vocab_size",
        "embedding": "emb_size",
        "experts": "num_experts",
        "expert_width": "the expert width (from emb_size and widening_factor)",
        "query": "num_q_heads x key_size",
        "key_value": "num_kv_heads x key_size",
    }
    return [
        f"{what[name]} is {value} in the config, {getattr(shapes, name)} in the tensors"
        for name, value in config.__dict__.items()
        if value != getattr(shapes, name)
    ]


def _read_config(path: Path) -> Hyperparameters:
    try:
        root = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, RecursionError, ValueError) as error:
        raise FormatError(f"{path}: not JSON: {error}") from None
    if not isinstance(root, dict) or not isinstance(root.get("model"), dict):
        raise FormatError(
            f"{path}: expected an object with vocab_size, ... and an object 'model' with emb_size, ..."
        )

    problems: list[str] = []

    def read(
        place: str, fields: dict[str, Any], name: str, is_valid: Callable[[Any], bool], wanted: str
    ) -> Any:
        value = fields.get(name)
        if is_valid(value):
            return value
        problems.append(
            f"{place}{name} is {'missing' if name not in fields else repr(value)[:40]}, expected {wanted}"
        )
        return 1

    def count(name: str, fields: dict[str, Any] | None = None) -> int:
        place = "" if fields is None else "model."
        value = read(place, root if fields is None else fields, name, _is_count, "a positive whole number")
        return int(value)

    def positive(name: str, fields: dict[str, Any] | None = None) -> float:
        place = "" if fields is None else "model."
        return float(read(place, root if fields is None else fields, name, _is_positive, "a positive number"))

    def token(name: str, default: int) -> int:
        return int(read("", {name: default, **root}, name, _is_token, "a token id"))

    model = root["model"]
    embedding = count("emb_size", model)
    found = Hyperparameters(
        layers=count("num_layers", model),
        vocabulary=count("vocab_size"),
        embedding=embedding,
        context=count("sequence_len"),
        heads=count("num_q_heads", model),
        kv_heads=count("num_kv_heads", model),
        head_size=count("key_size", model),
        experts=count("num_experts", model),
        experts_used=count("num_selected_experts", model),
        expert_width=expert_width(embedding, positive("widening_factor", model)),
        embedding_multiplier=positive("embedding_multiplier_scale"),
        output_multiplier=positive("output_multiplier_scale"),
        attention_multiplier=positive("attn_output_multiplier", model),
        pad_id=token("pad_token", GROK_1.pad_id),
        bos_id=token("bos_token", GROK_1.bos_id),
        eos_id=token("eos_token", GROK_1.eos_id),
    )
    if found.experts_used > found.experts:
        problems.append(f"num_selected_experts {found.experts_used} is above num_experts {found.experts}")
    if found.heads % found.kv_heads:
        problems.append(f"num_q_heads {found.heads} is not a multiple of num_kv_heads {found.kv_heads}")
    if found.head_size % 2:
        problems.append(f"key_size {found.head_size} is odd")
    if problems:
        raise FormatError(f"{path}: {'; '.join(problems)}")
    return found


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**31


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 < value < 1e9


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31
