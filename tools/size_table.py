"""Print the tables of README.md: what Grok-1 needs on disk and in memory with each type and mix.

Everything is computed from the released shapes and `pygrok.quantize`'s own rules, without the files' headers (5 MB).
"Read per token" is what one decoded token touches; a machine whose memory holds less than the file still runs it, at
the speed of its disk. Needs pygrok installed.

    python tools/size_table.py
"""

from __future__ import annotations

from typing import NamedTuple

from pygrok.quantize.mixes import MIXES
from pygrok.quantize.tensor_types import row_bytes

LAYERS, EMBEDDING, VOCAB, CONTEXT = 64, 6144, 131072, 8192
HEADS, KV_HEADS, HEAD_SIZE = 48, 8, 128
EXPERTS, ROUTED, WIDTH = 8, 2, 32768

# From the smallest; a type is for all weights, with the embedding that pygrok-quantize gives it.
SHOWN = (
    *("iq2_xxs_moe", "iq2_m", "q2_k_s", "iq3_xs", "q3_k_s", "iq3_m", "q3_k_m", "q3_k_l"),
    *("iq4_xs_moe", "q4_0", "q4_k_s", "q4_k_m", "q5_k_m", "q6_k_moe", "q8_0", "bf16", "f32"),
)
# Where the embedding is not of the type itself.
EMBEDDING_TYPES = {"q4_0": "q8_0", "q8_0": "f32"}
KV_TYPES = {"f32": 4, "f16": 2, "bf16": 2}

# Rows and columns of a layer's matrices by the quantizer's name of their part.
ATTENTION = {
    "query": (HEADS * HEAD_SIZE, EMBEDDING),
    "key": (KV_HEADS * HEAD_SIZE, EMBEDDING),
    "value": (KV_HEADS * HEAD_SIZE, EMBEDDING),
    "attention_output": (EMBEDDING, HEADS * HEAD_SIZE),
}
EXPERT = {
    "expert_gate": (WIDTH, EMBEDDING),
    "expert_up": (WIDTH, EMBEDDING),
    "expert_down": (EMBEDDING, WIDTH),
}


class Parts(NamedTuple):
    """Numbers of parameters."""

    embedding: int
    attention: int
    experts: int
    plain: int  # norms and router, always f32


def parameters() -> Parts:
    """The release's, all layers."""
    attention = sum(rows * columns for rows, columns in ATTENTION.values())
    experts = EXPERTS * sum(rows * columns for rows, columns in EXPERT.values())
    plain = 4 * EMBEDDING + EMBEDDING * EXPERTS
    return Parts(VOCAB * EMBEDDING, LAYERS * attention, LAYERS * experts, LAYERS * plain + EMBEDDING)


def sizes(name: str) -> tuple[int, int]:
    """Bytes of all weights, and of those that one decoded token touches, with a type or a mix."""
    mix = MIXES.get(name)

    def type_of(role: str, kind: str, layer: int) -> str:
        return name if mix is None else mix.type_of(role, kind, layer, LAYERS)

    embedding = EMBEDDING_TYPES.get(name, name) if mix is None else mix.rest
    dense = VOCAB * row_bytes(embedding, EMBEDDING) + 4 * parameters().plain
    experts = 0
    for layer in range(LAYERS):
        for role, (rows, columns) in ATTENTION.items():
            dense += rows * row_bytes(type_of(role, "attention", layer), columns)
        for role, (rows, columns) in EXPERT.items():
            experts += EXPERTS * rows * row_bytes(type_of(role, "expert", layer), columns)
    return dense + experts, dense + experts * ROUTED // EXPERTS


def kv_bytes(width: int, positions: int) -> int:
    """Bytes of one session's cache."""
    return 2 * LAYERS * KV_HEADS * HEAD_SIZE * width * positions


def table() -> str:
    """The Markdown of README.md."""
    lines = [
        "| type or mix | file | bits per weight | read per token | tokens/s at 50 GB/s | at 400 GB/s |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in SHOWN:
        whole, touched = sizes(name)
        bits = 8 * whole / sum(parameters())
        speeds = " | ".join(f"{rate * 1e9 / touched:.1f}" for rate in (50, 400))
        lines.append(f"| {name} | {whole / 1e9:.0f} GB | {bits:.2f} | {touched / 1e9:.1f} GB | {speeds} |")
    lines += ["", "| key/value cache | 1024 positions | 8192 positions |", "|---|---:|---:|"]
    for name, width in KV_TYPES.items():
        short, full = kv_bytes(width, 1024) / 2**20, kv_bytes(width, CONTEXT) / 2**30
        lines.append(f"| {name} | {short:.0f} MiB | {full:.0f} GiB |")
    return "\n".join(lines)


if __name__ == "__main__":
    total = sum(parameters())
    print(f"{total / 1e9:.0f} G parameters, {parameters().experts / 1e9:.0f} G of them in experts\n")
    print(table())
