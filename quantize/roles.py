"""The tensors of a Grok model: the part each one plays, its name in GGUF, its kind and its shape."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALWAYS_F32", "LAYER_ROLES", "TOP_ROLES", "Dimensions", "Role", "tensor_name"]


@dataclass(frozen=True)
class Role:
    """name: the GGUF tensor's, without `blk.N.` and `.weight`. kind: what type rules speak of."""

    name: str
    kind: str  # "embedding", "norm", "attention", "router" or "expert"


# Kinds that are small, and what they scale or decide is felt everywhere: never less than f32.
ALWAYS_F32 = frozenset({"norm", "router"})

# Both in the order of the GGUF file. "output" is there only if the output matrix is not the embedding.
TOP_ROLES = {
    "embedding": Role("token_embd", "embedding"),
    "output_norm": Role("output_norm", "norm"),
    "output": Role("output", "embedding"),
}
LAYER_ROLES = {
    "attention_norm": Role("attn_norm", "norm"),
    "query": Role("attn_q", "attention"),
    "key": Role("attn_k", "attention"),
    "value": Role("attn_v", "attention"),
    "attention_output": Role("attn_output", "attention"),
    "attention_output_norm": Role("attn_output_norm", "norm"),
    "expert_norm": Role("ffn_norm", "norm"),
    "router": Role("ffn_gate_inp", "router"),
    "expert_gate": Role("ffn_gate_exps", "expert"),
    "expert_up": Role("ffn_up_exps", "expert"),
    "expert_down": Role("ffn_down_exps", "expert"),
    "expert_output_norm": Role("layer_output_norm", "norm"),
}


def tensor_name(role: str, layer: int | None) -> str:
    """As in `blk.0.attn_q.weight`; layer None: a tensor outside the layers."""
    if layer is None:
        return f"{TOP_ROLES[role].name}.weight"
    return f"blk.{layer}.{LAYER_ROLES[role].name}.weight"


@dataclass(frozen=True)
class Dimensions:
    """What the tensors' shapes tell of the model."""

    layers: int
    vocabulary: int
    embedding: int
    experts: int
    expert_width: int
    query: int  # query heads x head size
    key_value: int  # key/value heads x head size

    def shape_of(self, role: str) -> tuple[int, ...]:
        """The shape in xAI's checkpoint: `[in, out]` for matrices, `[vocabulary, embedding]` for the embedding."""
        emb, width = self.embedding, self.expert_width
        shapes = {
            "embedding": (self.vocabulary, emb),
            "output": (self.vocabulary, emb),
            "expert_gate": (self.experts, emb, width),
            "expert_up": (self.experts, emb, width),
            "expert_down": (self.experts, width, emb),
            "query": (emb, self.query),
            "key": (emb, self.key_value),
            "value": (emb, self.key_value),
            "attention_output": (self.query, emb),
            "router": (emb, self.experts),
        }
        return shapes.get(role, (emb,))

    def gguf_shape_of(self, role: str) -> tuple[int, ...]:
        """The shape in GGUF, in numpy order: `[experts,] out, in` for matrices."""
        shape = self.shape_of(role)
        if len(shape) == 1 or role in ("embedding", "output"):
            return shape
        return (*shape[:-2], shape[-1], shape[-2])
