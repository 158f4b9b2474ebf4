"""BLIP-2's first stage as LAVIS keeps it: queries that compare, match and write, over an EVA tower (2301.12597)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveal.core.errors import InputError
from foveal.models.config import ModelConfig
from foveal.weights import lavis
from foveal.weights.blip2_pairs import TURNED, ImageTextRetrieval, filled
from foveal.weights.names import Renaming
from foveal.weights.qformer import layer_rules, word_rules

KINDS = ("blip2", "blip2_feature_extractor", "blip2_image_text_matching")

_WORDS = "Qformer.bert.embeddings.word_embeddings.weight"
_WRITER = "Qformer.cls.predictions."


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json names one of LAVIS's models of the first stage."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between LAVIS's weight names and ours; its temperature is a logit scale here, and its classes are turned."""
    return Renaming(
        [
            *lavis.tower_rules(),
            ("language.queries", "query_tokens"),
            ("language.stack.norm.*", "Qformer.bert.embeddings.LayerNorm.*"),
            *word_rules("language.words", "Qformer.bert.embeddings"),
            *layer_rules("language.stack.layers.*", "Qformer.bert.encoder.layer.*", inside="self"),
            ("heads.pair.sight.*", "vision_proj.*"),
            ("heads.pair.words.*", "text_proj.*"),
            ("heads.pair.scale", "temp"),
            ("heads.matching.classes.*", "itm_head.*"),
            ("heads.write.transform.*", f"{_WRITER}transform.dense.*"),
            ("heads.write.norm.*", f"{_WRITER}transform.LayerNorm.*"),
            ("heads.write.table", f"{_WRITER}decoder.weight"),
            ("heads.write.bias", (f"{_WRITER}decoder.bias", f"{_WRITER}bias")),
        ],
        leading=lavis.LEADING,
        lacking=lavis.LACKING,
        changed={"itm_head.*": TURNED, "temp": (_to_scale, _to_temperature)},
    )


def _to_scale(temperature: Tensor) -> Tensor:
    return -temperature.double().log().to(temperature.dtype)


def _to_temperature(scale: Tensor) -> Tensor:
    return (-scale.double()).exp().to(scale.dtype)


def model_config(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> ModelConfig:
    """The rooms' components, whose sizes the weights tell; heads have LAVIS's widths unless config.json counts them."""
    words, positions = (state[f"Qformer.bert.embeddings.{name}_embeddings.weight"] for name in ("word", "position"))
    written = state.get(f"{_WRITER}decoder.weight", words)
    return ModelConfig.parse(
        {
            "assembly": "two_tower",
            "vision": lavis.tower_settings(config, state),
            "connector": None,
            "language": {
                "name": "qformer",
                "vocabulary": len(words),
                "context": len(positions),
                **lavis.stack_settings(config, state),
            },
            "heads": {
                "pair": {"name": "contrastive", "size": len(state["vision_proj.weight"]), "bias": True},
                "write": {"name": "masked_language", "tied": torch.equal(words, written)},
                "matching": "averaged",
            },
        }
    )


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> ImageTextRetrieval:
    """The model of a directory with a checkpoint of LAVIS, called as that of Hugging Face is.

    Raises InputError for a missing, unexpected or mis-shaped weight, for a part that is not there, and for another
    number of queries than config.json says.
    """
    state = learned(Path(directory), config)
    return filled(
        model_config(config, state), state, config, renaming(config), str(directory), dtype=dtype, device=device
    )


def learned(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """What LAVIS has saved of a first stage; raises InputError for a part that is not there."""
    state = lavis.learned(folder, config)
    for name in ("vision_proj.weight", _WORDS):
        if name not in state:
            raise InputError(f"{folder} holds no {name}, which the first stage has; name its model in config.json")
    if f"{_WRITER}decoder.bias" in state:  # the other is what it was before the table grew by a word, and is not read
        state.pop(f"{_WRITER}bias", None)
    return state
