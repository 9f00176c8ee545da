#!/usr/bin/env python3
"""Make a GGUF file with Grok-1's full header and no data: true apparent size, nearly no disk.

The tensor data is one hole, so every weight reads as zero. Good for measuring how fast a header opens and how little
memory a token of a huge file needs; useless for text.

    tools/make_sparse_gguf.py /tmp/grok1-sparse.gguf --type q4_0 --tokenizer tokenizer.model
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import gguf
import numpy as np
import sentencepiece as spm

EMBEDDING, WIDTH, HEADS, KV_HEADS, HEAD_SIZE, EXPERTS, VOCAB = 6144, 32768, 48, 8, 128, 8, 131072


def tensor_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape, slowest dimension first, as the engine expects them."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCAB, EMBEDDING),
        "output_norm.weight": (EMBEDDING,),
    }
    for i in range(layers):
        block = f"blk.{i}."
        for norm in ("attn_norm", "attn_output_norm", "ffn_norm", "layer_output_norm"):
            shapes[f"{block}{norm}.weight"] = (EMBEDDING,)
        shapes[f"{block}attn_q.weight"] = (HEADS * HEAD_SIZE, EMBEDDING)
        shapes[f"{block}attn_k.weight"] = (KV_HEADS * HEAD_SIZE, EMBEDDING)
        shapes[f"{block}attn_v.weight"] = (KV_HEADS * HEAD_SIZE, EMBEDDING)
        shapes[f"{block}attn_output.weight"] = (EMBEDDING, HEADS * HEAD_SIZE)
        shapes[f"{block}ffn_gate_inp.weight"] = (EXPERTS, EMBEDDING)
        shapes[f"{block}ffn_gate_exps.weight"] = (EXPERTS, WIDTH, EMBEDDING)
        shapes[f"{block}ffn_up_exps.weight"] = (EXPERTS, WIDTH, EMBEDDING)
        shapes[f"{block}ffn_down_exps.weight"] = (EXPERTS, EMBEDDING, WIDTH)
    return shapes


def add_metadata(writer: gguf.GGUFWriter, layers: int) -> None:
    writer.add_name("Grok-1 without data")
    writer.add_context_length(8192)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HEAD_SIZE)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(2)
    writer.add_vocab_size(VOCAB)
    writer.add_float32("grok.embedding_scale", 78.38367176906169)
    writer.add_float32("grok.logit_scale", 0.5773502691896257)
    writer.add_float32("grok.attention.output_scale", 0.08838834764831845)
    writer.add_float32("grok.attn_logit_softcapping", 30.0)


def add_tokenizer(writer: gguf.GGUFWriter, path: Path) -> None:
    pieces = spm.SentencePieceProcessor(model_file=str(path))
    ids = range(pieces.vocab_size())
    kinds = [
        2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else 6 if pieces.is_byte(i) else 1
        for i in ids
    ]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([pieces.id_to_piece(i) for i in ids])
    writer.add_token_scores([pieces.get_score(i) for i in ids])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def make(path: Path, kind: str, layers: int, tokenizer: Path | None) -> None:
    writer = gguf.GGUFWriter(path, "grok")
    add_metadata(writer, layers)
    if tokenizer is not None:
        add_tokenizer(writer, tokenizer)
    wanted = gguf.GGMLQuantizationType[kind.upper()]
    size = 0
    for name, shape in tensor_shapes(layers).items():
        exact = len(shape) == 1 or name.endswith("ffn_gate_inp.weight")
        type_ = gguf.GGMLQuantizationType.F32 if exact else wanted
        block, block_bytes = gguf.GGML_QUANT_SIZES[type_]
        bytes_ = int(np.prod(shape, dtype=np.int64)) // block * block_bytes
        stored = shape if exact else (*shape[:-1], shape[-1] // block * block_bytes)
        dtype = np.dtype(np.float32 if exact else np.uint8)
        writer.add_tensor_info(name, stored, dtype, bytes_, raw_dtype=type_)
        size += gguf.GGUFWriter.ggml_pad(bytes_, gguf.GGUF_DEFAULT_ALIGNMENT)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    os.truncate(path, path.stat().st_size + gguf.GGUF_DEFAULT_ALIGNMENT + size)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--type", default="q4_0")
    parser.add_argument("--layers", type=int, default=64)
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.model whose pieces go into the header")
    arguments = parser.parse_args()
    make(arguments.path, arguments.type, arguments.layers, arguments.tokenizer)
    stat = arguments.path.stat()
    print(
        f"{arguments.path}: {stat.st_size / 1e9:.1f} GB apparent, {stat.st_blocks * 512 / 1e6:.1f} MB on disk"
    )


if __name__ == "__main__":
    main()
