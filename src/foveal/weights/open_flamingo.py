"""OpenFlamingo checkpoints: a Perceiver Resampler and gated blocks in a frozen Llama (2308.01390)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, Pixels, VisualTokens
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights.huggingface import HuggingFaceCausal, load_causal, text_batch
from foveal.weights.names import Renaming, Rule, prefixed
from foveal.weights.open_flamingo_parts import (
    language_names,
    language_parts,
    layers_of,
    learned,
    tower_rules,
    tower_settings,
    with_frozen,
)
from foveal.weights.qformer import check_size

KINDS = ("open_flamingo",)

_ALIASES = {
    "lang_encoder.old_decoder_blocks.": "decoder_layer",
    "lang_encoder.gated_cross_attn_layers.": "gated_cross_attn_layer",
}
_ATTENTION: list[Rule] = [
    ("query.weight", "to_q.weight"),
    (("key.weight", "value.weight"), "to_kv.weight"),
    ("out.weight", "to_out.weight"),
]
_FEED: list[Rule] = [("feed_norm.*", "0.*"), ("feed.up.weight", "1.weight"), ("feed.down.weight", "3.weight")]


def perceiver_rules(ours: str, theirs: str) -> list[Rule]:
    """Renaming rules of the resampler under these prefixes."""
    mine, looks, feeds = f"{ours}layers.*.", f"{theirs}layers.*.0.", f"{theirs}layers.*.1."
    return [
        (f"{ours}latents", f"{theirs}latents"),
        (f"{mine}token_norm.*", f"{looks}norm_media.*"),
        (f"{mine}latent_norm.*", f"{looks}norm_latents.*"),
        *prefixed(_ATTENTION, ours=f"{mine}attention.", theirs=looks),
        *prefixed(_FEED, ours=mine, theirs=feeds),
        (f"{ours}norm.*", f"{theirs}norm.*"),
    ]


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of an OpenFlamingo model, by its model type or its fields."""
    return config.get("model_type") in KINDS or {"cross_attn_every_n_layers", "lm"} <= set(config)


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the reference's weight names and ours; a tower is part of the model where `vision` describes it."""
    mine, rules, changed = "fusion.blocks.*.", *language_names(config["lm"])
    block = f"{layers_of(config['lm'])}.*.gated_cross_attn_layer."
    return Renaming(
        [
            *perceiver_rules("connector.resampler.", "perceiver."),
            (f"{mine}attention_norm.*", f"{block}attn.norm.*"),
            *prefixed(_ATTENTION, ours=f"{mine}attention.", theirs=f"{block}attn."),
            *prefixed(_FEED, ours=mine, theirs=f"{block}ff."),
            (f"{mine}attention_gate.weight", f"{block}attn_gate"),
            (f"{mine}feed_gate.weight", f"{block}ff_gate"),
            *rules,
            *(tower_rules() if "vision" in config else [(None, "vision_encoder.**")]),
        ],
        changed=changed,
    )


def unaliased(state: Mapping[str, Tensor], layers: str) -> dict[str, Tensor]:
    """The state with each weight of the `layers` once: the reference holds them under up to three names.

    Raises InputError where two names of one weight differ.
    """
    kept: dict[str, Tensor] = {}
    for name, weight in sorted(state.items(), key=lambda item: item[0].startswith(tuple(_ALIASES))):
        true = name
        for alias, part in _ALIASES.items():
            if name.startswith(alias):
                layer, _, rest = name.removeprefix(alias).partition(".")
                true = f"{layers}.{layer}.{part}.{rest}"
        if true in kept and not torch.equal(kept[true], weight):
            raise InputError(f"{true} and {name} are two names of one weight but differ; save the model again")
        kept.setdefault(true, weight)
    return kept


def model_config(config: Mapping[str, Any], *, features: int) -> ModelConfig:
    """The rooms' components for the reference's settings, with its defaults, over visual tokens of width `features`."""
    seen = {"vision": tower_settings(config["vision"])} if "vision" in config else {"features": features}
    language, head = language_parts(config["lm"])
    resampler, blocks = {**config.get("perceiver", {})}, {**config.get("xattn", {})}
    immediate = config.get("only_attend_immediate_media", True)
    return ModelConfig.parse(
        {
            **seen,
            "connector": {
                "name": "perceiver",
                "latents": resampler.get("num_latents", 64),
                "depth": resampler.get("depth", 6),
                "heads": resampler.get("heads", 8),
                "head_width": resampler.get("dim_head", 64),
                "factor": resampler.get("ff_mult", 4),
            },
            "fusion": {
                "name": "gated_cross_attention",
                "every": config["cross_attn_every_n_layers"],
                "width_of_sight": features,
                "heads": blocks.get("heads", 8),
                "head_width": blocks.get("dim_head", 64),
                "inner": blocks.get("ff_mult", 4) * language["width"],
                "looks": "last" if immediate else "all",
                "blind": "nothing" if immediate else "mean",
            },
            "language": language,
            "head": head,
        }
    )


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> HuggingFaceCausal:
    """The model of a checkpoint directory, called as the reference is, with pictures as `vision_x`.

    Where no tower is there, `vision_x` is what it says. Raises InputError for an unsupported part, for one that is not
    there, and for a missing, unexpected or mis-shaped weight.
    """
    state, config = whole(Path(directory), config)
    return load_causal(
        Path(directory),
        model_config(config, features=state["perceiver.latents"].shape[-1]),
        to_batch=batcher,
        renaming=renaming(config),
        config=config,
        state=state,
        dtype=dtype,
        device=device,
    )


def whole(folder: Path, config: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All weights, the frozen ones out of directories of their own, and the config with those of their models."""
    state, config = learned(folder), dict(config)
    if "perceiver.latents" not in state:
        raise InputError(f"{folder} holds no perceiver.latents; give the state dict of an OpenFlamingo model")
    if "lm" in config:
        state = unaliased(state, layers_of(config["lm"]))
    if any(".decoder_layer." in name for name in state):
        return state, config
    state, config, own = with_frozen(folder, state, config)
    state = unaliased(state, layers_of(config["lm"]))
    return {**renaming(config).to_theirs(own), **state}, config


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments of the reference's forward."""
    side = getattr(model.vision, "image_size", 0)

    def to_batch(
        lang_x: Int[Tensor, "B L"],
        vision_x: Float[Tensor, "B N T C H W"] | Float[Tensor, "B N T v E"] | None = None,
        attention_mask: Int[Tensor, "B L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
    ) -> Batch:
        batch = text_batch(lang_x, attention_mask, labels=labels)
        time = (lang_x == config["media_token_id"]).cumsum(1)
        count = 0 if vision_x is None else vision_x.shape[1]
        _check(time[:, -1], count)
        if vision_x is None:
            return batch
        number = torch.arange(1, count + 1, device=lang_x.device)
        immediate = config.get("only_attend_immediate_media", True)
        looks = time[..., None] == number if immediate else time[..., None] >= number
        owner = torch.arange(len(lang_x), device=lang_x.device).repeat_interleave(count)
        visual = _tokens(vision_x) if vision_x.ndim == 5 else _pixels(vision_x, side)
        return replace(batch, visual=visual, looks=looks, owner=owner)

    return to_batch


def _tokens(given: Float[Tensor, "B N T v E"]) -> VisualTokens:
    rows, media, frames, cells, _ = given.shape
    many = rows * media
    pictures = Layout(counts=(cells,) * (many * frames), grids=(None,) * (many * frames))
    return VisualTokens.on_layout(given.flatten(0, 3), pictures.filmed((frames,) * many))


def _pixels(given: Float[Tensor, "B N T C H W"], side: int) -> Pixels:
    check_size(given.flatten(0, 2), side=side, way="resize it")
    return Pixels.whole(given.flatten(0, 2), (given.shape[2],) * (given.shape[0] * given.shape[1]))


def _check(markers: Int[Tensor, " B"], images: int) -> None:
    most, row = (int(found) for found in markers.max(0))
    if most > images:
        raise InputError(f"row {row} has {most} image tokens for {images} images; give an image for each token")
    if most < images:
        raise InputError(f"{images} images for each row, but no row has more than {most} image tokens; give fewer")
