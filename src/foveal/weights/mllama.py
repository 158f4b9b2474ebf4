"""Llama 3.2 Vision checkpoints of Hugging Face (Mllama; 2407.21783): tiles, and cross-attention among the layers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch, Pixels
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights.decoder import language_rules, language_settings, reference_config
from foveal.weights.huggingface import text_batch
from foveal.weights.names import Renaming, Rule, prefixed

KINDS = ("mllama",)

_READ_ONLY = 8  # words after the vocabulary that are read and never written: the image's is one
_TEXT = ("model.language_model.", "language_model.model.")
_TOWER = ("model.vision_model.", "vision_model.")
_PROJECTOR = ("model.multi_modal_projector.", "multi_modal_projector.")
_MAPS = (("query", "q"), ("key", "k"), ("value", "v"), ("out", "o"))

_CROSS: list[Rule] = [
    ("attention_norm.weight", "input_layernorm.weight"),
    *((f"attention.{ours}.weight", f"cross_attn.{theirs}_proj.weight") for ours, theirs in _MAPS),
    ("attention.query_norm.weight", "cross_attn.q_norm.weight"),
    ("attention.key_norm.weight", "cross_attn.k_norm.weight"),
    ("feed_norm.weight", "post_attention_layernorm.weight"),
    *((f"feed.{name}.weight", f"mlp.{name}_proj.weight") for name in ("gate", "up", "down")),
    ("attention_gate.weight", "cross_attn_attn_gate"),
    ("feed_gate.weight", "cross_attn_mlp_gate"),
]
_BLOCK: list[Rule] = [
    ("attention_norm.*", "input_layernorm.*"),
    *((f"attention.{ours}.weight", f"self_attn.{theirs}_proj.weight") for ours, theirs in _MAPS),
    ("feed_norm.*", "post_attention_layernorm.*"),
    ("feed.up.*", "mlp.fc1.*"),
    ("feed.down.*", "mlp.fc2.*"),
    ("attention_gate.weight", "gate_attn"),
    ("feed_gate.weight", "gate_ffn"),
]
_VISION: list[Rule] = [
    ("patches.weight", "patch_embedding.weight"),
    ("class_token", "class_embedding"),
    ("positions", "gated_positional_embedding.embedding"),
    ("tile_positions.table.weight", "gated_positional_embedding.tile_embedding.weight"),
    ("tile_positions.gate.weight", "gated_positional_embedding.gate"),
    ("before.table.weight", "pre_tile_positional_embedding.embedding.weight"),
    ("before.gate.weight", "pre_tile_positional_embedding.gate"),
    ("after.table.weight", "post_tile_positional_embedding.embedding.weight"),
    ("after.gate.weight", "post_tile_positional_embedding.gate"),
    ("pre_norm.*", "layernorm_pre.*"),
    ("post_norm.*", "layernorm_post.*"),
    *prefixed(_BLOCK, ours="blocks.*.", theirs="transformer.layers.*."),
    *prefixed(_BLOCK, ours="global_blocks.*.", theirs="global_transformer.layers.*."),
]


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a Llama 3.2 Vision."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the weight names of such a checkpoint, of this or older versions of transformers, and ours."""
    head = ("lm_head", "language_model.lm_head")
    rules = [*_layers(config), *language_rules(theirs_prefix=_TEXT, head=head)]
    rules += prefixed(_VISION, ours="vision.", theirs=_TOWER)
    return Renaming([*rules, *prefixed([("map.*", "*")], ours="connector.", theirs=_PROJECTOR)])


def _layers(config: Mapping[str, Any]) -> Iterator[Rule]:
    """Theirs are numbered together; ours are the language model's, and blocks before one of these."""
    text = reference_config(config).text_config
    own = [rule for rule in language_rules("", "", ()) if str(rule[0]).startswith("layers.*.")]
    crossing = 0
    for layer in range(text.num_hidden_layers):
        spot = layer - crossing
        if layer in text.cross_attention_layers:
            crossing += 1
            theirs = tuple(f"{prefix}layers.{layer}." for prefix in _TEXT)
            yield from prefixed(_CROSS, ours=f"fusion.blocks.{spot}.", theirs=theirs)
            continue
        for mine, yours in own:
            name = (yours if isinstance(yours, str) else yours[0]).replace("layers.*.", f"layers.{layer}.")
            spelled = tuple(prefix + name for prefix in _TEXT)
            yield "language." + str(mine).replace("layers.*.", f"layers.{spot}."), spelled


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for such a config.json, with the reference's defaults.

    Raises InputError for cross-attention layers that are not there or stand side by side.
    """
    reference = reference_config(config)
    text, vision = reference.text_config, reference.vision_config
    crossing = sorted(set(text.cross_attention_layers))
    spots = [layer - number for number, layer in enumerate(crossing)]
    if len(set(spots)) < len(spots) or not all(0 <= layer < text.num_hidden_layers for layer in crossing):
        raise InputError(
            f"cross_attention_layers {crossing} of {text.num_hidden_layers} layers; give numbers of layers, no two of "
            "them side by side"
        )
    language = language_settings({**text.to_dict(), "model_type": "llama"})
    return ModelConfig.parse(
        {
            "vision": _tower(vision),
            "connector": {"name": "linear"},
            "fusion": {
                "name": "gated_cross_attention",
                "layers": tuple(spots),
                "heads": text.num_attention_heads,
                "head_width": text.hidden_size // text.num_attention_heads,
                "kv_heads": text.num_key_value_heads,
                "inner": text.intermediate_size,
                "feed_gated": True,
                "activation": text.hidden_act,
                "norm": "rms",
                "qk_norm": True,
                "eps": text.rms_norm_eps,
                "looks": "group",
                "blind": "all",
                "feed_blind": False,
                "counted": True,
            },
            "language": {
                **language,
                "depth": text.num_hidden_layers - len(spots),
                "vocabulary": text.vocab_size + _READ_ONLY,
            },
            "head": {"name": "language_model", "words": text.vocab_size},
        }
    )


def _tower(vision: Any) -> dict[str, Any]:
    return {
        "name": "tiled_vit",
        "width": vision.hidden_size,
        "depth": vision.num_hidden_layers,
        "global_depth": vision.num_global_layers,
        "heads": vision.attention_heads,
        "inner": vision.intermediate_size,
        "patch": vision.patch_size,
        "image_size": vision.image_size,
        "channels": vision.num_channels,
        "tiles": vision.max_num_tiles,
        "ratios": tuple(tuple(ratio) for ratio in vision.supported_aspect_ratios),
        "taps": tuple(vision.intermediate_layers_indices),
        "activation": vision.hidden_act,
        "eps": vision.norm_eps,
    }


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that the processor of Llama 3.2 Vision returns."""
    ratios = reference_config(config).vision_config.supported_aspect_ratios

    def to_batch(
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        pixel_values: Float[Tensor, "B N T C H W"] | None = None,
        aspect_ratio_ids: Int[Tensor, "B N"] | None = None,
        aspect_ratio_mask: Tensor | None = None,
        cross_attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "B L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
    ) -> Batch:
        batch = text_batch(input_ids, attention_mask, position_ids, labels)
        if pixel_values is None:
            return batch
        looks = cross_attention_mask
        if aspect_ratio_ids is None or looks is None:
            left_out = "aspect_ratio_ids" if aspect_ratio_ids is None else "cross_attention_mask"
            raise InputError(f"pixel_values without {left_out}; give both as the checkpoint's processor does")
        images, tiles = pixel_values.shape[:2], pixel_values.shape[2]
        wanted = (*input_ids.shape, images[1], tiles)
        if images != aspect_ratio_ids.shape or tuple(looks.shape) != wanted or images[0] != len(input_ids):
            raise InputError(
                f"pixel_values {list(pixel_values.shape)}, aspect_ratio_ids {list(aspect_ratio_ids.shape)} and "
                f"cross_attention_mask {list(looks.shape)} for input_ids {list(input_ids.shape)}; give them for the "
                "same rows, images and tiles"
            )
        visual = _tiles(pixel_values.flatten(0, 2), aspect_ratio_ids.flatten(), ratios, tiles)
        _check(aspect_ratio_mask, visual, tiles)
        owner = torch.arange(images[0], device=input_ids.device).repeat_interleave(images[1])
        return replace(batch, visual=visual, owner=owner, looks=looks.bool())

    return to_batch


def _tiles(values: Float[Tensor, "T C H W"], ids: Int[Tensor, " I"], ratios: list[list[int]], tiles: int) -> Pixels:
    """All tiles, each at its spot in its image; those that a ratio does not fill, and of no image, are stand-ins."""
    spots = []
    for number in ids.tolist():
        if not 0 <= number <= len(ratios):
            raise InputError(
                f"aspect_ratio_ids has {number}; this model knows ratios 1 to {len(ratios)}, 0 is no image"
            )
        rows, columns = ratios[number - 1] if number else (0, 0)
        spots += [divmod(place, columns) if place < rows * columns else (-2, -2) for place in range(tiles)]
    return Pixels(
        values=values,
        image=torch.arange(len(ids), device=values.device).repeat_interleave(tiles),
        tile=torch.tensor(spots, dtype=torch.long, device=values.device),
    )


def _check(mask: Tensor | None, visual: Pixels, tiles: int) -> None:
    """Raise InputError where the mask shows other tiles than the ratios fill (of no image it shows the first)."""
    if mask is None:
        return
    real = (visual.tile[:, 0] >= 0).unflatten(0, (-1, tiles))
    real[:, 0] = True
    shown = mask.bool().flatten(0, 1)
    if shown.shape != real.shape or not torch.equal(shown, real):
        raise InputError(
            f"aspect_ratio_mask shows {shown.sum(1).tolist()} tiles an image but aspect_ratio_ids fill "
            f"{real.sum(1).tolist()}; give both as the checkpoint's processor does"
        )
