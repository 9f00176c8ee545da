"""The GGUF metadata of arch `grok`, as llama.cpp and pygrok read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np

from pygrok.quantize.hyperparameters import Hyperparameters
from pygrok.quantize.tokenizer import Vocabulary

__all__ = ["FILE_TYPES", "add_metadata"]

ARCHITECTURE = "grok"
# Grok-1 has no such cap and readers do not apply it; llama.cpp's own files carry the key.
ROUTER_SOFT_CAP = 30.0
QUANTIZATION_VERSION = 2

# general.file_type, for display: the name that llama.cpp gives a file mostly of a type, or of a mix.
FILE_TYPES = {
    **{"f32": 0, "f16": 1, "bf16": 32},
    **{"q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9},
    **{"q2_k": 10, "q2_k_s": 21},
    **{"q3_k": 11, "q3_k_s": 11, "q3_k_m": 12, "q3_k_l": 13},
    **{"q4_k": 14, "q4_k_s": 14, "q4_k_m": 15},
    **{"q5_k": 16, "q5_k_s": 16, "q5_k_m": 17},
    "q6_k": 18,
    **{"iq2_xxs": 19, "iq2_xs": 20, "iq2_s": 28, "iq2_m": 29},
    **{"iq3_xxs": 23, "iq3_xs": 22, "iq3_s": 26, "iq3_m": 27},
    **{"iq4_nl": 25, "iq4_xs": 30},
    **{"mxfp4": 38, "mxfp4_moe": 38},
}


def add_metadata(
    writer: gguf.GGUFWriter,
    model: Hyperparameters,
    vocabulary: Vocabulary | None,
    type: str,
    name: str,
    carried: Mapping[str, Any] | None = None,
) -> None:
    """Everything but the architecture, which the writer adds itself.

    type: a key of FILE_TYPES. name: general.name, unless `carried` has one. carried: `SourceModel.metadata`.
    """
    writer.add_string("general.type", "model")
    writer.add_uint32("general.quantization_version", QUANTIZATION_VERSION)
    writer.add_uint32("general.file_type", FILE_TYPES[type])
    for key, value in {"general.name": name, **(carried or {})}.items():
        _add(writer, key, value)

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
        "attention.layer_norm_rms_epsilon": model.rms_epsilon,
        "rope.freq_base": model.rope_base,
        "embedding_scale": model.embedding_multiplier,
        "logit_scale": model.output_multiplier,
        "attention.output_scale": model.attention_multiplier,
        "attn_logit_softcapping": model.attention_soft_cap,
        "router_logit_softcapping": ROUTER_SOFT_CAP,
    }
    for key, number in numbers.items():
        writer.add_float32(f"{ARCHITECTURE}.{key}", number)

    if vocabulary is None:
        # llama.cpp then makes vocab_size placeholder tokens; without this key it does not load the file.
        writer.add_string("tokenizer.ggml.model", "no_vocab")
        return
    if vocabulary.carried is not None:
        for key, value in vocabulary.carried.items():
            _add(writer, key, value)
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


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """A value as `_core.GgufFile.get` gave it. Arrays that are empty, or of numbers beyond 32 bits, are left out."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        kinds = {
            (0, 2**32): writer.add_uint32,
            (-(2**31), 0): writer.add_int32,
            (2**32, 2**64): writer.add_uint64,
        }
        add = next((add for (low, high), add in kinds.items() if low <= value < high), writer.add_int64)
        add(key, value)
    elif isinstance(value, float):
        exact = float(np.float32(value)) == value or value != value
        (writer.add_float32 if exact else writer.add_float64)(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, np.ndarray):
        items = value.tolist()
        if value.dtype.kind in "iu" and any(not -(2**31) <= item < 2**31 for item in items):
            return
        writer.add_array(key, items)  # int32, float32 or bool
    elif isinstance(value, list):
        writer.add_array(key, value)
