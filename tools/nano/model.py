"""Grok-1's architecture in PyTorch, with names and layout of xAI's release (weights are ``[in, out]``)."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import attention
import torch
from experts import Permute, grouped_matmul
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Config:
    """Nano's shape. Every row length is a multiple of 256, so that all block formats apply to it."""

    vocab: int = 4096
    context: int = 2048
    embedding: int = 256
    width: int = 512
    layers: int = 4
    heads: int = 16
    kv_heads: int = 8
    head_size: int = 16
    experts: int = 8
    routed: int = 2
    soft_cap: float = 30.0
    embedding_multiplier: float = 16.0
    output_multiplier: float = 0.5773502691896257
    eps: float = 1e-5
    rope_base: float = 10000.0

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Normalise in float32, whatever the activations are."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * scale).to(x.dtype)


def rope_tables(config: Config, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, ``[length, head_size / 2]``."""
    exponents = torch.arange(0, config.head_size, 2, dtype=torch.float64) / config.head_size
    angles = torch.arange(length, dtype=torch.float64)[:, None] * config.rope_base**-exponents
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-split rotation of ``[batch, length, heads, head_size]``."""
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class Layer(nn.Module):
    """One decoder layer: attention and routed experts, each between two norms."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.fused = attention.available(config.head_size)
        emb, heads, kv, size = config.embedding, config.heads, config.kv_heads, config.head_size

        def matrix(*shape: int, gain: float = 1.0) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) * gain * shape[-2] ** -0.5)

        self.linear = matrix(config.experts, emb, config.width)
        self.linear_1 = matrix(config.experts, config.width, emb)
        self.linear_v = matrix(config.experts, emb, config.width)
        self.key = matrix(emb, kv * size)
        self.output = matrix(heads * size, emb)
        self.query = matrix(emb, heads * size)
        self.value = matrix(emb, kv * size)
        self.rms_norm = nn.Parameter(torch.ones(emb))
        # The norms after attention and experts decide how much a layer adds to the stream; start it small.
        self.rms_norm_1 = nn.Parameter(torch.full((emb,), 0.3))
        self.rms_norm_2 = nn.Parameter(torch.ones(emb))
        self.rms_norm_3 = nn.Parameter(torch.full((emb,), 0.3))
        self.router = matrix(emb, config.experts, gain=0.5)

    def attend(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        config = self.config
        batch, length, _ = x.shape
        heads, kv, size = config.heads, config.kv_heads, config.head_size
        weights = torch.cat((self.query, self.key, self.value), dim=1).to(x.dtype)
        q, k, v = torch.split(x @ weights, [heads * size, kv * size, kv * size], dim=-1)
        q = rotate(q.reshape(batch, length, heads, size), cos, sin)
        k = rotate(k.reshape(batch, length, kv, size), cos, sin)
        if self.fused:
            mixed = attention.attention(q.float(), k.float(), v.reshape(k.shape).float(), config.soft_cap)[
                0
            ].to(x.dtype)
        else:
            mixed = self.plain_attention(q, k, v.reshape(k.shape))
        out: Tensor = mixed.reshape(batch, length, heads * size) @ self.output.to(x.dtype)
        return out

    def plain_attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same as the fused kernel, step by step."""
        config = self.config
        batch, length, heads, size = q.shape
        kv = config.kv_heads
        # The query heads of one key/value head are laid one after another along the rows: nothing is
        # repeated.
        group = heads // kv
        q = (
            q.reshape(batch, length, kv, group, size)
            .permute(0, 2, 3, 1, 4)
            .reshape(batch, kv, group * length, size)
        )
        scores = (q @ k.permute(0, 2, 3, 1)).reshape(batch, kv, group, length, length).float()
        scores = config.soft_cap * torch.tanh(scores * (size**-0.5 / config.soft_cap))
        future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        shares = scores.masked_fill(future, -math.inf).softmax(-1).to(q.dtype)
        mixed = shares.reshape(batch, kv, group * length, length) @ v.transpose(1, 2)
        return mixed.reshape(batch, kv, group, length, size).permute(0, 3, 1, 2, 4)

    def mixture(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The routed experts' output, the balancing loss, and each expert's share of the routed tokens."""
        config = self.config
        rows = x.reshape(-1, config.embedding)
        probabilities = (rows.float() @ self.router).softmax(-1)
        chosen_p, chosen = probabilities.topk(config.routed, dim=-1)
        order = chosen.flatten().argsort(stable=True)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel(), device=x.device))
        one_hot = functional.one_hot(chosen.flatten(), config.experts)
        counts = one_hot.sum(0)
        ends = counts.cumsum(0)
        routed = Permute.apply(rows, order, inverse, config.routed)  # type: ignore[no-untyped-call]
        gate_up = torch.cat((self.linear, self.linear_v), dim=2).to(x.dtype)
        gate, up = grouped_matmul(routed, gate_up, ends).chunk(2, dim=-1)
        hidden = functional.gelu(gate.float(), approximate="tanh").to(x.dtype) * up
        out = grouped_matmul(hidden, self.linear_1.to(x.dtype), ends)
        out = Permute.apply(out, inverse, order, 1)  # type: ignore[no-untyped-call]
        out = out.reshape(-1, config.routed, config.embedding)
        # Not renormalised: the norm after the experts takes the common factor out again.
        out = (out.float() * chosen_p[..., None]).sum(1).to(x.dtype)
        shares = counts / counts.sum()
        balance = config.experts * (shares * probabilities.mean(0)).sum()
        return out.reshape(x.shape), balance, shares

    def forward(
        self, h: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add the layer to the float32 stream ``h``; ``dtype`` is that of the products."""
        eps = self.config.eps
        a = rms_norm(h, self.rms_norm, eps).to(dtype)
        h = h + rms_norm(self.attend(a, cos, sin), self.rms_norm_1, eps)
        out, balance, shares = self.mixture(rms_norm(h, self.rms_norm_2, eps).to(dtype))
        return h + rms_norm(out, self.rms_norm_3, eps), balance, shares


class Nano(nn.Module):
    """The whole model.

    ``dtype`` is that of the products; the residual stream, norms, router and softmax are float32.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, config: Config, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        self.embeddings = nn.Parameter(torch.randn(config.vocab, config.embedding) * 0.03)
        self.rms_norm = nn.Parameter(torch.ones(config.embedding))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        cos, sin = rope_tables(config, config.context)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def hidden(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States after the final norm, mean balancing loss, and expert shares ``[layers, experts]``."""
        length = tokens.shape[1]
        h = functional.embedding(tokens, self.embeddings) * self.config.embedding_multiplier
        cos, sin = self.cos[:length], self.sin[:length]
        balances, shares = [], []
        for layer in self.layers:
            h, balance, share = layer(h, cos, sin, self.dtype)
            balances.append(balance)
            shares.append(share)
        return rms_norm(h, self.rms_norm, self.config.eps), torch.stack(balances).mean(), torch.stack(shares)

    def logits(self, hidden: Tensor) -> Tensor:
        product = hidden.to(self.dtype) @ self.embeddings.to(self.dtype).t()
        return product.float() * self.config.output_multiplier

    def forward(self, tokens: Tensor) -> Tensor:
        return self.logits(self.hidden(tokens)[0])
