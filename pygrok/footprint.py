"""What a GGUF file holds and what running it would touch, from its header alone.

Works for files that the engine cannot run, and reads no tensor data.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pygrok._core import GgufFile, TensorInfo

# Bytes of one cached number; those of q8_0 come in blocks of 32 with a scale.
KV_BYTES: dict[str, float] = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32}

_MERGED_EXPERTS = re.compile(r"blk\.\d+\.ffn_(gate|up|down)_exps\.weight")
_EVERY_TOKEN = ("attn_k.weight", "attn_v.weight")  # all that the last layer computes for most of a prompt
_ONE_EXPERT = re.compile(r"blk\.\d+\.ffn_(gate|up|down)\.\d+\.weight")

# GGUF key after "grok." -> our name, and the released model's value where older files lack the key.
_HYPERPARAMETERS: dict[str, tuple[str, float | None]] = {
    "block_count": ("layers", None),
    "embedding_length": ("embedding", None),
    "context_length": ("context", None),
    "attention.head_count": ("heads", None),
    "attention.head_count_kv": ("kv_heads", None),
    "rope.dimension_count": ("head_size", None),
    "expert_count": ("experts", None),
    "expert_used_count": ("experts_used", None),
    "feed_forward_length": ("expert_width", None),
    "embedding_scale": ("embedding_multiplier", 78.38367176906169),
    "logit_scale": ("output_multiplier", 0.5773502691896257),
    "attention.output_scale": ("attention_multiplier", 0.08838834764831845),
    "attn_logit_softcapping": ("attention_soft_cap", 30.0),
    "attention.layer_norm_rms_epsilon": ("rms_eps", 1e-5),
    "rope.freq_base": ("rope_base", 10000.0),
}


@dataclass
class TypeTotal:
    """All tensors of one type."""

    count: int = 0
    values: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Footprint:
    """Sizes are bytes; `active_*`: what a decoded token uses: routed experts, one row of an input table."""

    paths: list[str]
    file_bytes: int
    version: int
    architecture: str
    name: str
    hyperparameters: dict[str, int | float]
    types: dict[str, TypeTotal]
    tensors: list[TensorInfo]
    values: int
    active_values: int
    active_bytes: int
    prompt_values: int  # weights that every token of a prompt is multiplied with
    last_values: (
        int  # and those that only its last token is: the last layer past keys and values, the output matrix
    )
    kv_values: int  # cached numbers a position, 0 if unknown
    tokenizer: dict[str, Any] | None
    unsupported: list[str] = field(default_factory=list)

    @property
    def runnable(self) -> bool:
        """Architecture and weight types are ones that the engine runs."""
        return self.architecture == "grok" and not self.unsupported


def _values(tensor: TensorInfo) -> int:
    return math.prod(tensor.shape)


def _hyperparameters(
    gguf: GgufFile, architecture: str, tensors: dict[str, TensorInfo]
) -> dict[str, int | float]:
    found: dict[str, int | float] = {}
    for key, (name, released) in _HYPERPARAMETERS.items():
        value = gguf.get(f"{architecture}.{key}", released if architecture == "grok" else None)
        # Counts are whole numbers, the others finite; a damaged file may hold anything.
        kinds = int if released is None else int | float
        if isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value):
            found[name] = value
    heads = found.get("heads", 0)
    if "head_size" not in found and heads and "embedding" in found:
        found["head_size"] = int(found["embedding"]) // int(heads)
    if "token_embd.weight" in tensors:
        found["vocab"] = tensors["token_embd.weight"].shape[0]
    return found


def _tokenizer(gguf: GgufFile) -> dict[str, Any] | None:
    kind = gguf.get("tokenizer.ggml.model")
    if not isinstance(kind, str) or kind in ("none", "no_vocab"):
        return None
    pieces = gguf.get("tokenizer.ggml.tokens")
    described: dict[str, Any] = {"model": kind, "pieces": len(pieces) if isinstance(pieces, list) else 0}
    for key in ("bos_token_id", "eos_token_id", "padding_token_id", "unknown_token_id", "add_bos_token"):
        value = gguf.get(f"tokenizer.ggml.{key}")
        if isinstance(value, int):
            described[key] = value
    described["chat_template"] = gguf.get("tokenizer.chat_template") is not None
    return described


def footprint(gguf: GgufFile) -> Footprint:
    """Describe an open file."""
    from pygrok import _core

    tensors = gguf.tensors
    by_name = {tensor.name: tensor for tensor in tensors}
    architecture = str(gguf.get("general.architecture", "unknown"))
    hyper = _hyperparameters(gguf, architecture, by_name)
    experts = int(hyper.get("experts", 0))
    share = int(hyper.get("experts_used", 0)) / experts if experts else 1.0
    tied = "output.weight" not in by_name
    output = "token_embd.weight" if tied else "output.weight"
    last_layer = f"blk.{int(hyper.get('layers', 0)) - 1}."

    types: dict[str, TypeTotal] = {}
    active_values = active_bytes = prompt_values = last_values = 0.0
    for tensor in tensors:
        count = _values(tensor)
        total = types.setdefault(tensor.type, TypeTotal())
        total.count += 1
        total.values += count
        total.bytes += tensor.bytes
        routed = _MERGED_EXPERTS.fullmatch(tensor.name) or _ONE_EXPERT.fullmatch(tensor.name)
        part = share if routed else 1.0
        if tensor.name == "token_embd.weight" and not tied:
            part = 1.0 / max(tensor.shape[0], 1)
        active_values += part * count
        active_bytes += part * tensor.bytes
        if tensor.name == output:
            last_values += count
        elif tensor.name.startswith(last_layer) and not tensor.name.endswith(_EVERY_TOKEN):
            last_values += part * count
        elif len(tensor.shape) > 1 and tensor.name != "token_embd.weight":
            prompt_values += part * count
    runnable = set(_core.runnable_types())
    return Footprint(
        paths=list(gguf.paths),
        file_bytes=gguf.file_bytes,
        version=gguf.version,
        architecture=architecture,
        name=str(gguf.get("general.name", "")),
        hyperparameters=hyper,
        types=types,
        tensors=tensors,
        values=sum(total.values for total in types.values()),
        active_values=round(active_values),
        active_bytes=round(active_bytes),
        prompt_values=round(prompt_values),
        last_values=round(last_values),
        kv_values=2 * int(hyper.get("layers", 0) * hyper.get("kv_heads", 0) * hyper.get("head_size", 0)),
        tokenizer=_tokenizer(gguf),
        unsupported=sorted(set(types) - runnable),
    )
