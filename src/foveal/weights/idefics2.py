"""IDEFICS-2 checkpoints of Hugging Face: SigLIP over images of any shape, a gated perceiver, Mistral (2405.02246)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch, Grid, Pixels
from foveal.models.budget import unspent
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.vision.native_vit import Config as Tower
from foveal.weights.decoder import language_rules, language_settings, reference_config
from foveal.weights.huggingface import text_batch
from foveal.weights.names import Renaming, Rule, prefixed
from foveal.weights.vision_towers import SIGLIP, vision_rules, vision_settings

KINDS = ("idefics2",)

_MAPS = (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o"))
_GATED = (("gate", "gate_proj"), ("up", "up_proj"), ("down", "down_proj"))
_LAYER: list[Rule] = [
    ("latent_norm.weight", "input_latents_norm.weight"),
    ("token_norm.weight", "input_context_norm.weight"),
    ("feed_norm.weight", "post_attention_layernorm.weight"),
    *((f"attention.{ours}.weight", f"self_attn.{theirs}_proj.weight") for ours, theirs in _MAPS),
    *((f"feed.{ours}.weight", f"mlp.{theirs}.weight") for ours, theirs in _GATED),
]
_CONNECTOR: list[Rule] = [
    *((f"map.{ours}.weight", f"modality_projection.{theirs}.weight") for ours, theirs in _GATED),
    ("resampler.latents", "perceiver_resampler.latents"),
    ("resampler.norm.weight", "perceiver_resampler.norm.weight"),
    *prefixed(_LAYER, ours="resampler.layers.*.", theirs="perceiver_resampler.layers.*."),
]


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of an IDEFICS-2."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between an IDEFICS-2 checkpoint's weight names and ours."""
    return Renaming(
        [
            *prefixed(_CONNECTOR, ours="connector.", theirs="model.connector."),
            *vision_rules(SIGLIP, theirs_prefix="model.vision_model."),
            *language_rules(theirs_prefix="model.text_model."),
        ]
    )


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for an IDEFICS-2 config.json, with the reference's defaults.

    Raises InputError where text and perceiver name different activations.
    """
    reference = reference_config(config)
    text, perceiver = reference.text_config.to_dict(), reference.perceiver_config
    if text["hidden_act"] != perceiver.hidden_act:
        raise InputError(
            f"text_config.hidden_act is {text['hidden_act']!r} but perceiver_config.hidden_act is "
            f"{perceiver.hidden_act!r}; a perceiver takes one for both of its feed-forwards"
        )
    return ModelConfig.parse(
        {
            "vision": native_tower(reference.vision_config.to_dict()),
            "connector": {
                "name": "perceiver",
                "latents": perceiver.resampler_n_latents,
                "depth": perceiver.resampler_depth,
                "heads": perceiver.resampler_n_heads,
                "head_width": perceiver.resampler_head_dim,
                "kv_heads": perceiver.num_key_value_heads,
                "activation": perceiver.hidden_act,
                "gated": True,
                "norm": "rms",
                "eps": perceiver.rms_norm_eps,
                "entry": text["intermediate_size"],
            },
            "fusion": "prefix",
            "language": language_settings(text),
            "head": {"name": "language_model", "tied": bool(reference.tie_word_embeddings)},
        }
    )


def native_tower(vision_config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the component `native_vit` for a vision config whose fields are SigLIP's."""
    every = vision_settings({**vision_config, "model_type": SIGLIP})
    return {"name": "native_vit", **{one.name: every[one.name] for one in fields(Tower) if one.name in every}}


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that IDEFICS-2's processor returns."""
    image_token = config.get("image_token_id", 32001)

    def to_batch(
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        pixel_values: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
    ) -> Batch:
        batch = text_batch(input_ids, attention_mask, position_ids, labels)
        pixels, owner = None, input_ids.new_zeros(0)
        if pixel_values is not None:
            pixels, owner = shown(pixel_values, pixel_attention_mask)
        counts = () if pixels is None else unspent(model).plan(pixels.sizes or ()).counts
        return put(batch, input_ids == image_token, pixels, owner, counts)

    return to_batch


def put(
    batch: Batch,
    marked: Bool[Tensor, "B L"],
    pixels: Pixels | None,
    owner: Int[Tensor, " I"],
    counts: Sequence[int],
) -> Batch:
    """The batch with images of so many tokens, of these rows, in the marked places, in order.

    Raises InputError for a row with more or fewer places than its images bring tokens, and for images of no row.
    """
    if len(owner) and int(owner.max()) >= len(marked):
        raise InputError(
            f"pixel_values show images of row {int(owner.max())} but input_ids have {len(marked)} rows; give both as "
            "the checkpoint's processor returns them"
        )
    brought = owner.new_zeros(len(marked)).index_add(0, owner, owner.new_tensor(counts))
    for row, (found, wanted) in enumerate(zip(marked.sum(1).tolist(), brought.tolist(), strict=True)):
        if found != wanted:
            raise InputError(
                f"row {row} has {found} image tokens in input_ids but its {int((owner == row).sum())} images bring "
                f"{wanted}; give both as the checkpoint's processor returns them"
            )
    if not counts:
        return batch
    slots = torch.where(marked, marked.flatten().cumsum(0).view_as(marked) - 1, -1)
    return replace(batch, image_slot=slots, visual=pixels, owner=owner)


def shown(values: Tensor, mask: Tensor | None) -> tuple[Pixels, Int[Tensor, " I"]]:
    """The images that rows padded with black ones show, each of its own size, and the row of each.

    Raises InputError for values of another shape than `[B N C H W]`, and for a mask that is no rectangle from an
    image's upper left corner.
    """
    if values.ndim != 5:
        raise InputError(
            f"pixel_values {list(values.shape)}; give [rows, images, channels, height, width] as the checkpoint's "
            "processor returns them"
        )
    there = (values != 0).flatten(2).any(-1)
    rows, places = there.nonzero(as_tuple=True)
    kept = Pixels.whole(values[rows, places])
    whole: Grid = (values.shape[-2], values.shape[-1])
    if mask is None:
        return replace(kept, sizes=(whole,) * len(rows)), rows
    seen = mask.bool()[rows, places]
    heights, widths = seen.any(2).sum(1), seen.any(1).sum(1)
    down, across = (torch.arange(side, device=seen.device) for side in whole)
    filled = (down < heights[:, None])[:, :, None] & (across < widths[:, None])[:, None]
    if not torch.equal(filled, seen):
        raise InputError("pixel_attention_mask shows no rectangle from the upper left corner; give the processor's own")
    return replace(kept, sizes=tuple(zip(heights.tolist(), widths.tolist(), strict=True))), rows
