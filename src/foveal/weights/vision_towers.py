"""The vision towers of CLIP, SigLIP and DINOv2 checkpoints: settings, names, and a tower alone, called as its reference
is. A whole CLIP or SigLIP is read for its tower; its words stay behind.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.config import parse
from foveal.core.errors import InputError, unknown
from foveal.core.types import Grid
from foveal.vision.vit import Config, Select, Vit
from foveal.weights import dino
from foveal.weights.files import LARGEST_SHARD, read_checkpoint, write_checkpoint, write_json
from foveal.weights.names import Renaming, Rule, load_strict, prefixed

CLIP, SIGLIP = "clip_vision_model", "siglip_vision_model"
DINO = "dinov2", "dinov2_with_registers"
_WHOLE = {"clip": CLIP, "siglip": SIGLIP, "siglip2": "siglip2_vision_model"}
KINDS = (CLIP, SIGLIP, *DINO, "clip", "siglip")

# Config files leave out what equals their format's default.
_DEFAULTS: dict[str, dict[str, Any]] = {
    CLIP: {"patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    SIGLIP: {"patch_size": 16, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6, "vision_use_head": True},
    **{kind: {"patch_size": 14, "hidden_act": "gelu", "layer_norm_eps": 1e-6} for kind in DINO},
}
_SHARED: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
}
_FIELDS = {
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "inner": "intermediate_size",
    "patch": "patch_size",
    "image_size": "image_size",
    "channels": "num_channels",
    "activation": "hidden_act",
    "eps": "layer_norm_eps",
}

RULES: list[Rule] = [
    ("patches.*", "embeddings.patch_embedding.*"),
    ("class_token", "embeddings.class_embedding"),
    ("positions", "embeddings.position_embedding.weight"),
    (None, "embeddings.position_ids"),
    ("pre_norm.*", ("pre_layrnorm.*", "pre_layernorm.*")),
    ("post_norm.*", "post_layernorm.*"),
    ("blocks.*.attention_norm.*", "encoder.layers.*.layer_norm1.*"),
    ("blocks.*.attention.query.*", "encoder.layers.*.self_attn.q_proj.*"),
    ("blocks.*.attention.key.*", "encoder.layers.*.self_attn.k_proj.*"),
    ("blocks.*.attention.value.*", "encoder.layers.*.self_attn.v_proj.*"),
    ("blocks.*.attention.out.*", "encoder.layers.*.self_attn.out_proj.*"),
    ("blocks.*.feed_norm.*", "encoder.layers.*.layer_norm2.*"),
    ("blocks.*.feed.up.*", "encoder.layers.*.mlp.fc1.*"),
    ("blocks.*.feed.down.*", "encoder.layers.*.mlp.fc2.*"),
]
POOL_RULES: list[Rule] = [
    ("pool.probe", "head.probe"),
    (("pool.query.weight", "pool.key.weight", "pool.value.weight"), "head.attention.in_proj_weight"),
    (("pool.query.bias", "pool.key.bias", "pool.value.bias"), "head.attention.in_proj_bias"),
    ("pool.out.*", "head.attention.out_proj.*"),
    ("pool.norm.*", "head.layernorm.*"),
    ("pool.feed.up.*", "head.mlp.fc1.*"),
    ("pool.feed.down.*", "head.mlp.fc2.*"),
]
_PREFIXES = ("model.vision_tower.", "vision_tower.")

# What a whole model, or one with a head of classes, has beside its tower.
BESIDE: list[Rule] = [
    *((None, name) for name in ("text_model.**", "visual_projection.*", "text_projection.*", "classifier.*")),
    *((None, name) for name in ("logit_scale", "logit_bias")),
]


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's config.json is that of such a tower, alone or in the model that it was taught in."""
    return config.get("model_type") in KINDS


def tower_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a tower: its own, or the vision part of that of the whole model."""
    kind = _WHOLE.get(str(config.get("model_type")))
    return dict(config) if kind is None else {**(config.get("vision_config") or {}), "model_type": kind}


def vision_settings(
    vision_config: Mapping[str, Any], layers: Sequence[int] = (-2,), select: Select = "default"
) -> dict[str, Any]:
    """Settings of the component `vit` (with its name) for a Hugging Face vision config.

    Raises InputError for another kind of tower, and for a value that a vit cannot take.
    """
    kind = str(vision_config.get("model_type"))
    if kind not in _DEFAULTS:
        raise unknown("vision model_type", kind, _DEFAULTS)
    given = {**_SHARED, **_DEFAULTS[kind], **vision_config}
    if kind in DINO:
        given |= dino.fields(given, kind == DINO[1])
    settings = {ours: _number(given[theirs], theirs) for ours, theirs in _FIELDS.items()}
    settings |= {"class_token": kind != SIGLIP, "pre_norm": kind == CLIP, "patch_bias": kind != CLIP}
    settings |= dino.settings(given) if kind in DINO else {}
    settings |= {"pool": kind == SIGLIP and bool(given["vision_use_head"]), "layers": tuple(layers), "select": select}
    parse(Config, settings, where="vision_config")
    return {"name": "vit", **settings}


def encoder_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the component `vit` (with its name) that sees for a language model, as is usual for its kind.

    CLIP and SigLIP speak of their last layer but one (2310.03744), DINOv2 of its last, normed, patches alone.
    """
    own = tower_config(config)
    if own.get("model_type") in DINO:
        return vision_settings(own, (-1,), "patches") | {"last_norm": True}
    return vision_settings(own, (-2,), "default" if own.get("model_type") == CLIP else "full")


def _number(value: Any, field: str) -> Any:
    """A size written [s, s] is s."""
    if not isinstance(value, list | tuple):
        return value
    if len(set(value)) != 1:
        raise InputError(f"vision_config.{field} is {list(value)}; a vit needs both sides equal")
    return value[0]


def vision_rules(
    model_type: str,
    ours_prefix: str = "vision.",
    theirs_prefix: str | tuple[str, ...] = _PREFIXES,
    *,
    gated: bool = False,
) -> list[Rule]:
    """Rename rules of a tower inside a model; of several prefixes of theirs, the first is written. A DINOv2's
    feed-forwards may be `gated`.

    After each prefix, `vision_model.` is read too: transformers wrote it until 5.0.
    """
    if model_type not in _DEFAULTS:
        raise unknown("vision model_type", model_type, _DEFAULTS)
    prefixes = (theirs_prefix,) if isinstance(theirs_prefix, str) else theirs_prefix
    accepted = (*prefixes, *(f"{prefix}vision_model." for prefix in prefixes))
    rules = dino.rules(gated=gated) if model_type in DINO else RULES + (POOL_RULES if model_type == SIGLIP else [])
    return prefixed(rules, ours=ours_prefix, theirs=accepted)


def vision_leading(vision_config: Mapping[str, Any], theirs_prefix: tuple[str, ...] = _PREFIXES) -> dict[str, int]:
    """How many axes of length 1 stand before a weight's own, by its name in a model with such a tower."""
    return dino.leading(theirs_prefix) if vision_config.get("model_type") in DINO else {}


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the weight names of a tower's own checkpoint, or of the whole model's, and ours."""
    kind = str(tower_config(config).get("model_type"))
    if kind not in DINO:
        return Renaming([*vision_rules(kind, "vision.", ""), *BESIDE])
    prefixes = ("", *(f"{one}." for one in DINO))
    rules = vision_rules(kind, "vision.", prefixes, gated=bool(config.get("use_swiglu_ffn", False)))
    return Renaming([*rules, *BESIDE], leading=vision_leading(config, prefixes))


@dataclass(frozen=True, kw_only=True)
class TowerOutput:
    """What the reference tower returns, by its names; E is the tower's width, S counts the class token."""

    last_hidden_state: Float[Tensor, "T S E"]
    pooler_output: Float[Tensor, "T E"] | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class VisionTower(nn.Module):
    """A CLIP, SigLIP or DINOv2 tower, called with the argument names of its Hugging Face reference."""

    def __init__(self, *, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = tower_config(config)
        settings = vision_settings(self.config, layers=(-1,), select="full")
        self.vision = Vit(**{key: value for key, value in settings.items() if key != "name"}).requires_grad_(True)

    def forward(
        self,
        pixel_values: Float[Tensor, "T C H W"],
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | None = None,
    ) -> TowerOutput:
        """The last state (normed but for CLIP), the pooled one, and on demand all states from the embeddings on.

        Raises InputError for pixels of another size than the tower's unless positions are to be interpolated, as
        DINOv2's are always.
        """
        self._check((pixel_values.shape[-2], pixel_values.shape[-1]), interpolate_pos_encoding)
        wanted = (
            self.config.get("output_hidden_states", False) if output_hidden_states is None else output_hidden_states
        )
        states = self.vision.states(pixel_values, range(self.vision.depth + 1) if wanted else {self.vision.depth})
        last, pooled = self._heads(states[self.vision.depth])
        every = tuple(states[depth] for depth in sorted(states)) if wanted else None
        return TowerOutput(last_hidden_state=last, pooler_output=pooled, hidden_states=every)

    def _heads(self, last: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.config["model_type"] == CLIP:
            return last, self.vision.post_norm(last[:, 0])
        normed = self.vision.post_norm(last)
        if self.vision.class_token is not None:
            return normed, normed[:, 0]
        return normed, None if self.vision.pool is None else self.vision.pool(normed)

    def _check(self, size: Grid, interpolate: bool) -> None:
        side = self.vision.image_size
        if not interpolate and size != (side, side) and self.config["model_type"] not in DINO:
            raise InputError(
                f"an image of {size[0]} x {size[1]} pixels (height x width) for a tower of {side} x {side}; "
                "resize it, or pass interpolate_pos_encoding=True"
            )

    def save_pretrained(self, directory: str | Path, *, max_shard_bytes: int = LARGEST_SHARD) -> None:
        """Write config and weights as `transformers` reads them; raises InputError where the disk refuses."""
        state = renaming(self.config).to_theirs(self.state_dict())
        write_checkpoint(directory, state, max_shard_bytes=max_shard_bytes)
        dtype = str(self.vision.positions.dtype).removeprefix("torch.")
        write_json(Path(directory) / "config.json", {**self.config, "dtype": dtype})


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> VisionTower:
    """The tower of a checkpoint directory, ready to predict; raises InputError where weights and config differ."""
    with torch.device("meta"):
        model = VisionTower(config=config)
    state = read_checkpoint(directory)
    load_strict(model, state, str(directory), renaming=renaming(config), dtype=dtype, device=device)
    return model.eval()
