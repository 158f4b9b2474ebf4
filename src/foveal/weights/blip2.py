"""BLIP-2 checkpoints of Hugging Face: a vision tower, a Q-Former and a language model (2301.12597)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights import blip2_pairs
from foveal.weights.decoder import reference_config
from foveal.weights.files import check_class, read_checkpoint
from foveal.weights.huggingface import HuggingFaceCausal, load_causal, text_batch, with_images
from foveal.weights.names import Renaming
from foveal.weights.qformer import Blip, check_queries, check_size, parts, writing

KINDS = ("blip-2",)
WRAPPER = Blip


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a BLIP-2 that writes."""
    return config.get("model_type") in KINDS and not blip2_pairs.matches(config)


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between a BLIP-2 checkpoint's weight names and ours."""
    return writing(config, [("connector.stack.norm.*", "qformer.layernorm.*")])


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for a BLIP-2 config.json, with the reference's defaults."""
    return ModelConfig.parse(parts(reference_config(config), hears=False))


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> HuggingFaceCausal:
    """The model of a checkpoint directory, called as the reference is; `config` is its config.json.

    Raises InputError for an unsupported part and for a missing, unexpected or mis-shaped weight.
    """
    check_class(config, ("Blip2ForConditionalGeneration", "Blip2Model", blip2_pairs.CLASS))
    state = read_checkpoint(directory)
    check_queries(state, config, str(directory))
    return load_causal(
        Path(directory),
        model_config(config),
        to_batch=batcher,
        renaming=renaming(config),
        config=config,
        state=state,
        dtype=dtype,
        device=device,
        wrapper=Blip,
    )


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that BLIP-2's processor returns."""
    marker, side = image_token(config), reference_config(config).vision_config.image_size

    def to_batch(
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        pixel_values: Float[Tensor, "I C H W"] | None = None,
        position_ids: Int[Tensor, "B L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Batch:
        check_size(pixel_values, interpolate=interpolate_pos_encoding, side=side)
        batch = text_batch(input_ids, attention_mask, position_ids, labels)
        return with_images(batch, input_ids == marker, pixel_values, model=model)

    return to_batch


def image_token(config: Mapping[str, Any]) -> int:
    """The token that stands for an image's queries; raises InputError where the config names none."""
    if (token := config.get("image_token_index", config.get("image_token_id"))) is None:
        raise InputError(
            "config.json names no image_token_index, as those written before transformers 4.46 do not; "
            "add the id of the token that stands for an image (50265 with OPT)"
        )
    return token
