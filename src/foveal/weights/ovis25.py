"""The visual tokenizer of Ovis 2.5 and its table, alone: SigLIP 2 at native resolution, in windows (2508.11737)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.connectors.visual_embedding_table import VisualEmbeddingTable, shares
from foveal.core.errors import InputError
from foveal.core.types import Patches
from foveal.vision.qwen_vit import QwenVit
from foveal.weights.files import LARGEST_SHARD, read_checkpoint, write_checkpoint, write_json
from foveal.weights.names import Renaming, Rule, load_strict, prefixed
from foveal.weights.windows import window_side

KINDS = ("siglip2_navit",)
INDICATORS = 4  # where an image begins and ends, and a video

_DEFAULTS: dict[str, Any] = {  # config files leave out what equals their format's default
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_patches": -1,
    "image_size": 512,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "hidden_stride": 2,
    "window_size": 112,
    "fullatt_block_indexes": None,
    "temporal_patch_size": 1,
    "preserve_original_pe": True,
    "use_rope": True,
}
PATCHES = "visual_tokenizer.vit.vision_model.embeddings.patch_embedding.weight"
_TABLE = "vte.weight"
_MAPS = (("query", "q"), ("key", "k"), ("value", "v"), ("out", "out"))
_TOWER: list[Rule] = [
    ("vision.patches.*", "embeddings.patch_embedding.*"),
    ("vision.positions", "embeddings.position_embedding.weight"),
    ("vision.blocks.*.attention_norm.*", "encoder.layers.*.layer_norm1.*"),
    *((f"vision.blocks.*.attention.{ours}.*", f"encoder.layers.*.self_attn.{theirs}_proj.*") for ours, theirs in _MAPS),
    ("vision.blocks.*.feed_norm.*", "encoder.layers.*.layer_norm2.*"),
    ("vision.blocks.*.feed.up.*", "encoder.layers.*.mlp.fc1.*"),
    ("vision.blocks.*.feed.down.*", "encoder.layers.*.mlp.fc2.*"),
    ("post_norm.*", "post_layernorm.*"),
]
RULES: list[Rule] = [
    *prefixed(_TOWER, theirs="visual_tokenizer.vit.vision_model."),
    ("connector.head.weight", "visual_tokenizer.head.0.weight"),
    ("connector.norm.*", "visual_tokenizer.head.1.*"),
    ("connector.table.weight", _TABLE),
]


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of such a tokenizer's tower."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the weight names of Ovis 2.5 and ours, for what is here of it."""
    return Renaming(RULES)


def stride(config: Mapping[str, Any]) -> int:
    """How many patches on a side make one token."""
    return int({**_DEFAULTS, **config}["hidden_stride"])


def flat(config: Mapping[str, Any]) -> bool:
    """Whether the reference keeps its map of patches as a linear one, not as a convolution."""
    return int({**_DEFAULTS, **config}["num_patches"]) > 0


def patch_shape(config: Mapping[str, Any]) -> tuple[int, int, int, int]:
    """Channels, frames, rows and columns that one weight of our map of patches has."""
    given = {**_DEFAULTS, **config}
    return given["num_channels"], 1, given["patch_size"], given["patch_size"]


def tower_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the component `qwen_vit` (without its name) for such a config.json, with the reference's defaults.

    Raises InputError for patches of several frames, which the reference cannot read either, and for windows that do
    not hold a whole block of patches.
    """
    given = {**_DEFAULTS, **config}
    patch, stride, whole = given["patch_size"], given["hidden_stride"], given["fullatt_block_indexes"]
    if given["temporal_patch_size"] != 1:
        raise InputError(f"temporal_patch_size is {given['temporal_patch_size']}; patches of one frame are supported")
    side = int(given["num_patches"] ** 0.5) if given["num_patches"] > 0 else given["image_size"] // patch
    return {
        "width": given["hidden_size"],
        "depth": given["num_hidden_layers"],
        "heads": given["num_attention_heads"],
        "inner": given["intermediate_size"],
        "patch": patch,
        "frames": 1,
        "channels": given["num_channels"],
        "patch_bias": True,
        "activation": given["hidden_act"],
        "eps": given["layer_norm_eps"],
        "base": 10000.0 if given["use_rope"] else None,
        "positions": side if given["preserve_original_pe"] else 0,
        "stretch": "bicubic",
        "window": 0 if whole is None else window_side(given["window_size"], merge=stride, patch=patch),
        "whole": () if whole is None else tuple(int(index) + 1 for index in str(whole).split("|")),
    }


@dataclass(frozen=True, kw_only=True)
class Tokenized:
    """What is seen, from the tower to the table: S blocks of patches, of N entries, with K indicators V.

    `vit_features` are the tower's, a block's side by side, `head_logits` the entries' scores, `visual_tokens` their
    distributions with zeros for the indicators, `visual_embeds` the rows that these give, `indicator_embeds` the rows
    of the indicators, and `last_hidden_state` the normed features that Ovis itself does not read.
    """

    vit_features: Float[Tensor, "S F"]
    head_logits: Float[Tensor, "S N"]
    visual_tokens: Float[Tensor, "S V"]
    visual_embeds: Float[Tensor, "S D"]
    indicator_embeds: Float[Tensor, "K D"]
    last_hidden_state: Float[Tensor, "S F"]


class VisualTokenizer(nn.Module):
    """The tokenizer, called with the argument names of its reference; an image is its patches block by block.

    `entries` are the table's rows without the indicators, `width_out` is that of the language model.
    """

    def __init__(self, *, config: Mapping[str, Any], entries: int, width_out: int) -> None:
        super().__init__()
        self.config = dict(config)
        settings = tower_settings(config)
        self.stride = stride(config)
        self.vision = QwenVit(**settings)
        self.post_norm = nn.LayerNorm(settings["width"], eps=settings["eps"])
        self.connector = VisualEmbeddingTable(
            width_in=settings["width"],
            width_out=width_out,
            entries=entries,
            indicators=INDICATORS,
            factor=self.stride,
        )

    def forward(self, pixel_values: Float[Tensor, "P F"], grid_thws: Int[Tensor, "I 3"]) -> Tokenized:
        """Patches of images of any shape to rows of the table; takes the errors of `Patches` and the tower."""
        grids = tuple((times, rows, columns) for times, rows, columns in grid_thws.tolist())
        seen = self.vision(Patches(values=pixel_values, grids=grids, block=self.stride))
        blocks = self.connector.folded(seen).features
        logits = self.connector.score(blocks)
        tokens, table = shares(logits).to(logits.dtype), self.connector.table.weight
        normed = self.post_norm(blocks.unflatten(1, (self.stride**2, -1)))
        return Tokenized(
            vit_features=blocks,
            head_logits=logits,
            visual_tokens=F.pad(tokens, (0, INDICATORS)),
            visual_embeds=tokens @ table[:-INDICATORS],
            indicator_embeds=table[-INDICATORS:],
            last_hidden_state=normed.flatten(1),
        )

    def save_pretrained(self, directory: str | Path, *, max_shard_bytes: int = LARGEST_SHARD) -> None:
        """Write config and weights under the reference's names; raises InputError where the disk refuses."""
        state = renaming(self.config).to_theirs(self.state_dict())
        state[PATCHES] = state[PATCHES].flatten(1) if flat(self.config) else state[PATCHES].squeeze(2)
        write_checkpoint(directory, state, max_shard_bytes=max_shard_bytes)
        write_json(Path(directory) / "config.json", self.config)


def load(
    directory: str | Path,
    config: Mapping[str, Any],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> VisualTokenizer:
    """The tokenizer of a directory that holds the tower's config.json and the weights of tower, head and table.

    How many entries there are and how wide the language model is, the table says. Raises InputError where weights and
    config differ.
    """
    state = read_checkpoint(directory)
    if _TABLE not in state or state[_TABLE].ndim != 2 or len(state[_TABLE]) <= INDICATORS:
        raise InputError(f"{directory} holds no table of visual words ({_TABLE}); copy it beside the tower's weights")
    rows, width_out = state[_TABLE].shape
    with torch.device("meta"):
        model = VisualTokenizer(config=config, entries=rows - INDICATORS, width_out=width_out)
    patches = model.vision.patches.weight.shape
    if PATCHES in state and state[PATCHES].numel() == patches.numel():
        state[PATCHES] = state[PATCHES].reshape(patches)
    load_strict(model, state, str(directory), renaming=renaming(config), dtype=dtype, device=device)
    return model.eval()
