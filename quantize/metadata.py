"""The GGUF metadata of arch `grok`, as llama.cpp and pygrok read it."""

from __future__ import annotations

import gguf

from pygrok.quantize.hyperparameters import ATTENTION_SOFT_CAP, RMS_EPSILON, ROPE_BASE, Hyperparameters
from pygrok.quantize.tokenizer import Vocabulary

__all__ = ["FILE_TYPES", "add_metadata"]

ARCHITECTURE = "grok"
ROUTER_SOFT_CAP = (
    30.0  # Grok-1 has no such cap and readers do not apply it; llama.cpp's own files carry the key
)
QUANTIZATION_VERSION = 2

# general.file_type: the type of most tensors, for display.
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}


def add_metadata(
    writer: gguf.GGUFWriter, model: Hyperparameters, vocabulary: Vocabulary | None, type: str, name: str
) -> None:
    """Everything but the architecture, which the writer adds itself."""
    writer.add_string("general.name", name)
    writer.add_string("general.type", "model")
    writer.add_uint32("general.quantization_version", QUANTIZATION_VERSION)
    writer.add_uint32("general.file_type", FILE_TYPES[type])

    counts = {
        "block_count": model.layers,
        "context_length": model.context,
        "embedding_length": model.embedding,
        "feed_forward_length": model.expert_width,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
        "attention.key_length": model.head_size,
        "attention.value_length": model.head_size,
        "rope.dimension_count": model.head_size,
        "expert_count": model.experts,
        "expert_used_count": model.experts_used,
        "vocab_size": model.vocabulary,
    }
    for key, count in counts.items():
        writer.add_uint32(f"{ARCHITECTURE}.{key}", count)
    numbers = {
        "attention.layer_norm_rms_epsilon": RMS_EPSILON,
        "rope.freq_base": ROPE_BASE,
        "embedding_scale": model.embedding_multiplier,
        "logit_scale": model.output_multiplier,
        "attention.output_scale": model.attention_multiplier,
        "attn_logit_softcapping": ATTENTION_SOFT_CAP,
        "router_logit_softcapping": ROUTER_SOFT_CAP,
    }
    for key, number in numbers.items():
        writer.add_float32(f"{ARCHITECTURE}.{key}", number)

    if vocabulary is None:
        # llama.cpp then makes vocab_size placeholder tokens; without this key it does not load the file.
        writer.add_string("tokenizer.ggml.model", "no_vocab")
        return
    writer.add_string("tokenizer.ggml.model", "llama")
    writer.add_string("tokenizer.ggml.pre", "default")
    writer.add_array("tokenizer.ggml.tokens", vocabulary.pieces)
    writer.add_array("tokenizer.ggml.scores", vocabulary.scores)
    writer.add_array("tokenizer.ggml.token_type", vocabulary.types)
    writer.add_uint32("tokenizer.ggml.bos_token_id", model.bos_id)
    writer.add_uint32("tokenizer.ggml.eos_token_id", model.eos_id)
    writer.add_uint32("tokenizer.ggml.padding_token_id", model.pad_id)
    writer.add_uint32("tokenizer.ggml.unknown_token_id", vocabulary.unknown_id)
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    writer.add_bool("tokenizer.ggml.add_eos_token", False)
    writer.add_bool("tokenizer.ggml.add_space_prefix", vocabulary.adds_space_prefix)
    writer.add_bool("tokenizer.ggml.remove_extra_whitespaces", vocabulary.removes_extra_spaces)
