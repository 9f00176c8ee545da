"""Print the table of README.md: what Grok-1 needs on disk and in memory at each weight type.

Everything is computed from the released shapes. "Routed" is what one token touches; a machine whose memory
holds less than the file still runs it, at the speed of its disk.

    python tools/size_table.py
"""

from __future__ import annotations

from typing import NamedTuple

LAYERS, EMBEDDING, VOCAB, CONTEXT = 64, 6144, 131072, 8192
HEADS, KV_HEADS, HEAD_SIZE = 48, 8, 128
EXPERTS, ROUTED, WIDTH = 8, 2, 32768

# Values and bytes of a block.
TYPES = {"q4_0": (32, 18), "q8_0": (32, 34), "f16": (1, 2), "bf16": (1, 2), "f32": (1, 4)}
# What pygrok-quantize makes of the embedding, where that is not the same.
EMBEDDING_TYPES = {"q4_0": "q8_0", "q8_0": "f32"}
KV_TYPES = {"f32": 4, "f16": 2, "bf16": 2}


class Parts(NamedTuple):
    """Numbers of parameters."""

    embedding: int
    attention: int
    experts: int
    plain: int  # norms and router, always f32


def parameters() -> Parts:
    """The release's, all layers."""
    attention = EMBEDDING * HEAD_SIZE * (2 * HEADS + 2 * KV_HEADS)
    experts = EXPERTS * 3 * EMBEDDING * WIDTH
    plain = 4 * EMBEDDING + EMBEDDING * EXPERTS
    return Parts(VOCAB * EMBEDDING, LAYERS * attention, LAYERS * experts, LAYERS * plain + EMBEDDING)


def sizes(name: str) -> tuple[int, int]:
    """Bytes of all weights, and of those that one decoded token touches."""
    parts = parameters()

    def stored(count: int, kind: str) -> int:
        values, width = TYPES[kind]
        return count // values * width

    embedding = stored(parts.embedding, EMBEDDING_TYPES.get(name, name))
    dense = embedding + stored(parts.attention, name) + 4 * parts.plain
    experts = stored(parts.experts, name)
    return dense + experts, dense + experts * ROUTED // EXPERTS


def kv_bytes(width: int, positions: int) -> int:
    """Bytes of one session's cache."""
    return 2 * LAYERS * KV_HEADS * HEAD_SIZE * width * positions


def table() -> str:
    """The Markdown of README.md."""
    lines = [
        "| type | file | read per token | tokens/s at 50 GB/s | at 400 GB/s |",
        "|---|---:|---:|---:|---:|",
    ]
    for name in TYPES:
        whole, touched = sizes(name)
        speeds = " | ".join(f"{rate * 1e9 / touched:.1f}" for rate in (50, 400))
        lines.append(f"| {name} | {whole / 1e9:.0f} GB | {touched / 1e9:.1f} GB | {speeds} |")
    lines += ["", "| key/value cache | 1024 positions | 8192 positions |", "|---|---:|---:|"]
    for name, width in KV_TYPES.items():
        short, full = kv_bytes(width, 1024) / 2**20, kv_bytes(width, CONTEXT) / 2**30
        lines.append(f"| {name} | {short:.0f} MiB | {full:.0f} GiB |")
    return "\n".join(lines)


if __name__ == "__main__":
    total = sum(parameters())
    print(f"{total / 1e9:.0f} G parameters, {parameters().experts / 1e9:.0f} G of them in experts\n")
    print(table())
