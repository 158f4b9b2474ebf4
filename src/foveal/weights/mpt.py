"""MPT checkpoints, of Hugging Face and as MosaicML named its smallest (the blog post of May 2023; 2108.12409)."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights.huggingface import text_batch
from foveal.weights.names import Change, Renaming, Rule, prefixed

KINDS = ("mpt", "mosaic_gpt")

_DEFAULTS: dict[str, Any] = {
    "d_model": 2048,
    "n_heads": 16,
    "n_layers": 24,
    "max_seq_len": 2048,
    "vocab_size": 50368,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
}
# Of the settings of attention, those that change an answer, with the values that leave it as it is here.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "attn_type": ("multihead_attention",),
    "clip_qkv": (None,),
    "softmax_scale": (None,),
    "prefix_lm": (False, None),
    "attn_uses_sequence_id": (False, None),
    "alibi": (True,),
}
_RULES: list[Rule] = [
    ("embedding.weight", "wte.weight"),
    ("layers.*.attention_norm.*", ("blocks.*.norm_1.*", "blocks.*.ln_1.*")),
    (tuple(f"layers.*.attention.{part}.*" for part in ("query", "key", "value")), "blocks.*.attn.Wqkv.*"),
    ("layers.*.attention.query_norm.weight", "blocks.*.attn.q_ln.weight"),
    ("layers.*.attention.key_norm.weight", "blocks.*.attn.k_ln.weight"),
    ("layers.*.attention.out.*", "blocks.*.attn.out_proj.*"),
    ("layers.*.feed_norm.*", ("blocks.*.norm_2.*", "blocks.*.ln_2.*")),
    ("layers.*.feed.up.*", ("blocks.*.ffn.up_proj.*", "blocks.*.mlp.mlp_up.*")),
    ("layers.*.feed.down.*", ("blocks.*.ffn.down_proj.*", "blocks.*.mlp.mlp_down.*")),
    ("norm.*", ("norm_f.*", "ln_f.*")),
]


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of an MPT, under either of its names."""
    return config.get("model_type") in KINDS


def _attention(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of attention, which the elder kind has beside all others, some with a prefix."""
    if "attn_config" in config:
        return dict(config["attn_config"] or {})
    return {name.removeprefix("attn_"): value for name, value in config.items()}


def language_rules(config: Mapping[str, Any], theirs_prefix: str = "transformer.", head: str = "lm_head") -> list[Rule]:
    """Renaming rules of the model and its head, to stand among those of a larger model."""
    elder = config.get("model_type") == "mosaic_gpt"
    rules = [(ours, theirs[::-1] if elder and isinstance(theirs, tuple) else theirs) for ours, theirs in _RULES]
    return [*prefixed(rules, ours="language.", theirs=theirs_prefix), ("head.map.weight", f"{head}.weight")]


def changed(config: Mapping[str, Any], theirs_prefix: str = "transformer.") -> dict[str, Change]:
    """The gains of norms over all heads, which are those of one axis there."""
    heads = config.get("n_heads", _DEFAULTS["n_heads"])

    def by_head(weight: Tensor) -> Tensor:
        return weight.unflatten(0, (heads, -1))

    return {f"{theirs_prefix}blocks.*.attn.{part}_ln.weight": (by_head, torch.flatten) for part in ("q", "k")}


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the weight names of these checkpoints and ours."""
    return Renaming(language_rules(config), changed=changed(config))


def language_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the component `gpt` for a reference's config, with the reference's own defaults.

    Raises InputError for settings that it lacks, naming them.
    """
    given, attention = {**_DEFAULTS, **config}, _attention(config)
    lacking = {"no_bias": (True,), "logit_scale": (None,)}
    for source, wanted in ((attention, _PLAIN), (given, lacking)):
        for name, values in wanted.items():
            if source.get(name, values[0]) not in values:
                raise InputError(f"{name} {source[name]!r} of an MPT is not supported; supported: {values[0]!r}")
    width = given["d_model"]
    return {
        "name": "gpt",
        "vocabulary": given["vocab_size"],
        "width": width,
        "depth": given["n_layers"],
        "heads": given["n_heads"],
        "inner": width * int(given.get("expansion_ratio", given.get("mlp_ratio", 4))),
        "context": given["max_seq_len"],
        "eps": given["layer_norm_epsilon"],
        "bias": False,
        "norm_bias": False,
        "steepest": float(attention.get("alibi_bias_max", 8)),
        "qk_norm": bool(attention.get("qk_ln", False)),
        "deviation": given["initializer_range"],
    }


def head_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the head: the table of words unless told otherwise."""
    return {"name": "language_model", "tied": bool(config.get("tie_word_embeddings", True))}


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that a language model's tokenizer returns."""
    return text_batch


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The language model and its head for a config.json; raises InputError for settings that they lack."""
    return ModelConfig.parse({"language": language_settings(config), "head": head_settings(config)})
