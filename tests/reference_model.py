"""Grok-1 in plain numpy, float64, from any GGUF file: slow, short, and written independently of the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ReferenceModel:
    """Weights dequantized to float64; `logits` recomputes everything from position 0."""

    def __init__(self, path: str | Path) -> None:
        reader = GGUFReader(str(path))
        self.tensors: dict[str, Array] = {
            t.name: dequantize(t.data, t.tensor_type).astype(np.float64).reshape(t.shape[::-1].tolist())
            for t in reader.tensors
        }

        def value(key: str) -> Any:
            return reader.fields["grok." + key].contents()

        self.layers = int(value("block_count"))
        self.heads = int(value("attention.head_count"))
        self.kv_heads = int(value("attention.head_count_kv"))
        self.used = int(value("expert_used_count"))
        self.eps = float(value("attention.layer_norm_rms_epsilon"))
        self.base = float(value("rope.freq_base"))
        self.embedding_multiplier = float(value("embedding_scale"))
        self.output_multiplier = float(value("logit_scale"))
        self.attention_multiplier = float(value("attention.output_scale"))
        self.cap = float(value("attn_logit_softcapping"))

    def norm(self, x: Array, name: str) -> Array:
        scale = self.tensors[name + ".weight"]
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * scale

    def rope(self, x: Array) -> Array:  # [T, heads, d]
        d = x.shape[-1]
        angle = np.arange(len(x))[:, None] * self.base ** (-2 * np.arange(d // 2) / d)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        x1, x2 = x[..., : d // 2], x[..., d // 2 :]
        return np.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], -1)

    def attention(self, x: Array, block: str) -> Array:
        q, k, v = (x @ self.tensors[f"{block}attn_{n}.weight"].T for n in "qkv")
        steps = len(x)
        q = self.rope(q.reshape(steps, self.heads, -1))
        k = self.rope(k.reshape(steps, self.kv_heads, -1))
        v = v.reshape(steps, self.kv_heads, -1)
        k, v = (np.repeat(t, self.heads // self.kv_heads, axis=1) for t in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) * self.attention_multiplier
        scores = self.cap * np.tanh(scores / self.cap)
        scores = np.where(np.tri(steps, dtype=bool), scores, -np.inf)
        out = np.einsum("hqk,khd->qhd", softmax(scores), v).reshape(steps, -1)
        return out @ self.tensors[block + "attn_output.weight"].T

    def experts(self, x: Array, block: str) -> Array:
        gate, up, down = (self.tensors[f"{block}ffn_{n}_exps.weight"] for n in ("gate", "up", "down"))
        p = softmax(x @ self.tensors[block + "ffn_gate_inp.weight"].T)
        out = np.zeros_like(x)
        for t, row in enumerate(x):
            for e in np.argsort(-p[t], kind="stable")[: self.used]:
                out[t] += p[t, e] * (down[e] @ (gelu(gate[e] @ row) * (up[e] @ row)))
        return out

    def logits(self, ids: list[int] | NDArray[np.int32]) -> Array:
        h = self.tensors["token_embd.weight"][np.asarray(ids)] * self.embedding_multiplier
        for i in range(self.layers):
            b = f"blk.{i}."
            h = h + self.norm(self.attention(self.norm(h, b + "attn_norm"), b), b + "attn_output_norm")
            h = h + self.norm(self.experts(self.norm(h, b + "ffn_norm"), b), b + "layer_output_norm")
        output = self.tensors.get("output.weight", self.tensors["token_embd.weight"])
        return self.norm(h, "output_norm") @ output.T * self.output_multiplier


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def mean_kl(reference: NDArray[Any], logits: NDArray[Any]) -> float:
    """Mean over positions of KL(softmax(reference) || softmax(logits)), in nats."""
    p, q = softmax(reference.astype(np.float64)), softmax(logits.astype(np.float64))
    return float((p * (np.log(p) - np.log(q))).sum(-1).mean())
