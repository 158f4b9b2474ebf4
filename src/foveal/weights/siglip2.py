"""The vision tower of SigLIP 2 at native aspect ratio (NaFlex), alone, called as its reference is (2502.14786)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Layout, Patches
from foveal.layers.images import by_image
from foveal.vision.qwen_vit import QwenVit
from foveal.vision.vit import AttentionPool
from foveal.weights.files import LARGEST_SHARD, read_checkpoint, write_checkpoint, write_json
from foveal.weights.names import Renaming, load_strict, prefixed
from foveal.weights.vision_towers import BESIDE, POOL_RULES, RULES, TowerOutput, tower_config

KINDS = ("siglip2_vision_model", "siglip2")

_DEFAULTS: dict[str, Any] = {  # config files leave out what equals their format's default
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_patches": 256,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "vision_use_head": True,
}
_PREFIXES = ("", "vision_model.")  # transformers wrote the longer one until 5.0
_PATCHES = "embeddings.patch_embedding.weight"


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of such a tower, alone or in the model that it was taught in."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the weight names of a tower's own checkpoint and ours."""
    patch, channels = (int({**_DEFAULTS, **tower_config(config)}[name]) for name in ("patch_size", "num_channels"))

    def convolution(weight: Tensor) -> Tensor:
        if weight.ndim != 2 or weight.shape[1] != patch**2 * channels:
            return weight
        return weight.unflatten(1, (patch, patch, channels)).permute(0, 3, 1, 2).unsqueeze(2)

    def flat(weight: Tensor) -> Tensor:
        return weight.squeeze(2).permute(0, 2, 3, 1).flatten(1).contiguous()

    rules = [*prefixed(RULES, ours="vision.", theirs=_PREFIXES), *prefixed(POOL_RULES, theirs=_PREFIXES), *BESIDE]
    return Renaming(rules, changed={prefix + _PATCHES: (convolution, flat) for prefix in _PREFIXES})


def tower_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the component `qwen_vit` (without its name) for such a config.json, with the reference's defaults.

    Raises InputError for learned positions that fill no square.
    """
    given = {**_DEFAULTS, **config}
    side = int(given["num_patches"] ** 0.5)
    if side < 1 or side**2 != given["num_patches"]:
        raise InputError(f"num_patches is {given['num_patches']}; learned positions fill a square: give 1, 4, 9 ...")
    return {
        "width": given["hidden_size"],
        "depth": given["num_hidden_layers"],
        "heads": given["num_attention_heads"],
        "inner": given["intermediate_size"],
        "patch": given["patch_size"],
        "frames": 1,
        "channels": given["num_channels"],
        "patch_bias": True,
        "activation": given["hidden_act"],
        "eps": given["layer_norm_eps"],
        "base": None,
        "positions": side,
        "stretch": "antialiased",
        "last_norm": True,
    }


def encoder_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the component `qwen_vit` (with its name) for a tower, alone or in the model it was taught in."""
    return {"name": "qwen_vit", **tower_settings(tower_config(config))}


class FlexibleTower(nn.Module):
    """The tower, called with the argument names of its Hugging Face reference.

    Patches of images stand in rows that are filled up to one length; nothing is computed of the filling, and what is
    said of it is 0.
    """

    def __init__(self, *, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.config = tower_config(config)
        settings = tower_settings(self.config)
        self.vision = QwenVit(**settings)
        shared = {name: settings[name] for name in ("width", "heads", "inner", "activation", "eps")}
        self.pool = AttentionPool(**shared) if {**_DEFAULTS, **self.config}["vision_use_head"] else None

    def forward(
        self,
        pixel_values: Float[Tensor, "I N F"],
        pixel_attention_mask: Int[Tensor, "I M"] | Bool[Tensor, "I M"] | None = None,
        spatial_shapes: Int[Tensor, "J 2"] | Sequence[tuple[int, int]] = (),
        output_hidden_states: bool | None = None,
    ) -> TowerOutput:
        """The last state, normed, the pooled one, and on demand all states from the embeddings on.

        Raises InputError where shapes, mask and patches speak of other numbers.
        """
        there, patches = self._read(pixel_values, pixel_attention_mask, spatial_shapes)
        wanted = (
            self.config.get("output_hidden_states", False) if output_hidden_states is None else output_hidden_states
        )
        depth = len(self.vision.blocks)
        states = self.vision.states(patches, range(depth + 1) if wanted else {depth})
        assert self.vision.post_norm is not None
        normed = self.vision.post_norm(states[depth])
        return TowerOutput(
            last_hidden_state=_filled(normed, there),
            pooler_output=self._pooled(normed, patches.layout),
            hidden_states=tuple(_filled(states[i], there) for i in sorted(states)) if wanted else None,
        )

    def _pooled(self, normed: Float[Tensor, "S E"], layout: Layout) -> Float[Tensor, "I E"] | None:
        if self.pool is None:
            return None
        rows, mask = by_image(normed, layout)
        return self.pool(rows, mask=mask)

    def _read(self, values: Tensor, mask: Tensor | None, shapes: Any) -> tuple[Bool[Tensor, "I N"], Patches]:
        """Which patches of the rows are there, and these end to end, channel by channel."""
        grids = [(int(rows), int(columns)) for rows, columns in shapes]
        if len(grids) != len(values):
            raise InputError(f"{len(grids)} spatial_shapes for {len(values)} images; give each image its own")
        for image, (rows, columns) in enumerate(grids):
            if min(rows, columns) < 1 or rows * columns > values.shape[1]:
                raise InputError(
                    f"image {image} is of {rows} x {columns} patches (rows x columns) by spatial_shapes, but its row "
                    f"holds 1 to {values.shape[1]}; give both as the checkpoint's processor returns them"
                )
        counts = torch.tensor([rows * columns for rows, columns in grids], device=values.device)
        there = torch.arange(values.shape[1], device=values.device) < counts[:, None]
        if mask is not None and not torch.equal(mask.bool(), there):
            raise InputError(
                f"pixel_attention_mask shows {mask.bool().sum(1).tolist()} patches and spatial_shapes "
                f"{counts.tolist()}, which come first in a row; give both as the checkpoint's processor returns them"
            )
        side, channels = self.vision.patch, self.vision.patches.in_channels
        if values.shape[2] != side**2 * channels:
            raise InputError(
                f"patches of {values.shape[2]} values for a tower that reads {side**2 * channels}, {side} x {side} "
                f"pixels of {channels} channels; cut images for this model"
            )
        own = values[there].unflatten(1, (side**2, channels)).mT.flatten(1)
        return there, Patches(values=own, grids=tuple((1, rows, columns) for rows, columns in grids))

    def save_pretrained(self, directory: str | Path, *, max_shard_bytes: int = LARGEST_SHARD) -> None:
        """Write config and weights as `transformers` reads them; raises InputError where the disk refuses."""
        state = renaming(self.config).to_theirs(self.state_dict())
        write_checkpoint(directory, state, max_shard_bytes=max_shard_bytes)
        dtype = str(self.vision.patches.weight.dtype).removeprefix("torch.")
        write_json(Path(directory) / "config.json", {**self.config, "dtype": dtype})


def _filled(features: Float[Tensor, "S E"], there: Bool[Tensor, "I N"]) -> Float[Tensor, "I N E"]:
    rows = features.new_zeros(*there.shape, features.shape[-1])
    return rows.masked_scatter(there[..., None], features)


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> FlexibleTower:
    """The tower of a checkpoint directory, ready to predict; raises InputError where weights and config differ."""
    with torch.device("meta"):
        model = FlexibleTower(config=config)
    state = read_checkpoint(directory)
    load_strict(model, state, str(directory), renaming=renaming(config), dtype=dtype, device=device)
    return model.eval()
