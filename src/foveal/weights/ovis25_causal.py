"""Whole Ovis 2.5 checkpoints: SigLIP 2 at native resolution, a table of visual words, Qwen3 (2508.11737)."""

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
from foveal.weights import ovis25
from foveal.weights.decoder import language_rules, language_settings
from foveal.weights.files import read_json, section
from foveal.weights.huggingface import HuggingFaceCausal, load_causal, text_batch
from foveal.weights.names import Renaming
from foveal.weights.qwen_vl import cut, put

KINDS = ("ovis", "ovis2_5")  # of its repository, and of what is published
ATOM, MARKS = -300, (-301, -302, -303, -304)  # what stands in input_ids for a visual token, and around these
# Words of Qwen3 that nothing else uses: in texts of ours they stand for the marks of an image, and of a video.
_WORDS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|video_pad|>")


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of an Ovis 2.5."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the weight names of such a checkpoint and ours; the norm after the tower, which nobody reads, is left."""
    vit = config["vit_config"]
    shape, flat = ovis25.patch_shape(vit), ovis25.flat(vit)

    def bare(weight: Tensor) -> Tensor:
        return weight.flatten(1) if flat else weight.squeeze(2)

    return Renaming(
        [(None, "visual_tokenizer.vit.vision_model.post_layernorm.*"), *ovis25.RULES, *_language()],
        changed={ovis25.PATCHES: (lambda weight: weight.reshape(-1, *shape), bare)},
    )


def _language() -> list[Any]:
    return language_rules(theirs_prefix="llm.model.", head="llm.lm_head")


def model_config(config: Mapping[str, Any], *, marks: tuple[int, ...] = MARKS) -> ModelConfig:
    """The rooms' components for such a config.json, with words for the `marks` of its table.

    Raises InputError for a part that is missing or unsupported, and for sizes that differ.
    """
    text, vit = config.get("llm_config"), section(config, "vit_config")
    if not isinstance(text, Mapping):
        raise InputError("config.json names no llm_config; copy it again from the checkpoint's source")
    entries, width = int(config.get("visual_vocab_size", 65536)), config.get("hidden_size") or text["hidden_size"]
    if width != text["hidden_size"]:
        raise InputError(
            f"hidden_size is {width} but that of llm_config {text['hidden_size']}; the table's rows stand among words: "
            "give one to both"
        )
    return ModelConfig.parse(
        {
            "vision": {"name": "qwen_vit", **ovis25.tower_settings(vit)},
            "connector": {
                "name": "visual_embedding_table",
                "entries": entries - len(MARKS),
                "indicators": len(MARKS),
                "factor": ovis25.stride(vit),
            },
            "fusion": {"name": "prefix", "marks": marks},
            "language": language_settings(text),
            "head": {"name": "language_model", "tied": bool(text.get("tie_word_embeddings", False))},
        }
    )


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
    return load_causal(
        Path(directory),
        model_config(config, marks=_marks(Path(directory) / "tokenizer.json")),
        to_batch=batcher,
        renaming=renaming(config),
        config=config,
        dtype=dtype,
        device=device,
    )


def _marks(tokenizer: Path) -> tuple[int, ...]:
    """The ids of the words that stand for marks; those of the reference where the tokenizer lacks one."""
    told = read_json(tokenizer).get("added_tokens", ()) if tokenizer.is_file() else ()
    known = {one["content"]: int(one["id"]) for one in told}
    return tuple(known[word] for word in _WORDS) if known.keys() >= set(_WORDS) else MARKS


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that the reference takes, in which negative ids stand for sight."""
    merge = ovis25.stride(config["vit_config"])

    def to_batch(
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        pixel_values: Float[Tensor, "P F"] | None = None,
        grid_thws: Int[Tensor, "I 3"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
    ) -> Batch:
        batch = text_batch(input_ids.clamp(min=0), attention_mask, None, labels)
        patches = cut("image", pixel_values, grid_thws, named=("pixel_values", "grid_thws"))
        made, _ = put(batch, [("image", input_ids == ATOM, patches)], model, merge=merge)
        slots = made.image_slot
        if patches is not None:
            for number, mark in enumerate(MARKS):
                slots = torch.where(input_ids == mark, -2 - number, slots)
        return replace(made, image_slot=slots)

    return to_batch
