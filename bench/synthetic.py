#!/usr/bin/env python3
"""Write a GGUF file with Grok-1's own widths, any number of layers and any weight type, filled with random blocks.

    python bench/synthetic.py two-layers.gguf --layers 2 --type q4_k
    python bench/synthetic.py grok1.gguf --sparse            # true size, all weights zero, nearly no disk

Blocks are random bytes with their scales set so that the weights have the size that trained ones have: the model
computes finite, varied numbers, and says nothing. Floats are never quantized, so this runs at the speed of the disk.
With --skew the routers favour some experts: the embedding has a part that all tokens share, which they respond to.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import sentencepiece as spm
from gguf.quants import dequantize
from numpy.typing import NDArray

EMBEDDING, WIDTH, HEADS, KV_HEADS, HEAD_SIZE, EXPERTS, VOCAB = 6144, 32768, 48, 8, 128, 8, 131072
POOL_BYTES = 64 << 20  # of random blocks, used again and again from changing places
# Where a block keeps its float16 scale and, if it has one, its float16 minimum.
SCALE_AT = {
    "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q8_0": (0,), "q2_k": (80, 82), "q3_k": (108,),
    "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "iq4_nl": (0,), "iq4_xs": (0,), "iq3_s": (0,), "iq3_xxs": (0,),
    "iq2_s": (0,), "iq2_xs": (0,), "iq2_xxs": (0,), "iq1_s": (0,), "tq1_0": (52,), "tq2_0": (64,),
}  # fmt: skip
ONE = np.float16(1)


def tensor_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Name -> shape, slowest dimension first."""
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
    """Grok-1's hyperparameters."""
    writer.add_name(f"Grok-1's widths, {layers} layers")
    writer.add_context_length(8192)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_SIZE)
    writer.add_value_length(HEAD_SIZE)
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


def add_tokenizer(writer: gguf.GGUFWriter, path: Path | None) -> None:
    """The pieces of a tokenizer.model, or none: then the file takes and gives ids only."""
    if path is None:
        writer.add_tokenizer_model("no_vocab")
        return
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


def set_halves(blocks: NDArray[np.uint8], offset: int, value: np.float16) -> None:
    blocks[:, offset : offset + 2] = np.array([value]).view(np.uint8)


def set_iq1_m_scale(blocks: NDArray[np.uint8], value: np.float16) -> None:
    """The scale's four nibbles are the high ones of four 16-bit words."""
    words = blocks[:, 48:56].view(np.uint16)
    nibbles = np.array([value]).view(np.uint16) >> np.array([0, 4, 8, 12], np.uint16) & 0xF
    words[:] = words & 0x0FFF | nibbles << 12


def random_blocks(
    kind: str, count: int, deviation: float, rng: np.random.Generator, drift: bool = False
) -> NDArray[np.uint8]:
    """Blocks [count, bytes] whose values have mean near 0, above it with `drift`, and the given standard deviation."""
    type_ = gguf.GGMLQuantizationType[kind.upper()]
    values, size = gguf.GGML_QUANT_SIZES[type_]
    if values == 1:
        x = (rng.standard_normal(count, dtype=np.float32) + np.float32(0.15 * drift)) * np.float32(deviation)
        return gguf.quants.quantize(x.reshape(-1, 1), type_).view(np.uint8).reshape(count, size)
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    sample = blocks[: min(count, 512)]
    if kind == "mxfp4":  # an exponent in one byte
        blocks[:, 0] = 127
        spread = float(dequantize(sample, type_).std())
        blocks[:, 0] = 127 + round(np.log2(deviation / spread))
        return blocks
    if kind == "iq1_m":
        set_iq1_m_scale(blocks, ONE)
        set_iq1_m_scale(blocks, np.float16(deviation / float(dequantize(sample, type_).std())))
        return blocks
    places = SCALE_AT[kind]
    for place in places:
        set_halves(blocks, place, np.float16(0))
    set_halves(blocks, places[0], ONE)
    alone = dequantize(sample, type_)
    minimum = 0.0
    if len(places) == 2:  # the minimum that brings the mean to zero
        set_halves(blocks, places[0], np.float16(0))
        set_halves(blocks, places[1], ONE)
        minimum = -float(alone.mean()) / float(dequantize(sample, type_).mean())
        set_halves(blocks, places[0], ONE)
        set_halves(blocks, places[1], np.float16(minimum))
    scale = deviation / float(dequantize(sample, type_).std())
    set_halves(blocks, places[0], np.float16(scale))
    if len(places) == 2:
        set_halves(blocks, places[1], np.float16(scale * minimum))
    elif drift:
        for part in np.array_split(blocks, max(1, count // 4096)):
            part[:, places[0] + 1] |= (dequantize(part, type_).mean(axis=1) < 0).astype(np.uint8) << 7
    else:
        # Codes such as q4_0's -8 to 7 have a mean, which every product would add to: all tokens would come to look
        # alike and be routed alike. Half of the blocks get a negative scale.
        blocks[:, places[0] + 1] |= rng.integers(0, 2, count, dtype=np.uint8) << 7
    return blocks


class RandomBytes:
    """An endless supply of blocks for rows of one length and one deviation."""

    def __init__(self, kind: str, deviation: float, seed: int, drift: bool = False) -> None:
        self.rng = np.random.default_rng(seed)
        type_ = gguf.GGMLQuantizationType[kind.upper()]
        size = gguf.GGML_QUANT_SIZES[type_][1]
        blocks = random_blocks(kind, POOL_BYTES // size, deviation, self.rng, drift)
        self.mean = float(dequantize(blocks[: 1 << 16], type_).mean()) / deviation
        self.pool = blocks.reshape(-1)
        self.block = size

    def pieces(self, nbytes: int) -> Iterator[memoryview]:
        """nbytes in pieces that begin at random blocks."""
        while nbytes > 0:
            start = int(self.rng.integers(0, len(self.pool) // self.block // 2)) * self.block
            piece = memoryview(self.pool[start : start + nbytes])  # type: ignore[arg-type]
            yield piece
            nbytes -= len(piece)


def router(skew: float, layer: int, mean: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """[EXPERTS, EMBEDDING]: logits have deviation 2, and each expert's a mean, these with a deviation of 2 * skew.

    mean: of the embedding's values, in their deviations. What the residual stream has of it is normed with what the
    layers added: 2 * layer + 1 vectors of the same size.
    """
    rows = rng.standard_normal((EXPERTS, EMBEDDING), dtype=np.float32) * (2 / np.sqrt(np.float32(EMBEDDING)))
    if skew == 0:
        return rows.astype(np.float32)
    if abs(mean) < 0.01:
        raise ValueError(
            "--skew needs an embedding of a float type or one with a single scale a block: --embedding-type q8_0"
        )
    spread = np.linspace(-1.5, 1.5, EXPERTS)
    wanted = 2 * skew * rng.permutation(spread / spread.std())
    return (rows + (wanted * np.sqrt(2 * layer + 2) / (mean * EMBEDDING))[:, None]).astype(np.float32)


def make(
    path: Path,
    kind: str,
    layers: int,
    tokenizer: Path | None = None,
    sparse: bool = False,
    skew: float = 0.0,
    embedding_kind: str | None = None,
) -> None:
    """Writes the file; `kind` is the type of all matrices but the routers, embedding_kind that of the embedding."""
    writer = gguf.GGUFWriter(path, "grok")
    add_metadata(writer, layers)
    add_tokenizer(writer, tokenizer)
    stored: list[tuple[str, str, tuple[int, ...], int]] = []
    for name, shape in tensor_shapes(layers).items():
        exact = len(shape) == 1 or name.endswith("ffn_gate_inp.weight")
        chosen = "f32" if exact else (embedding_kind or kind) if name == "token_embd.weight" else kind
        type_ = gguf.GGMLQuantizationType[chosen.upper()]
        block, block_bytes = gguf.GGML_QUANT_SIZES[type_]
        nbytes = int(np.prod(shape, dtype=np.int64)) // block * block_bytes
        row = shape if block == 1 else (*shape[:-1], shape[-1] // block * block_bytes)
        writer.add_tensor_info(
            name, row, np.dtype(np.float32 if block == 1 else np.uint8), nbytes, raw_dtype=type_
        )
        stored.append((name, chosen, shape, nbytes))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    alignment = gguf.GGUF_DEFAULT_ALIGNMENT
    if sparse:
        size = sum(gguf.GGUFWriter.ggml_pad(nbytes, alignment) for *_, nbytes in stored)
        os.truncate(path, path.stat().st_size + alignment + size)
        return
    rng = np.random.default_rng(0)
    supplies: dict[tuple[str, int, bool], RandomBytes] = {}
    shared_mean = 0.0
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        for name, chosen, shape, nbytes in stored:
            file.write(b"\0" * (-file.tell() % alignment))
            if len(shape) == 1:
                file.write(np.ones(shape, np.float32).tobytes())
            elif name.endswith("ffn_gate_inp.weight"):
                file.write(router(skew, int(name.split(".")[1]), shared_mean, rng).tobytes())
            else:
                drift = skew > 0 and name == "token_embd.weight"
                key = (chosen, shape[-1], drift)
                if key not in supplies:
                    supplies[key] = RandomBytes(chosen, shape[-1] ** -0.5, len(supplies), drift)
                if drift:
                    shared_mean = supplies[key].mean
                for piece in supplies[key].pieces(nbytes):
                    file.write(piece)
        file.write(b"\0" * (-file.tell() % alignment))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--type", default="q4_0", help="of all matrices")
    parser.add_argument("--embedding-type", help="of the embedding, default: as --type")
    parser.add_argument("--layers", type=int, default=64)
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.model whose pieces go into the header")
    parser.add_argument("--sparse", action="store_true", help="leave a hole where the weights belong")
    parser.add_argument(
        "--skew", type=float, default=0.0, help="how unequally experts are used (0 even, 0.5 much)"
    )
    args = parser.parse_args()
    if args.skew < 0:
        parser.error(f"--skew is {args.skew}: it must be 0 or above")
    begin = time.perf_counter()
    make(args.path, args.type, args.layers, args.tokenizer, args.sparse, args.skew, args.embedding_type)
    stat = args.path.stat()
    print(
        f"{args.path}: {stat.st_size / 1e9:.2f} GB, {stat.st_blocks * 512 / 1e9:.2f} GB on disk, "
        f"{time.perf_counter() - begin:.1f} s"
    )


if __name__ == "__main__":
    main()
