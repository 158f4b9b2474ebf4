"""OPT checkpoints of Hugging Face (2205.01068), alone or as the language part of a larger model."""

from collections.abc import Callable, Mapping
from typing import Any

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights.huggingface import text_batch
from foveal.weights.names import Renaming, Rule, prefixed

KINDS = ("opt",)

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 50272,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "ffn_dim": 3072,
    "max_position_embeddings": 2048,
    "activation_function": "relu",
    "enable_bias": True,
    "do_layer_norm_before": True,
    "init_std": 0.02,
}
_FIELDS = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "ffn_dim",
    "context": "max_position_embeddings",
    "activation": "activation_function",
    "bias": "enable_bias",
    "norm_first": "do_layer_norm_before",
    "deviation": "init_std",
}
_RULES: list[Rule] = [
    ("embedding.weight", "embed_tokens.weight"),
    ("positions.weight", "embed_positions.weight"),
    ("map_in.weight", "project_in.weight"),
    ("map_out.weight", "project_out.weight"),
    ("layers.*.attention_norm.*", "layers.*.self_attn_layer_norm.*"),
    ("layers.*.attention.query.*", "layers.*.self_attn.q_proj.*"),
    ("layers.*.attention.key.*", "layers.*.self_attn.k_proj.*"),
    ("layers.*.attention.value.*", "layers.*.self_attn.v_proj.*"),
    ("layers.*.attention.out.*", "layers.*.self_attn.out_proj.*"),
    ("layers.*.feed_norm.*", "layers.*.final_layer_norm.*"),
    ("layers.*.feed.up.*", "layers.*.fc1.*"),
    ("layers.*.feed.down.*", "layers.*.fc2.*"),
    ("last_norm.*", "final_layer_norm.*"),
]


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a plain OPT."""
    return config.get("model_type") in KINDS


def language_rules(
    theirs_prefix: str | tuple[str, ...] = ("model.decoder.", "decoder."), head: str | tuple[str, ...] = "lm_head"
) -> list[Rule]:
    """Renaming rules of the model and its head, to stand among those of a larger model."""
    heads = (head,) if isinstance(head, str) else head
    return [
        *prefixed(_RULES, ours="language.", theirs=theirs_prefix),
        ("head.map.weight", tuple(f"{name}.weight" for name in heads)),
    ]


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the weight names of these checkpoints and ours."""
    return Renaming(language_rules())


def language_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the component `opt` for a reference's config, with the reference's own defaults.

    Raises InputError for norms without weights, which it lacks.
    """
    if not config.get("layer_norm_elementwise_affine", True):
        raise InputError("layer_norm_elementwise_affine false is not supported; give a checkpoint whose norms learn")
    given = {**_DEFAULTS, **config}
    settings = {ours: given[theirs] for ours, theirs in _FIELDS.items()}
    last = given["do_layer_norm_before"] and not given.get("_remove_final_layer_norm", False)
    return {"name": "opt", **settings, "last_norm": last, "word_width": given.get("word_embed_proj_dim")}


def head_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the head: the table of words unless told otherwise."""
    return {"name": "language_model", "tied": config.get("tie_word_embeddings", True)}


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that a language model's tokenizer returns."""
    return text_batch


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The language model and its head for a config.json; raises InputError for settings that they lack."""
    return ModelConfig.parse({"language": language_settings(config), "head": head_settings(config)})
