"""DINOv2 towers (2304.07193), with registers (2309.16588) or without: what is their own in settings and names."""

from collections.abc import Iterable, Mapping
from typing import Any

from foveal.weights.names import Rule

_RULES: list[Rule] = [
    ("class_token", "embeddings.cls_token"),
    ("registers", "embeddings.register_tokens"),
    ("positions", "embeddings.position_embeddings"),
    (None, "embeddings.mask_token"),  # of its own training alone
    ("patches.*", "embeddings.patch_embeddings.projection.*"),
    ("post_norm.*", "layernorm.*"),
    ("blocks.*.attention_norm.*", "encoder.layer.*.norm1.*"),
    *(
        (f"blocks.*.attention.{ours}.*", (f"encoder.layer.*.attention.{now}.*", f"encoder.layer.*.attention.{then}.*"))
        for ours, now, then in (  # transformers wrote the latter until 5
            ("query", "q_proj", "attention.query"),
            ("key", "k_proj", "attention.key"),
            ("value", "v_proj", "attention.value"),
            ("out", "o_proj", "output.dense"),
        )
    ),
    ("blocks.*.attention_gate.weight", "encoder.layer.*.layer_scale1.lambda1"),
    ("blocks.*.feed_norm.*", "encoder.layer.*.norm2.*"),
    ("blocks.*.feed_gate.weight", "encoder.layer.*.layer_scale2.lambda1"),
]
_PLAIN: list[Rule] = [
    ("blocks.*.feed.up.*", "encoder.layer.*.mlp.fc1.*"),
    ("blocks.*.feed.down.*", "encoder.layer.*.mlp.fc2.*"),
]
_GATED: list[Rule] = [
    (("blocks.*.feed.gate.*", "blocks.*.feed.up.*"), "encoder.layer.*.mlp.weights_in.*"),
    ("blocks.*.feed.down.*", ("encoder.layer.*.mlp.weights_out.*", "encoder.layer.*.mlp.down_proj.*")),
    ("blocks.*.feed.gate.*", "encoder.layer.*.mlp.gate_proj.*"),  # as transformers holds them in memory
    ("blocks.*.feed.up.*", "encoder.layer.*.mlp.up_proj.*"),
]


def rules(*, gated: bool) -> list[Rule]:
    """The names of a tower, whose feed-forwards may be gated."""
    return _RULES + (_GATED if gated else _PLAIN)


def fields(given: Mapping[str, Any], registers: bool) -> dict[str, Any]:
    """The fields of a config that others of its kind spell out: width of the feed-forward, and how many registers."""
    inner, gated = int(given["hidden_size"] * given.get("mlp_ratio", 4)), bool(given.get("use_swiglu_ffn", False))
    if gated:  # two thirds of it, in whole eights
        inner = (int(inner * 2 / 3) + 7) // 8 * 8
    return {
        "intermediate_size": inner,
        "hidden_act": "silu" if gated else given["hidden_act"],
        "num_register_tokens": int(given.get("num_register_tokens", 4)) if registers else 0,
    }


def settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the component `vit` that CLIP and SigLIP leave as they are."""
    return {
        "registers": given["num_register_tokens"],
        "scale": float(given.get("layerscale_value", 1.0)),
        "gated": bool(given.get("use_swiglu_ffn", False)),
        "smooth": given["num_register_tokens"] > 0,
    }


def leading(prefixes: Iterable[str]) -> dict[str, int]:
    """How many axes of length 1 stand before a weight's own."""
    ones = {"cls_token": 2, "register_tokens": 1, "position_embeddings": 1}
    return {f"{prefix}embeddings.{name}": count for prefix in prefixes for name, count in ones.items()}
