"""Time to open a GGUF header of Grok-1's size, and what of the file that reads.

Writes a sparse file of true apparent size (no data) with 131072 tokens and 64 layers, then prints the time of
a cold and a warm open, the bytes that it makes resident, and the ratio to the `gguf` package's reader.

    python bench/open_file.py [--json] [--repeat N] [--skip-peer]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from gguf_files import ARRAY, F32, I32, STRING, U32, Entry, File, Tensor
from memory_group import drop_page_cache

from pygrok._core import GgufFile, tensor_types

LAYERS, EMBEDDING, VOCAB, EXPERTS, WIDTH, KEYS = 64, 6144, 131072, 8, 32768, 1024


def grok1(kind: str) -> tuple[bytes, int]:
    """The header, padded, of Grok-1 with weights of this type, and the whole file's size."""
    number, block, size = tensor_types()[kind]
    shapes: dict[str, tuple[tuple[int, ...], int]] = {
        "token_embd.weight": ((VOCAB, EMBEDDING), number),
        "output_norm.weight": ((EMBEDDING,), 0),
    }
    for i in range(LAYERS):
        for norm in ("attn_norm", "attn_output_norm", "ffn_norm", "layer_output_norm"):
            shapes[f"blk.{i}.{norm}.weight"] = ((EMBEDDING,), 0)
        for name, rows in (
            ("attn_q", EMBEDDING),
            ("attn_k", KEYS),
            ("attn_v", KEYS),
            ("attn_output", EMBEDDING),
        ):
            shapes[f"blk.{i}.{name}.weight"] = ((rows, EMBEDDING), number)
        shapes[f"blk.{i}.ffn_gate_inp.weight"] = ((EXPERTS, EMBEDDING), 0)
        for name, rows, columns in (
            ("ffn_gate_exps", WIDTH, EMBEDDING),
            ("ffn_up_exps", WIDTH, EMBEDDING),
            ("ffn_down_exps", EMBEDDING, WIDTH),
        ):
            shapes[f"blk.{i}.{name}.weight"] = ((EXPERTS, rows, columns), number)
    tensors, offset = [], 0
    for name, (shape, kind_number) in shapes.items():
        values = 1
        for dimension in shape:
            values *= dimension
        tensors.append(Tensor(name, shape, kind_number, offset=offset))
        stored = values * 4 if kind_number == 0 else values // block * size
        offset += -(-stored // 32) * 32
    tokens = [f"\N{LOWER ONE EIGHTH BLOCK}piece{i}".encode() for i in range(VOCAB)]
    entries = [
        Entry("general.architecture", STRING, "grok"),
        Entry("grok.block_count", U32, LAYERS),
        Entry("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        Entry("tokenizer.ggml.scores", ARRAY, (F32, [-float(i) for i in range(VOCAB)])),
        Entry("tokenizer.ggml.token_type", ARRAY, (I32, [1] * VOCAB)),
    ]
    header = File(entries, tensors).encode()
    return header, len(header) + offset


def seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def resident_bytes() -> int:
    """Pages of mapped files that this process has touched."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssFile:"))


def measure(path: Path, repeat: int, peer: bool) -> dict[str, float]:
    header, size = grok1("q4_0")
    path.write_bytes(header)
    os.truncate(path, size)
    drop_page_cache(path)
    cold = seconds(lambda: GgufFile(str(path)))
    warm = [seconds(lambda: GgufFile(str(path))) for _ in range(repeat)]
    before = resident_bytes()
    file = GgufFile(str(path))
    resident = resident_bytes() - before
    names = seconds(lambda: file.get("tokenizer.ggml.tokens"))
    result = {
        "apparent_gb": size / 1e9,
        "header_mb": len(header) / 1e6,
        "tensors": len(file.tensors),
        "open_cold_ms": cold * 1e3,
        "open_warm_ms": statistics.median(warm) * 1e3,
        "open_warm_worst_ms": max(warm) * 1e3,
        "resident_mb": resident / 1e6,
        "resident_over_header": resident / len(header),
        "tokens_to_python_ms": names * 1e3,
    }
    if peer:
        import gguf

        result["gguf_package_ms"] = seconds(lambda: gguf.GGUFReader(path)) * 1e3
        result["times_faster"] = result["gguf_package_ms"] / result["open_warm_ms"]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeat", type=int, default=50, help="warm opens to take the median of")
    parser.add_argument(
        "--skip-peer", action="store_true", help="leave out the gguf package, which takes seconds"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder) / "grok-1.gguf", max(1, options.repeat), not options.skip_peer)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:22} {value:12.2f}")


if __name__ == "__main__":
    main()
