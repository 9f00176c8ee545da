#!/usr/bin/env python3
"""What attention costs at Grok-1's widths, beside the experts of the same layer.

    python bench/attention.py [--kv-types f16,q8_0] [--positions 512,2048,8192] [--threads 2] [--isa NAME] [--json]
    python bench/attention.py --model two-layers.gguf      # and how fast it reads prompts of these lengths

Of a decode step it prints a layer's attention in milliseconds, the GB/s of keys and values that this is, and its share
of the time that the layer's two experts take as q4_0, measured in between. Of a prompt: milliseconds for its last 512
rows, and what a row costs on average over the whole prompt. Layers take turns, so that none finds its keys and values
in the processor's caches.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pygrok
from pygrok import _core

HEADS, KV_HEADS, HEAD_SIZE, EMBEDDING, WIDTH = 48, 8, 128, 6144, 32768
KV_VALUES = 2 * KV_HEADS * HEAD_SIZE  # a position and layer
KV_BYTES = {"f32": 4, "f16": 2, "bf16": 2, "q8_0": 34 / 32}
MATRICES = 6  # gate, up and down of two experts: 680 MB
BATCH = 512  # rows that go through the layers together


def expert_matrices() -> list[NDArray[np.uint8]]:
    """Random q4_0 blocks, each matrix in memory of its own."""
    blocks = np.random.default_rng(0).integers(0, 256, (WIDTH, EMBEDDING // 32, 18), dtype=np.uint8)
    blocks[:, :, :2] = np.array([1 / EMBEDDING], np.float16).view(np.uint8)
    return [blocks.reshape(WIDTH, -1).copy() for _ in range(MATRICES)]


def expert_seconds(matrices: list[NDArray[np.uint8]], isa: str, threads: int) -> float:
    """Of one token: every matrix once. (The last two are 6144 x 32768 in truth, which are as many bytes.)"""
    x = np.random.default_rng(1).standard_normal((1, EMBEDDING), dtype=np.float32)
    return sum(_core.kernels.time_matmul("q4_0", m, x, isa, threads, 1) for m in matrices)


def attention_seconds(args: argparse.Namespace, kv_type: str, past: int, rows: int, layers: int) -> float:
    """Of one layer."""
    heads = (HEADS, KV_HEADS, HEAD_SIZE)
    return (
        _core.kernels.time_attention(kv_type, *heads, past, rows, layers, args.isa, args.threads, layers)
        / layers
    )


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A dictionary for every type and length. The best of --repeats counts: a shared machine only ever adds."""
    matrices = expert_matrices()
    results = []
    for kv_type in args.kv_types:
        for positions in args.positions:
            layers = max(2, min(16, (256 << 20) // int(positions * KV_VALUES * KV_BYTES[kv_type])))
            decode, experts, prefill = [], [], []
            for _ in range(args.repeats):
                experts.append(expert_seconds(matrices, args.isa, args.threads))
                decode.append(attention_seconds(args, kv_type, positions - 1, 1, layers))
            rows = min(BATCH, positions)
            prefill = [attention_seconds(args, kv_type, positions - rows, rows, 1) for _ in range(2)]
            scores = rows * (positions - rows / 2)
            results.append(
                {
                    "kv_type": kv_type,
                    "positions": positions,
                    "decode_seconds": min(decode),
                    "kv_bytes_per_second": positions * KV_VALUES * KV_BYTES[kv_type] / min(decode),
                    "expert_seconds": min(experts),
                    "share_of_experts": min(decode) / min(experts),
                    "last_rows_seconds": min(prefill),
                    "row_seconds": min(prefill) / scores * positions / 2,
                }
            )
    return results


def prompt_rates(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Tokens a second of prompts of each length, in one call each as users make it; the best of a few if short.

    A prompt before them brings the file into memory.
    """
    results = []
    for kv_type in args.kv_types:
        with pygrok.load(
            args.model,
            context=max(args.positions),
            kv_type=kv_type,
            isa=args.isa or None,
            threads=args.threads,
        ) as model:
            vocab = model.config.vocab
            for n, measured in [(BATCH, False), *((n, True) for n in args.positions)]:
                ids = np.random.default_rng(2).integers(3, vocab, n)
                seconds = []
                for _ in range(1 + 1024 // n):
                    start = time.perf_counter()
                    model.session().feed(ids)
                    seconds.append(time.perf_counter() - start)
                if measured:
                    rate = n / min(seconds)
                    results.append({"kv_type": kv_type, "positions": n, "tokens_per_second": rate})
    return results


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kv-types", type=lambda text: text.split(","), default=list(KV_BYTES))
    parser.add_argument(
        "--positions", type=lambda text: [int(n) for n in text.split(",")], default=[512, 2048, 8192]
    )
    parser.add_argument("--threads", type=int, default=_core.available_cpus())
    parser.add_argument("--isa", default="", help="instruction set of the kernels; the best by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", help="a .gguf to read prompts with, such as bench/synthetic.py writes")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    args = parser.parse_args()
    result: dict[str, Any] = {"isa": _core.kernels.select(args.isa), "threads": args.threads}
    if args.model is None:
        result["layers"] = measure(args)
    else:
        result["prompts"] = prompt_rates(args)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{result['isa']}, {args.threads} threads")
    if args.model is not None:
        print(f"{'cache':6}{'prompt':>8}{'tokens/s':>10}")
        for r in result["prompts"]:
            print(f"{r['kv_type']:6}{r['positions']:8}{r['tokens_per_second']:10.1f}")
        return
    print(
        f"{'cache':6}{'past':>6}{'decode ms':>11}{'GB/s':>7}{'experts ms':>12}{'share %':>9}"
        f"{'last 512 ms':>13}{'us a row of all':>17}"
    )
    for r in result["layers"]:
        print(
            f"{r['kv_type']:6}{r['positions']:6}{r['decode_seconds'] * 1e3:11.3f}{r['kv_bytes_per_second'] / 1e9:7.1f}"
            f"{r['expert_seconds'] * 1e3:12.1f}{r['share_of_experts'] * 100:9.1f}"
            f"{r['last_rows_seconds'] * 1e3:13.1f}{r['row_seconds'] * 1e6:17.0f}"
        )


if __name__ == "__main__":
    main()
