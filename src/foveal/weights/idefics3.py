"""Idefics3 and SmolVLM checkpoints of Hugging Face: tiles, pixel shuffle, Llama (2408.12637, 2504.05299)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from jaxtyping import Int
from torch import Tensor

from foveal.core.types import Batch
from foveal.models.budget import unspent
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights.decoder import language_rules, language_settings, reference_config
from foveal.weights.huggingface import OfTiles, text_batch
from foveal.weights.idefics2 import native_tower, put, shown
from foveal.weights.names import Renaming
from foveal.weights.vision_towers import SIGLIP, vision_rules

KINDS = ("idefics3", "smolvlm")
WRAPPER = OfTiles


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of an Idefics3 or a SmolVLM."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the weight names of such a checkpoint and ours."""
    return Renaming(
        [
            ("connector.map.weight", "model.connector.modality_projection.proj.weight"),
            *vision_rules(SIGLIP, theirs_prefix="model.vision_model."),
            *language_rules(theirs_prefix="model.text_model."),
        ]
    )


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for such a config.json, with the reference's defaults.

    Raises InputError for a text model that is not supported.
    """
    reference = reference_config(config)
    return ModelConfig.parse(
        {
            "vision": {**native_tower(reference.vision_config.to_dict()), "filling": True},
            "connector": {"name": "pixel_shuffle", "factor": reference.scale_factor},
            "fusion": "prefix",
            "language": language_settings(reference.text_config.to_dict()),
            "head": {"name": "language_model", "tied": bool(reference.tie_word_embeddings)},
        }
    )


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that such a checkpoint's processor returns: each tile is an image."""
    image_token = reference_config(config).image_token_id

    def to_batch(
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        pixel_values: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
    ) -> Batch:
        batch = text_batch(input_ids, attention_mask, position_ids, labels)
        if pixel_values is None:
            return put(batch, input_ids == image_token, None, batch.owner, ())
        pixels, owner = shown(pixel_values, pixel_attention_mask)
        room = (pixel_values.shape[-2], pixel_values.shape[-1])
        counts = unspent(model).plan([room] * len(owner)).counts
        whole = all(size == room for size in pixels.sizes or ())
        pixels = replace(pixels, sizes=None) if whole else pixels
        return put(batch, input_ids == image_token, pixels, owner, counts)

    return to_batch
