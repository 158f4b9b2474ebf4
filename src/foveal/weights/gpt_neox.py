"""GPT-NeoX checkpoints of Hugging Face (2204.06745): Pythia, RedPajama-INCITE, StableLM-Alpha."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights.decoder import reference_config
from foveal.weights.huggingface import text_batch
from foveal.weights.names import Change, Renaming, Rule, prefixed

KINDS = ("gpt_neox",)

_STACK = "attention.query_key_value"
_RULES: list[Rule] = [
    ("embedding.weight", "embed_in.weight"),
    ("layers.*.attention_norm.*", "layers.*.input_layernorm.*"),
    (tuple(f"layers.*.attention.{part}.*" for part in ("query", "key", "value")), f"layers.*.{_STACK}.*"),
    ("layers.*.attention.out.*", "layers.*.attention.dense.*"),
    ("layers.*.feed_norm.*", "layers.*.post_attention_layernorm.*"),
    ("layers.*.feed.up.*", "layers.*.mlp.dense_h_to_4h.*"),
    ("layers.*.feed.down.*", "layers.*.mlp.dense_4h_to_h.*"),
    ("norm.*", "final_layer_norm.*"),
    (None, "layers.*.attention.bias"),
    (None, "layers.*.attention.masked_bias"),
    (None, "layers.*.attention.rotary_emb.inv_freq"),
]


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a plain GPT-NeoX."""
    return config.get("model_type") in KINDS


def language_rules(
    theirs_prefix: str | tuple[str, ...] = "gpt_neox.", head: tuple[str, ...] = ("embed_out", "lm_head")
) -> list[Rule]:
    """Renaming rules of the model and its head, to stand among those of a larger model."""
    return [
        *prefixed(_RULES, ours="language.", theirs=theirs_prefix),
        ("head.map.weight", tuple(f"{name}.weight" for name in head)),
    ]


def changed(config: Mapping[str, Any], theirs_prefix: str = "gpt_neox.") -> dict[str, Change]:
    """What parts a stack of theirs, where query, key and value of each head follow one another."""
    heads = reference_config(config).num_attention_heads

    def apart(weight: Tensor) -> Tensor:
        return weight.unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)

    def together(weight: Tensor) -> Tensor:
        return weight.unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)

    return {f"{theirs_prefix}layers.*.{_STACK}.*": (apart, together)}


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the weight names of these checkpoints and ours."""
    return Renaming(language_rules(), changed=changed(config))


def language_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the component `gpt` for a reference's config, with the reference's own defaults.

    Raises InputError for other rotary positions than the plain ones, and for attention without biases.
    """
    given = reference_config(config)
    rope = given.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise InputError(f"rotary positions of type {rope['rope_type']!r} are not supported; supported: default")
    if not given.attention_bias:
        raise InputError("attention_bias false is not supported; give a checkpoint whose attention has biases")
    return {
        "name": "gpt",
        "vocabulary": given.vocab_size,
        "width": given.hidden_size,
        "depth": given.num_hidden_layers,
        "heads": given.num_attention_heads,
        "inner": given.intermediate_size,
        "context": given.max_position_embeddings,
        "activation": given.hidden_act,
        "eps": given.layer_norm_eps,
        "parallel": given.use_parallel_residual,
        "rope": {"base": float(rope["rope_theta"]), "share": float(rope.get("partial_rotary_factor", 1.0))},
        "deviation": given.initializer_range,
    }


def head_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the head: a table of its own unless told otherwise."""
    return {"name": "language_model", "tied": bool(config.get("tie_word_embeddings", False))}


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that a language model's tokenizer returns."""
    return text_batch


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The language model and its head for a config.json; raises InputError for settings that they lack."""
    return ModelConfig.parse({"language": language_settings(config), "head": head_settings(config)})
