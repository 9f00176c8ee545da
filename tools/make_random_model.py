"""Make a small Grok model with random weights and a byte-level tokenizer: real in form, noise in content.

For trying the commands where no model is at hand, and for tests. The same arguments give the same file.

    python tools/make_random_model.py random.gguf --type q8_0
    pygrok generate random.gguf -p "Hello"
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0"]
_CONTROL, _UNKNOWN, _BYTE, _NORMAL = 3, 2, 6, 1  # piece types of the format


@dataclass(frozen=True)
class Shape:
    """Hyperparameters; every row is a multiple of the 32 values of a block."""

    layers: int = 3
    embedding: int = 128
    heads: int = 8
    kv_heads: int = 4
    head_size: int = 16
    experts: int = 8
    experts_used: int = 2
    expert_width: int = 256
    context: int = 2048


def pieces() -> list[tuple[bytes, float, int]]:
    """(text, score, type) of the vocabulary: control, all bytes, printable ASCII."""
    result: list[tuple[bytes, float, int]] = [(b"[PAD]", 0, _CONTROL), (b"[BOS]", 0, _CONTROL)]
    result += [(b"[EOS]", 0, _CONTROL), (b"[UNK]", 0, _UNKNOWN)]
    result += [(f"<0x{i:02X}>".encode(), 0, _BYTE) for i in range(256)]
    result += [("\u2581".encode(), -1, _NORMAL)]
    result += [(bytes([c]), -2, _NORMAL) for c in range(33, 127)]
    return result


def write_model(path: Path, kind: str = "f32", seed: int = 0, shape: Shape | None = None) -> None:
    """Write the file. Norms and router are f32, the rest is of the type `kind`, one of TYPES."""
    s = shape or Shape()
    vocabulary = pieces()
    random = np.random.default_rng(seed)
    quantization = gguf.GGMLQuantizationType[kind.upper()]
    writer = gguf.GGUFWriter(path, "grok")
    _write_metadata(writer, s, len(vocabulary))
    writer.add_tokenizer_model("llama")
    writer.add_token_list([text for text, _, _ in vocabulary])
    writer.add_token_scores([score for _, score, _ in vocabulary])
    writer.add_token_types([piece_type for _, _, piece_type in vocabulary])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(False)

    def values(*shape: int) -> NDArray[np.float32]:
        return (random.standard_normal(shape) / math.sqrt(shape[-1])).astype(np.float32)

    def matrix(name: str, *shape: int) -> None:
        packed = gguf.quants.quantize(values(*shape), quantization)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=quantization)

    def norm(name: str) -> None:
        writer.add_tensor(
            f"{name}.weight", (1 + 0.1 * random.standard_normal(s.embedding)).astype(np.float32)
        )

    matrix("token_embd", len(vocabulary), s.embedding)
    norm("output_norm")
    for layer in range(s.layers):
        block = f"blk.{layer}."
        for name in ("attn_norm", "attn_output_norm", "ffn_norm", "layer_output_norm"):
            norm(block + name)
        matrix(block + "attn_q", s.heads * s.head_size, s.embedding)
        matrix(block + "attn_k", s.kv_heads * s.head_size, s.embedding)
        matrix(block + "attn_v", s.kv_heads * s.head_size, s.embedding)
        matrix(block + "attn_output", s.embedding, s.heads * s.head_size)
        writer.add_tensor(block + "ffn_gate_inp.weight", values(s.experts, s.embedding))
        matrix(block + "ffn_gate_exps", s.experts, s.expert_width, s.embedding)
        matrix(block + "ffn_up_exps", s.experts, s.expert_width, s.embedding)
        matrix(block + "ffn_down_exps", s.experts, s.embedding, s.expert_width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_metadata(writer: gguf.GGUFWriter, s: Shape, vocab: int) -> None:
    writer.add_name("random weights")
    writer.add_block_count(s.layers)
    writer.add_context_length(s.context)
    writer.add_embedding_length(s.embedding)
    writer.add_feed_forward_length(s.expert_width)
    writer.add_head_count(s.heads)
    writer.add_head_count_kv(s.kv_heads)
    writer.add_rope_dimension_count(s.head_size)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_expert_count(s.experts)
    writer.add_expert_used_count(s.experts_used)
    writer.add_vocab_size(vocab)
    writer.add_float32("grok.embedding_scale", math.sqrt(s.embedding))
    writer.add_float32("grok.logit_scale", 3**-0.5)
    writer.add_float32("grok.attention.output_scale", s.head_size**-0.5)
    writer.add_float32("grok.attn_logit_softcapping", 30.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("path", type=Path)
    parser.add_argument("--type", choices=TYPES, default="q8_0")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_model(arguments.path, arguments.type, arguments.seed)
    print(f"{arguments.path}: random weights, so whatever it writes is noise")


if __name__ == "__main__":
    main()
