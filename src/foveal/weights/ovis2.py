"""Ovis 2 checkpoints of Hugging Face: AIMv2 tower, visual embedding table, Qwen2 decoder (2405.20797)."""

from collections.abc import Callable, Mapping
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights.decoder import language_rules, language_settings, reference_config
from foveal.weights.huggingface import OfTiles, text_batch, with_images
from foveal.weights.names import Renaming, Rule, prefixed

KINDS = ("ovis2",)
WRAPPER = OfTiles

_CHOICES = {"softmax": "softmax", "st_argmax": "argmax", "gumbel_argmax": "gumbel"}
_MAPS = (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out"))
_TOWER: list[Rule] = [
    ("patches.*", "embeddings.patch_embedding.*"),
    ("patch_norm.weight", "embeddings.rms_norm.weight"),
    ("positions", "embeddings.position_embedding.weight"),
    ("blocks.*.attention_norm.weight", "encoder.layers.*.rms_norm1.weight"),
    *((f"blocks.*.attention.{ours}.*", f"encoder.layers.*.attention.{theirs}_proj.*") for ours, theirs in _MAPS),
    ("blocks.*.feed_norm.weight", "encoder.layers.*.rms_norm2.weight"),
    *((f"blocks.*.feed.{part}.*", f"encoder.layers.*.ffn.{part}_proj.*") for part in ("gate", "up", "down")),
    ("last_norm.weight", "rms_norm.weight"),
]
_TABLE: list[Rule] = [
    ("connector.head.weight", "model.vision_tower.head_linear.weight"),
    ("connector.norm.*", "model.vision_tower.head_norm.*"),
    ("connector.table.weight", "model.visual_embeddings_table.weight"),
]


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of an Ovis 2."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the weight names of such a checkpoint and ours."""
    return Renaming(
        [
            *prefixed(_TOWER, ours="vision.", theirs="model.vision_tower.transformer."),
            *_TABLE,
            *language_rules(theirs_prefix="model.language_model."),
        ]
    )


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for such a config.json, with the reference's defaults.

    Raises InputError for an unsupported text model, another way to choose entries, and sizes that contradict.
    """
    reference = reference_config(config)
    text, vision = reference.text_config.to_dict(), reference.vision_config
    tied, marks = bool(reference.tie_word_embeddings), tuple(reference.visual_indicator_token_ids)
    if reference.hidden_size != text["hidden_size"]:
        raise InputError(
            f"hidden_size is {reference.hidden_size} but that of text_config {text['hidden_size']}; the table's rows "
            "stand among words: give one to both"
        )
    if not tied and reference.vocab_size != text["vocab_size"]:
        raise InputError(
            f"vocab_size is {reference.vocab_size} but that of text_config {text['vocab_size']}; give one to both"
        )
    if len(marks) != vision.num_visual_indicator_tokens:
        raise InputError(
            f"{len(marks)} visual_indicator_token_ids but num_visual_indicator_tokens is "
            f"{vision.num_visual_indicator_tokens}; give a word for each"
        )
    if vision.tokenize_function not in _CHOICES:
        raise InputError(
            f"tokenize_function {vision.tokenize_function!r} is not supported; supported: {', '.join(_CHOICES)}"
        )
    return ModelConfig.parse(
        {
            "vision": _tower(vision),
            "connector": {
                "name": "visual_embedding_table",
                "entries": vision.vocab_size - len(marks),
                "indicators": len(marks),
                "factor": vision.hidden_stride,
                "choice": _CHOICES[vision.tokenize_function],
                "drawn": "always",
            },
            "fusion": {"name": "prefix", "marks": marks},
            "language": language_settings(text),
            "head": {"name": "language_model", "tied": tied},
        }
    )


def _tower(vision: Any) -> dict[str, Any]:
    return {
        "name": "plain_vit",
        "width": vision.hidden_size,
        "depth": vision.num_hidden_layers,
        "heads": vision.num_attention_heads,
        "inner": vision.intermediate_size,
        "patch": _side(vision.patch_size, "patch_size")[0],
        "image_size": _side(vision.image_size, "image_size"),
        "channels": vision.num_channels,
        "positions": "learned",
        "activation": vision.hidden_act,
        "eps": vision.rms_norm_eps,
        "norm": "rms",
        "gated": True,
        "bias": vision.qkv_bias,
        "feed_bias": vision.mlp_bias,
    }


def _side(given: Any, field: str) -> tuple[int, int]:
    """A size written as one number or as two equal ones; the reference folds square grids alone."""
    sides = tuple(given) if isinstance(given, list | tuple) else (given, given)
    if len(set(sides)) != 1:
        raise InputError(f"vision_config.{field} is {list(sides)}; an Ovis 2 needs both sides equal")
    return sides[0], sides[0]


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that such a checkpoint's processor returns: each tile is an image."""
    image_token = reference_config(config).image_token_id

    def to_batch(
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        pixel_values: Float[Tensor, "T C H W"] | None = None,
        position_ids: Int[Tensor, "B L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
    ) -> Batch:
        batch = text_batch(input_ids, attention_mask, position_ids, labels)
        return with_images(batch, input_ids == image_token, pixel_values, model=model)

    return to_batch
