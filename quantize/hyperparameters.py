"""The model's hyperparameters: what the shapes tell, and what only a config can."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pygrok.errors import FormatError
from pygrok.quantize.config_file import ConfigFile
from pygrok.quantize.roles import Dimensions

__all__ = ["GROK_1", "Hyperparameters", "resolve_hyperparameters"]


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
    attention_soft_cap: float = 30.0
    rms_epsilon: float = 1e-5
    rope_base: float = 10000.0

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

    def problems(self) -> list[str]:
        """What cannot be in any Grok model."""
        found = []
        if self.experts_used > self.experts:
            found.append(
                f"the number of experts used, {self.experts_used}, is above num_experts {self.experts}"
            )
        if self.heads % self.kv_heads:
            found.append(f"{self.heads} query heads are not a multiple of {self.kv_heads} key/value heads")
        if self.head_size % 2:
            found.append(f"head size {self.head_size} is odd")
        return found


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


class _HasShapes(Protocol):
    """A model whose tensors are known."""

    @property
    def directory(self) -> Path: ...
    @property
    def dimensions(self) -> Dimensions: ...


def _find_config(checkpoint: _HasShapes) -> Path | None:
    """`config.json` in the checkpoint's directory or the one above."""
    for directory in (checkpoint.directory, checkpoint.directory.absolute().parent):
        if (directory / "config.json").is_file():
            return directory / "config.json"
    return None


def resolve_hyperparameters(checkpoint: _HasShapes, config: str | Path | None = None) -> Hyperparameters:
    """From `config`, else Grok-1's own if the shapes are Grok-1's, else from config.json beside the checkpoint.

    Raises FormatError if the config is damaged or contradicts the shapes, or if nothing tells the
    hyperparameters; OSError if `config` cannot be read.
    """
    shapes = checkpoint.dimensions
    # Any number of layers: a prefix of Grok-1 has its hyperparameters too.
    grok_1 = Hyperparameters(**{**GROK_1.__dict__, "layers": shapes.layers})
    if config is None and grok_1.dimensions == shapes:
        return grok_1
    path = Path(config) if config is not None else _find_config(checkpoint)
    if path is not None:
        return _read_config(path, shapes, checkpoint.directory)

    known = ", ".join(f"{name} {value}" for name, value in shapes.__dict__.items())
    raise FormatError(
        f"{checkpoint.directory}: the shapes are not Grok-1's ({known}) and do not tell the number of "
        "heads, the context, the experts used or the multipliers: give --config FILE, with the field names of xAI or "
        "Hugging Face"
    )


# What differs is named as the config names it.
_XAI_NAMES = {
    "layers": "num_layers",
    "vocabulary": "vocab_size",
    "embedding": "emb_size",
    "experts": "num_experts",
    "expert_width": "the expert width (from emb_size and widening_factor)",
    "query": "num_q_heads x key_size",
    "key_value": "num_kv_heads x key_size",
}
_HUGGING_FACE_NAMES = {
    "layers": "num_hidden_layers",
    "vocabulary": "vocab_size",
    "embedding": "hidden_size",
    "experts": "num_experts",
    "expert_width": "intermediate_size",
    "query": "num_attention_heads x head_dim",
    "key_value": "num_key_value_heads x head_dim",
}


def _read_config(path: Path, shapes: Dimensions, described: Path) -> Hyperparameters:
    config = ConfigFile(path)
    if config.has("model"):
        found, names = _from_xai(config), _XAI_NAMES
    elif config.has("hidden_size"):
        found, names = _from_hugging_face(config, shapes), _HUGGING_FACE_NAMES
    else:
        raise FormatError(
            f"{path}: expected an object with vocab_size, ... and an object 'model' with emb_size, ..., or Hugging "
            "Face's hidden_size, num_hidden_layers, ..."
        )
    if not config.problems:
        config.problems += found.problems()
    config.finish()
    problems = [
        f"{names[name]} is {value} in the config, {getattr(shapes, name)} in the tensors"
        for name, value in found.dimensions.__dict__.items()
        if value != getattr(shapes, name)
    ]
    if problems:
        raise FormatError(f"{path}: does not describe {described}: {'; '.join(problems)}")
    return found


def _from_xai(config: ConfigFile) -> Hyperparameters:
    """xAI's names: run.py of https://github.com/xai-org/grok-1."""
    model = config.part("model")
    embedding = model.count("emb_size")
    return Hyperparameters(
        layers=model.count("num_layers"),
        vocabulary=config.count("vocab_size"),
        embedding=embedding,
        context=config.count("sequence_len"),
        heads=model.count("num_q_heads"),
        kv_heads=model.count("num_kv_heads"),
        head_size=model.count("key_size"),
        experts=model.count("num_experts"),
        experts_used=model.count("num_selected_experts"),
        expert_width=expert_width(embedding, model.positive("widening_factor")),
        embedding_multiplier=config.positive("embedding_multiplier_scale"),
        output_multiplier=config.positive("output_multiplier_scale"),
        attention_multiplier=model.positive("attn_output_multiplier"),
        pad_id=config.token("pad_token", GROK_1.pad_id),
        bos_id=config.token("bos_token", GROK_1.bos_id),
        eos_id=config.token("eos_token", GROK_1.eos_id),
    )


def _from_hugging_face(config: ConfigFile, shapes: Dimensions) -> Hyperparameters:
    """The names of hpcai-tech/grok-1's config.json, and those of later tools where they differ."""
    for name in ("final_logit_softcapping", "rope_scaling", "scaling_factor", "residual_moe"):
        if config.has(name):
            config.problems.append(f"{name} is set: this is a later Grok than Grok-1")
    rope = config.part("rope_parameters") if config.has("rope_parameters") else config
    heads = config.count("num_attention_heads")
    return Hyperparameters(
        layers=config.count("num_hidden_layers"),
        vocabulary=config.count("vocab_size"),
        embedding=config.count("hidden_size"),
        context=config.count("max_position_embeddings"),
        heads=heads,
        kv_heads=config.count("num_key_value_heads", default=heads),
        head_size=config.count("head_dim", default=max(1, shapes.query // heads)),
        experts=config.count("num_experts", "num_local_experts"),
        experts_used=config.count("num_experts_per_tok", "num_selected_experts"),
        expert_width=config.count("moe_intermediate_size", "intermediate_size"),
        embedding_multiplier=config.positive("embedding_multiplier_scale"),
        output_multiplier=config.positive("output_multiplier_scale"),
        attention_multiplier=config.positive("attn_output_multiplier"),
        pad_id=config.token("pad_token_id", GROK_1.pad_id),
        bos_id=config.token("bos_token_id", GROK_1.bos_id),
        eos_id=config.token("eos_token_id", GROK_1.eos_id),
        attention_soft_cap=config.positive(
            "max_attn_value", "attn_logit_softcapping", default=GROK_1.attention_soft_cap
        ),
        rms_epsilon=config.positive("rms_norm_eps", default=GROK_1.rms_epsilon),
        rope_base=rope.positive("rope_theta", default=GROK_1.rope_base),
    )
