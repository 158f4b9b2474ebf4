"""IDEFICS checkpoints of Hugging Face: Flamingo as it was rebuilt in the open, on Llama (2306.16527)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, Pixels, VisualTokens
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights.arguments import same
from foveal.weights.decoder import language_rules, language_settings, reference_config
from foveal.weights.huggingface import text_batch
from foveal.weights.names import Renaming, Rule, prefixed
from foveal.weights.vision_towers import CLIP, vision_rules, vision_settings

KINDS = ("idefics",)

_HEADS: list[Rule] = [
    ("query_norm.*", "q_layer_norm.*"),
    ("key_norm.*", "k_layer_norm.*"),
    ("query.weight", "q_proj.weight"),
    ("key.weight", "k_proj.weight"),
    ("value.weight", "v_proj.weight"),
]
_BLOCK: list[Rule] = [
    ("attention_norm.weight", "input_layernorm.weight"),
    *prefixed([*_HEADS, ("out.weight", "o_proj.weight")], ours="attention.", theirs="cross_attn."),
    ("attention_gate.weight", "alpha_cross_attn"),
    ("feed_norm.weight", "post_attention_layernorm.weight"),
    *((f"feed.{part}.weight", f"mlp.{part}_proj.weight") for part in ("gate", "up", "down")),
    ("feed_gate.weight", "alpha_dense"),
]
_RESAMPLER: list[Rule] = [
    ("latents", "latents"),
    ("norm.*", "layer_norm.*"),
    ("layers.*.token_norm.*", "blocks.*.0.context_layer_norm.*"),
    ("layers.*.latent_norm.*", "blocks.*.0.latents_layer_norm.*"),
    *prefixed([*_HEADS, ("out.weight", "output_proj.weight")], ours="layers.*.attention.", theirs="blocks.*.0."),
    ("layers.*.feed_norm.*", "blocks.*.1.ln.*"),
    ("layers.*.feed.up.weight", "blocks.*.1.fc.weight"),
    ("layers.*.feed.down.weight", "blocks.*.1.c_proj.weight"),
]
_TEXT = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "rms_norm_eps",
    "max_position_embeddings", "initializer_range", "rope_parameters", "tie_word_embeddings",
)  # fmt: skip
_SIGHT = (
    "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_channels", "image_size", "patch_size",
    "hidden_act", "layer_norm_eps",
)  # fmt: skip


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of an IDEFICS, the first of its name."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between an IDEFICS checkpoint's weight names and ours, in which the words added later are words like others."""
    given = reference_config(config)
    blocks = range(given.num_hidden_layers // given.cross_layer_interval)
    theirs = [f"model.gated_cross_attn_layers.{block}." for block in blocks]
    rules = [
        block_rules(ours=f"fusion.blocks.{block * given.cross_layer_interval}.", theirs=name)
        for block, name in enumerate(theirs)
    ]
    alphas = [f"{name}alpha_{part}" for name in theirs for part in ("cross_attn", "dense")]
    added = {
        "model.embed_tokens.weight": (given.vocab_size, "model.embed_tokens.additional_embedding.weight"),
        "lm_head.weight": (given.vocab_size, "lm_head.additional_fc.weight"),
    }
    return Renaming(
        [
            *prefixed(_RESAMPLER, ours="connector.resampler.", theirs="model.perceiver_resampler."),
            *(rule for block in rules for rule in block),
            *vision_rules(CLIP, theirs_prefix="model.vision_model."),
            (None, "**.rotary_emb.inv_freq"),
            *language_rules(),
        ],
        leading=dict.fromkeys(alphas, 2) if given.alpha_type == "vector" else None,
        parted=added if given.additional_vocab_size else None,
    )


def block_rules(*, ours: str, theirs: str) -> list[Rule]:
    """Renaming rules of a block of cross-attention under these prefixes."""
    return prefixed(_BLOCK, ours=ours, theirs=theirs)


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for an IDEFICS config.json, with the reference's defaults.

    Raises InputError for blocks that do not come out even over the layers, which the reference cannot run.
    """
    given = reference_config(config)
    sight, interval = given.vision_config, given.cross_layer_interval
    if given.num_hidden_layers % interval:
        raise InputError(
            f"a block before every {interval}th of {given.num_hidden_layers} layers does not come out even; "
            "give a cross_layer_interval that divides num_hidden_layers"
        )
    text = {"model_type": "llama", "vocab_size": given.vocab_size + given.additional_vocab_size}
    return ModelConfig.parse(
        {
            "vision": vision_settings(
                {"model_type": CLIP, "hidden_size": sight.embed_dim, **{name: getattr(sight, name) for name in _SIGHT}},
                layers=(-1,),
                select="full",
            ),
            "connector": _resampler(given.perceiver_config) if given.use_resampler else "identity",
            "fusion": {
                "name": "gated_cross_attention",
                "layers": range(0, given.num_hidden_layers, interval),
                "width_of_sight": sight.embed_dim,
                "heads": given.num_attention_heads,
                "head_width": given.hidden_size // given.num_attention_heads,
                "inner": given.intermediate_size,
                "feed_gated": True,
                "activation": given.hidden_act,
                "norm": "rms",
                "qk_norm": given.qk_layer_norms,
                "eps": given.rms_norm_eps,
                "gate": "vector" if given.alpha_type == "vector" else "scalar",
                "looks": "last",
            },
            "language": language_settings({**text, **{name: getattr(given, name) for name in _TEXT}}),
            "head": {"name": "language_model", "tied": bool(given.tie_word_embeddings)},
        }
    )


def _resampler(given: Any) -> dict[str, Any]:
    return {
        "name": "perceiver",
        "latents": given.resampler_n_latents,
        "depth": given.resampler_depth,
        "heads": given.resampler_n_heads,
        "head_width": given.resampler_head_dim,
        "activation": "relu",
        "qk_norm": given.qk_layer_norms_perceiver,
    }


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that IDEFICS' processor returns."""
    side = reference_config(config).vision_config.image_size

    def to_batch(
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        pixel_values: Float[Tensor, "B N C H W"] | None = None,
        image_encoder_embeddings: Float[Tensor, "B N S E"] | None = None,
        image_attention_mask: Int[Tensor, "R L M"] | None = None,
        position_ids: Int[Tensor, "B L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
    ) -> Batch:
        batch = text_batch(input_ids, attention_mask, position_ids, labels)
        seen = pixel_values if pixel_values is not None else image_encoder_embeddings
        if seen is None:
            return batch
        if pixel_values is not None and image_encoder_embeddings is not None:
            raise InputError("images as pixel_values and as image_encoder_embeddings; give one of them")
        if image_attention_mask is None:
            raise InputError("images without image_attention_mask; give it as the checkpoint's processor returns it")
        same(
            "texts and images each in image_attention_mask",
            [len(image_attention_mask), image_attention_mask.shape[2]],
            "in what they see",
            list(seen.shape[:2]),
        )
        rows, images = seen.shape[:2]
        owner = torch.arange(rows, device=input_ids.device).repeat_interleave(images)
        visual = _encoded(seen) if pixel_values is None else _pixels(seen, side)
        return replace(batch, visual=visual, looks=image_attention_mask.bool(), owner=owner)

    return to_batch


def _encoded(given: Float[Tensor, "B N S E"]) -> VisualTokens:
    images = given.shape[0] * given.shape[1]
    return VisualTokens.on_layout(
        given.flatten(0, 2), Layout(counts=(given.shape[2],) * images, grids=(None,) * images)
    )


def _pixels(given: Float[Tensor, "B N C H W"], side: int) -> Pixels:
    if given.shape[-2:] != (side, side):
        raise InputError(
            f"images of {given.shape[-2]} x {given.shape[-1]} pixels for a tower of {side} x {side}; resize them"
        )
    return Pixels.whole(given.flatten(0, 1))
