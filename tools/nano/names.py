"""The flattened parameter tree of xAI's release: which tensor is in which file."""

from __future__ import annotations

# Path of a tensor within a layer of the tree -> name of the parameter of ``model.Layer``.
LAYER = {
    "moe/linear/w": "linear",
    "moe/linear_1/w": "linear_1",
    "moe/linear_v/w": "linear_v",
    "multi_head_attention/key/w": "key",
    "multi_head_attention/linear/w": "output",
    "multi_head_attention/query/w": "query",
    "multi_head_attention/value/w": "value",
    "rms_norm/scale": "rms_norm",
    "rms_norm_1/scale": "rms_norm_1",
    "rms_norm_2/scale": "rms_norm_2",
    "rms_norm_3/scale": "rms_norm_3",
    "router/w": "router",
}
# How many groups of rows have a scale of their own, as in the release; what is not here stays float32.
SCALE_GROUPS = {"linear": 1, "linear_1": 8, "linear_v": 1, "key": 1, "output": 8, "query": 1, "value": 1}


def files(layers: int) -> list[tuple[str, str]]:
    """(path in the tree, name in ``model.Nano``) of each tensor, in the order of the files.

    The tree's keys sort as strings: layer 10 comes before layer 2.
    """
    tree = {
        "params/language_model/in_out_embed/embeddings": "embeddings",
        "params/language_model/rms_norm/scale": "rms_norm",
    }
    for layer in range(layers):
        for path, name in LAYER.items():
            tree[f"params/transformer/decoder_layer_{layer}/{path}"] = f"layers.{layer}.{name}"
    # Component by component, since a '/' would not sort below the digits and underscores of longer names.
    return sorted(tree.items(), key=lambda item: item[0].split("/"))
