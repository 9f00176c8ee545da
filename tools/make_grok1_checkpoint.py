#!/usr/bin/env python3
"""Makes a random checkpoint in the format of xAI's Grok-1 release, for tests and measurements.

Without options, one layer with Grok-1's real shapes: 14 files, 8.1 GB, each as long as its counterpart in the
release to the byte (the expert tensors 1,611,137,347 and 1,611,399,491 bytes). The full model has 64 layers
and 318 GB.

    python tools/make_grok1_checkpoint.py /tmp/grok-1-slice
    python tools/make_grok1_checkpoint.py /tmp/tiny --layers 3 --embedding 256 --vocabulary 1024 \
        --heads 16 --kv-heads 8 --head-size 16 --widening 3 --context 256

Writes DIRECTORY/ckpt-0/tensor00000_000 and so on, and, unless the shapes are Grok-1's, DIRECTORY/config.json.
The same options and seed give the same bytes. Needs numpy and 200 MB of memory.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

CHUNK = 32 << 20
FRAME_TARGET = 64 * 1024  # where Python's pickler ends a frame
FRAME_MINIMUM = 4  # shorter ones have no header

Chunks = Iterable[bytes | memoryview]


class PickleWriter:
    """Writes pickle protocol 4 as Python's own pickler would, but streams large byte strings."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.frame = bytearray()
        self.memo: dict[object, int] = {}
        self.next_memo = 0
        file.write(b"\x80\x04")

    def op(self, data: bytes) -> None:
        """Part of an object."""
        self.frame += data

    def end(self, data: bytes = b"") -> None:
        """The last part of an object: frames end only between objects."""
        self.frame += data
        if len(self.frame) >= FRAME_TARGET:
            self.flush()

    def flush(self) -> None:
        if len(self.frame) >= FRAME_MINIMUM:
            self.file.write(b"\x95" + struct.pack("<Q", len(self.frame)))
        self.file.write(self.frame)
        self.frame.clear()

    def memoize(self, key: object = None) -> None:
        if key is not None:
            self.memo[key] = self.next_memo
        self.next_memo += 1
        self.end(b"\x94")

    def recall(self, key: object) -> bool:
        if key not in self.memo:
            return False
        self.end(b"h" + bytes([self.memo[key]]))
        return True

    def number(self, n: int) -> None:
        if 0 <= n < 1 << 8:
            self.end(b"K" + struct.pack("<B", n))
        elif 0 <= n < 1 << 16:
            self.end(b"M" + struct.pack("<H", n))
        else:
            self.end(b"J" + struct.pack("<i", n))

    def text(self, text: str) -> None:
        if not self.recall(("text", text)):
            self.op(b"\x8c" + bytes([len(text)]) + text.encode())
            self.memoize(("text", text))

    def find(self, module: str, name: str) -> None:
        """A global."""
        if not self.recall((module, name)):
            self.text(module)
            self.text(name)
            self.op(b"\x93")
            self.memoize((module, name))

    def tuple_of(self, numbers: tuple[int, ...]) -> None:
        for n in numbers:
            self.number(n)
        self.op(b"\x84\x85\x86\x87"[len(numbers) : len(numbers) + 1])
        self.memoize()

    def payload(self, nbytes: int, chunks: Chunks) -> None:
        if nbytes < 1 << 8:
            header = b"C" + struct.pack("<B", nbytes)
        elif nbytes < 1 << 32:
            header = b"B" + struct.pack("<I", nbytes)
        else:
            header = b"\x8e" + struct.pack("<Q", nbytes)
        written = 0
        if nbytes >= FRAME_TARGET:  # large strings stand outside frames
            self.flush()
            self.file.write(header)
            for chunk in chunks:
                self.file.write(chunk)
                written += len(chunk)
        else:
            body = b"".join(chunks)
            written = len(body)
            self.op(header + body)
        if written != nbytes:
            raise ValueError(f"{written} bytes for an array of {nbytes}")
        self.memoize()

    def array(self, dtype: str, shape: tuple[int, ...], chunks: Chunks) -> None:
        """A numpy array; dtype i1, f4 or bfloat16."""
        self.find("numpy.core.multiarray", "_reconstruct")
        self.find("numpy", "ndarray")
        self.tuple_of((0,))
        if not self.recall("b"):
            self.op(b"C\x01b")
            self.memoize("b")
        self.op(b"\x87")
        self.memoize()
        self.op(b"R")
        self.memoize()

        self.op(b"(")
        self.number(1)
        self.tuple_of(shape)
        self.find("numpy", "dtype")
        if dtype == "bfloat16":
            self.find("ml_dtypes", "bfloat16")
        else:
            self.text(dtype)
        self.end(b"\x89")
        self.end(b"\x88")
        self.op(b"\x87")
        self.memoize()
        self.op(b"R")
        self.memoize()
        self.op(b"(")
        self.number(3)
        self.text("|" if dtype == "i1" else "<")
        for _ in range(3):
            self.end(b"N")
        for n in (2, 2, 64) if dtype == "bfloat16" else (-1, -1, 0):
            self.number(n)
        self.op(b"t")
        self.memoize()
        self.end(b"b")
        self.end(b"\x89")
        size = {"i1": 1, "bfloat16": 2, "f4": 4}[dtype]
        self.payload(size * math.prod(shape), chunks)
        self.op(b"t")
        self.memoize()
        self.end(b"b")

    def stop(self) -> None:
        self.op(b".")
        self.flush()


def save_array(file: BinaryIO, dtype: str, shape: tuple[int, ...], chunks: Chunks) -> None:
    """A tensor file with a plain array of type f4 or bfloat16."""
    pickle = PickleWriter(file)
    pickle.array(dtype, shape, chunks)
    pickle.stop()


def save_quantized(
    file: BinaryIO, shape: tuple[int, ...], weight: Chunks, scales_shape: tuple[int, ...], scales: Chunks
) -> None:
    """A tensor file with a QuantizedWeight8bit: int8 weight, bfloat16 scales."""
    pickle = PickleWriter(file)
    pickle.find("__main__", "QuantizedWeight8bit")
    pickle.op(b")\x81")
    pickle.memoize()
    pickle.op(b"}")
    pickle.memoize()
    pickle.op(b"(")
    pickle.text("weight")
    pickle.array("i1", shape, weight)
    pickle.text("scales")
    pickle.array("bfloat16", scales_shape, scales)
    pickle.op(b"u")
    pickle.end(b"b")
    pickle.stop()


def _normal_table() -> bytes:
    """int8 codes of 256 equally likely quantiles of a normal distribution; the largest is 127."""
    # Inverse error function by bisection: no scipy here.
    codes = []
    for i in range(256):
        low, high = -4.0, 4.0
        for _ in range(50):
            middle = (low + high) / 2
            if 0.5 * (1 + math.erf(middle / math.sqrt(2))) < (i + 0.5) / 256:
                low = middle
            else:
                high = middle
        codes.append(low)
    return np.round(np.array(codes) / codes[-1] * 127).astype(np.int8).tobytes()


NORMAL_CODES = _normal_table()
CODE_DEVIATION = float(np.frombuffer(NORMAL_CODES, np.int8).astype(np.float64).std())


def random_codes(rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """`count` int8 values, roughly normal."""
    for start in range(0, count, CHUNK):
        yield rng.bytes(min(CHUNK, count - start)).translate(NORMAL_CODES)


def random_scales(rng: np.random.Generator, count: int, fan_in: int) -> bytes:
    """bfloat16 scales that give weights of deviation about fan_in ** -0.5."""
    values = rng.uniform(0.7, 1.3, count).astype(np.float32) / (CODE_DEVIATION * math.sqrt(fan_in))
    return (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()


def random_floats(
    rng: np.random.Generator, count: int, deviation: float, mean: float = 0.0
) -> Iterator[bytes]:
    """`count` float32 values, normal."""
    for start in range(0, count, CHUNK // 4):
        block: NDArray[np.float32] = rng.standard_normal(min(CHUNK // 4, count - start), np.float32)
        yield (block * np.float32(deviation) + np.float32(mean)).astype("<f4").tobytes()


def tensor_shapes(options: argparse.Namespace) -> list[tuple[tuple[int, ...], int]]:
    """Stored shape and number of scale groups (0 = float32) of a layer's tensors, in file order."""
    emb, width = options.embedding, expert_width(options)
    query, key_value = options.heads * options.head_size, options.kv_heads * options.head_size
    experts, groups = options.experts, 8
    return [
        ((experts, emb, width), 1),
        ((experts, width, emb), groups),
        ((experts, emb, width), 1),
        ((emb, key_value), 1),
        ((query, emb), groups),
        ((emb, query), 1),
        ((emb, key_value), 1),
        *[((emb,), 0)] * 4,
        ((emb, experts), 0),
    ]


def expert_width(options: argparse.Namespace) -> int:
    """Two thirds of widening x embedding, rounded up to a multiple of 8."""
    width: int = options.widening * options.embedding * 2 // 3
    return -(-width // 8) * 8


def make_checkpoint(directory: Path, options: argparse.Namespace) -> int:
    """Writes all files; returns their bytes."""
    ckpt = directory / "ckpt-0"
    ckpt.mkdir(parents=True, exist_ok=True)
    emb = options.embedding
    shapes = [((options.vocabulary, emb), 0), ((emb,), 0), *tensor_shapes(options) * options.layers]
    total = 0
    for index, (shape, groups) in enumerate(shapes):
        rng = np.random.Generator(np.random.SFC64([options.seed, index]))
        count = math.prod(shape)
        path = ckpt / f"tensor{index:05d}_000"
        with path.open("wb") as file:
            if groups:
                scales_shape = (*shape[:-2], groups, shape[-1])
                scales = random_scales(rng, math.prod(scales_shape), shape[-2])
                save_quantized(file, shape, random_codes(rng, count), scales_shape, [scales])
            elif len(shape) == 1:
                save_array(file, "f4", shape, random_floats(rng, count, 0.1, 1.0))
            else:
                save_array(file, "f4", shape, random_floats(rng, count, emb**-0.5))
        total += path.stat().st_size
    return total


def config_of(options: argparse.Namespace) -> dict[str, object]:
    """The hyperparameters under xAI's field names."""
    return {
        "vocab_size": options.vocabulary,
        "pad_token": 0,
        "eos_token": 2,
        "sequence_len": options.context,
        "output_multiplier_scale": 0.5773502691896257,
        "embedding_multiplier_scale": math.sqrt(options.embedding),
        "model": {
            "emb_size": options.embedding,
            "widening_factor": options.widening,
            "key_size": options.head_size,
            "num_q_heads": options.heads,
            "num_kv_heads": options.kv_heads,
            "num_layers": options.layers,
            "attn_output_multiplier": options.head_size**-0.5,
            "num_experts": options.experts,
            "num_selected_experts": options.experts_used,
        },
    }


GROK_1 = {
    "embedding": 6144,
    "vocabulary": 131072,
    "context": 8192,
    "heads": 48,
    "kv_heads": 8,
    "head_size": 128,
    "widening": 8,
    "experts": 8,
    "experts_used": 2,
}


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; every size defaults to Grok-1's."""
    summary = (
        "Make a random checkpoint in the format of xAI's Grok-1 release (default: one real layer, 8.1 GB)."
    )
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("directory", type=Path, help="made if absent; files in its ckpt-0 are overwritten")
    parser.add_argument("--layers", type=int, default=1, help="default 1; Grok-1 has 64")
    for name, default in GROK_1.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=default, help=f"default {default}"
        )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in ("layers", *GROK_1):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more")
    for name, rows in (
        ("expert width", expert_width(options)),
        ("heads x head size", options.heads * options.head_size),
    ):
        if rows % 8:
            parser.error(f"{name} is {rows}, not a multiple of 8, as the scales need")
    return options


def main() -> None:
    """Makes the checkpoint that the command line asks for."""
    options = parse_options()
    total = make_checkpoint(options.directory, options)
    if any(getattr(options, name) != value for name, value in GROK_1.items()):
        text = json.dumps(config_of(options), indent=1)
        (options.directory / "config.json").write_text(text + "\n", encoding="utf-8")
    print(f"wrote {options.directory}: {2 + 12 * options.layers} tensors, {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
