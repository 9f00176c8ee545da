"""The same small model as Hugging Face and GGUF files, valid or wrong on purpose."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize
from numpy.typing import NDArray

from pygrok import _core
from pygrok.quantize.hyperparameters import Hyperparameters
from pygrok.quantize.source import SourceModel, SourceTensor

Values = dict[str, NDArray[np.float32]]  # by GGUF name, in GGUF's shape

DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
SPELLINGS = ("xai", "hpcai", "mixtral")
_LAYER = {
    "xai": "transformer.decoder_layer.{}.",
    "hpcai": "model.layers.{}.",
    "mixtral": "model.layers.{}.",
}
# GGUF name -> the name in each spelling; {} is the expert.
_NAMES = {
    "attn_norm": ("rms_norm.scale", "pre_attn_norm.scale", "pre_attn_norm.weight"),
    "attn_output_norm": ("rms_norm_1.scale", "post_attn_norm.scale", "post_attn_norm.weight"),
    "ffn_norm": ("rms_norm_2.scale", "pre_moe_norm.scale", "pre_moe_norm.weight"),
    "layer_output_norm": ("rms_norm_3.scale", "post_moe_norm.scale", "post_moe_norm.weight"),
    "attn_q": ("multi_head_attention.query.weight", "attn.q_proj.weight", "self_attn.q_proj.weight"),
    "attn_k": ("multi_head_attention.key.weight", "attn.k_proj.weight", "self_attn.k_proj.weight"),
    "attn_v": ("multi_head_attention.value.weight", "attn.v_proj.weight", "self_attn.v_proj.weight"),
    "attn_output": ("multi_head_attention.linear.weight", "attn.o_proj.weight", "self_attn.o_proj.weight"),
    "ffn_gate_inp": ("router.weight", "moe_block.gate.weight", "block_sparse_moe.gate.weight"),
    "ffn_gate_exps": (
        "moe.{}.linear.weight",
        "moe_block.experts.{}.linear.weight",
        "block_sparse_moe.experts.{}.w1.weight",
    ),
    "ffn_up_exps": (
        "moe.{}.linear_v.weight",
        "moe_block.experts.{}.linear_v.weight",
        "block_sparse_moe.experts.{}.w3.weight",
    ),
    "ffn_down_exps": (
        "moe.{}.linear_1.weight",
        "moe_block.experts.{}.linear_1.weight",
        "block_sparse_moe.experts.{}.w2.weight",
    ),
}
_TOP = {
    "token_embd.weight": ("transformer.in_out_embed.weight", *["model.embed_tokens.weight"] * 2),
    "output_norm.weight": ("transformer.rms_norm.scale", "model.norm.scale", "model.norm.weight"),
    "output.weight": ("lm_head.weight",) * 3,
}


def tensor_values(tensor: SourceTensor, converter: _core.Converter) -> NDArray[np.float32]:
    """All values of a tensor, as its reader gives them."""
    with tensor.open() as reader:
        matrices = [reader.values(converter, i) for i in range(len(reader.matrices))]
    return np.stack(matrices).reshape(tensor.shape)


def values_of(source: SourceModel) -> Values:
    """All values of a model."""
    converter = _core.Converter(1)
    return {tensor.name: tensor_values(tensor, converter) for tensor in source.tensors}


def hugging_face_tensors(values: Values, spelling: str) -> dict[str, NDArray[np.float32]]:
    """The tensors as Hugging Face names them, experts apart."""
    column = SPELLINGS.index(spelling)
    tensors = {}
    for name, array in values.items():
        if name in _TOP:
            tensors[_TOP[name][column]] = array
            continue
        _, layer, role, _ = name.split(".")
        place = _LAYER[spelling].format(layer) + _NAMES[role][column]
        if array.ndim == 3:
            tensors.update({place.format(e): matrix for e, matrix in enumerate(array)})
        else:
            tensors[place] = array
    return tensors


def hugging_face_config(model: Hyperparameters) -> dict[str, Any]:
    """config.json with the field names of hpcai-tech/grok-1."""
    return {
        "architectures": ["Grok1ModelForCausalLM"],
        "vocab_size": model.vocabulary,
        "hidden_size": model.embedding,
        "intermediate_size": model.expert_width,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_size,
        "attn_output_multiplier": model.attention_multiplier,
        "embedding_multiplier_scale": model.embedding_multiplier,
        "output_multiplier_scale": model.output_multiplier,
        "max_attn_value": 30.0,
        "max_position_embeddings": model.context,
        "rms_norm_eps": 1e-5,
        "pad_token_id": model.pad_id,
        "bos_token_id": model.bos_id,
        "eos_token_id": model.eos_id,
        "tie_word_embeddings": True,
        "num_experts_per_tok": model.experts_used,
        "num_experts": model.experts,
    }


def safetensors_bytes(
    tensors: Mapping[str, NDArray[np.float32]],
    dtype: str = "F32",
    edit: Callable[[dict[str, Any]], object] = lambda header: None,
) -> bytes:
    """A file's content; `edit` may change the header."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, array in tensors.items():
        raw = array.astype(DTYPES[dtype]).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    edit(header)
    return with_header(json.dumps(header).encode(), data)


def with_header(header: bytes, data: bytes = b"") -> bytes:
    """A safetensors file of any header."""
    return struct.pack("<Q", len(header)) + header + data


def write_hugging_face(
    folder: Path,
    values: Values,
    model: Hyperparameters,
    *,
    spelling: str = "hpcai",
    dtype: str = "F32",
    shards: int = 1,
) -> Path:
    """A folder with config.json and model.safetensors, or that many shards and their index."""
    folder.mkdir(parents=True)
    tensors = hugging_face_tensors(values, spelling)
    (folder / "config.json").write_text(json.dumps(hugging_face_config(model)), encoding="utf-8")
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors, dtype))
        return folder
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: array for i, (name, array) in enumerate(tensors.items()) if i % shards == shard}
        weight_map.update(dict.fromkeys(part, file))
        (folder / file).write_bytes(safetensors_bytes(part, dtype))
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def write_gguf(
    path: Path,
    values: Values,
    model: Hyperparameters,
    *,
    type: str = "f32",
    old: bool = False,
    edit: Callable[[gguf.GGUFWriter], object] = lambda writer: None,
) -> Path:
    """By the gguf package; norms and router f32. old: an expert a tensor, post_ffw_norm, no scale keys."""
    writer = gguf.GGUFWriter(path, "grok")
    counts = {
        "block_count": model.layers,
        "context_length": model.context,
        "embedding_length": model.embedding,
        "feed_forward_length": model.expert_width,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
        "rope.dimension_count": model.head_size,
        "expert_count": model.experts,
        "expert_used_count": model.experts_used,
    }
    for key, count in counts.items():
        writer.add_uint32(f"grok.{key}", count)
    if not old:
        writer.add_float32("grok.embedding_scale", model.embedding_multiplier)
        writer.add_float32("grok.logit_scale", model.output_multiplier)
        writer.add_float32("grok.attention.output_scale", model.attention_multiplier)
    edit(writer)
    number = GGMLQuantizationType[type.upper()]
    for name, array in values.items():
        plain = "norm" in name or "gate_inp" in name
        kind = GGMLQuantizationType.F32 if plain else number
        if not old:
            writer.add_tensor(name, quantize(array, kind), raw_dtype=kind)
        elif array.ndim == 3:
            for e, matrix in enumerate(array):
                writer.add_tensor(name.replace("_exps.", f".{e}."), quantize(matrix, kind), raw_dtype=kind)
        else:
            name = name.replace("layer_output_norm", "post_ffw_norm")
            writer.add_tensor(name, quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_other_architecture(path: Path) -> Path:
    """A GGUF file that is no Grok's."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
