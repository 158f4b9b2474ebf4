"""InstructBLIP checkpoints of Hugging Face: BLIP-2 whose queries hear the instruction too (2305.06500)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights import blip2
from foveal.weights.arguments import same
from foveal.weights.decoder import reference_config
from foveal.weights.files import read_checkpoint
from foveal.weights.huggingface import HuggingFaceCausal, load_causal
from foveal.weights.names import Renaming
from foveal.weights.qformer import Blip, check_queries, parts, word_rules, writing

KINDS = ("instructblip",)
WRAPPER = Blip


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of an InstructBLIP."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between an InstructBLIP checkpoint's weight names and ours."""
    norm = ("connector.stack.norm.*", "qformer.embeddings.layernorm.*")
    return writing(config, [norm, *word_rules("connector.words", "qformer.embeddings")])


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for an InstructBLIP config.json, with the reference's defaults."""
    return ModelConfig.parse(parts(reference_config(config), hears=True))


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
    """What makes a batch of the arguments that InstructBLIP's processor returns."""
    without = blip2.batcher(model, config)

    def to_batch(
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        pixel_values: Float[Tensor, "I C H W"] | None = None,
        qformer_input_ids: Int[Tensor, "N Q"] | None = None,
        qformer_attention_mask: Int[Tensor, "N Q"] | None = None,
        position_ids: Int[Tensor, "B L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
        interpolate_pos_encoding: bool = False,
    ) -> Batch:
        batch = without(input_ids, attention_mask, pixel_values, position_ids, labels, interpolate_pos_encoding)
        if pixel_values is None:
            return batch
        if qformer_input_ids is None:
            raise InputError(
                "images without an instruction for the queries; give qformer_input_ids as the processor returns them"
            )
        same("instructions in qformer_input_ids", len(qformer_input_ids), "images", len(pixel_values))
        if qformer_attention_mask is None:
            return replace(batch, question=qformer_input_ids)
        return replace(batch, question=torch.where(qformer_attention_mask.bool(), qformer_input_ids, -1))

    return to_batch
