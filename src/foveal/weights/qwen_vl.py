"""Qwen2-VL and Qwen3-VL checkpoints of Hugging Face: native resolution, M-RoPE, DeepStack (2409.12191, 2511.21631)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, Patches
from foveal.layers.axes import axial_positions
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights.decoder import language_rules, language_settings, reference_config
from foveal.weights.huggingface import HuggingFaceCausal, load_causal, text_batch
from foveal.weights.names import Renaming, Rule, prefixed
from foveal.weights.rows import rows_of

KINDS = ("qwen2_vl", "qwen3_vl")

_BLOCK: list[Rule] = [
    ("attention_norm.*", "norm1.*"),
    *(
        (tuple(f"attention.{part}.{kind}" for part in ("query", "key", "value")), f"attn.qkv.{kind}")
        for kind in ("weight", "bias")
    ),
    ("attention.out.*", "attn.proj.*"),
    ("feed_norm.*", "norm2.*"),
]
_FEED_2: list[Rule] = [("up.*", "fc1.*"), ("down.*", "fc2.*")]
_FEED_3: list[Rule] = [("up.*", "linear_fc1.*"), ("down.*", "linear_fc2.*")]
_MERGER_2: list[Rule] = [("up.*", "mlp.0.*"), ("down.*", "mlp.2.*")]
_VISUAL = ("model.visual.", "visual.")  # transformers wrote the second until 4.52
_LANGUAGE = ("model.language_model.", "model.")


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a Qwen2-VL or a Qwen3-VL."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the weight names of such a checkpoint, of this or older versions of transformers, and ours."""
    older = config["model_type"] == "qwen2_vl"
    feed, norm, maps = (_FEED_2, "ln_q", _MERGER_2) if older else (_FEED_3, "norm", _FEED_3)
    tower: list[Rule] = [("vision.patches.*", "patch_embed.proj.*"), ("vision.positions", "pos_embed.weight")]
    tower += prefixed(_BLOCK, ours="vision.blocks.*.", theirs="blocks.*.")
    tower += prefixed(feed, ours="vision.blocks.*.feed.", theirs="blocks.*.mlp.")
    tower += prefixed([("before.*", f"{norm}.*"), *maps], ours="connector.", theirs="merger.")
    tower += prefixed([("after.*", f"{norm}.*"), *maps], ours="deeper.*.", theirs="deepstack_merger_list.*.")
    return Renaming([*prefixed(tower, theirs=_VISUAL), *language_rules(theirs_prefix=_LANGUAGE)])


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for such a config.json, with the reference's defaults."""
    reference = reference_config(config)
    vision, text = reference.vision_config, reference.text_config
    levels = tuple(index + 1 for index in getattr(vision, "deepstack_visual_indexes", ()))
    merger = {"name": "patch_merger", "factor": vision.spatial_merge_size}
    after = tuple(sorted(levels).index(level) for level in levels)  # the lowest level goes first, wherever it is named
    fusion = {"name": "deepstack", "after": after} if levels else "prefix"
    return ModelConfig.parse(
        {
            "vision": _tower(vision, levels),
            "connector": merger,
            "levels": {**merger, "norm": "after"} if levels else None,
            "fusion": fusion,
            "language": language_settings(text.to_dict()),
            "head": {"name": "language_model", "tied": bool(reference.tie_word_embeddings)},
        }
    )


def _tower(vision: Any, levels: tuple[int, ...]) -> dict[str, Any]:
    older = vision.model_type == "qwen2_vl_vision"
    width = vision.embed_dim if older else vision.hidden_size
    return {
        "name": "qwen_vit",
        "width": width,
        "depth": vision.depth,
        "heads": vision.num_heads,
        "inner": int(width * vision.mlp_ratio) if older else vision.intermediate_size,
        "patch": _one(vision.patch_size, "patch_size"),
        "frames": _one(vision.temporal_patch_size, "temporal_patch_size"),
        "channels": vision.in_channels,
        "patch_bias": not older,
        "activation": vision.hidden_act,
        "base": vision.rope_parameters["rope_theta"],
        "positions": 0 if older else int(vision.num_position_embeddings**0.5),
        "levels": levels,
    }


def _one(value: Any, field: str) -> int:
    """A size written [s, s] is s."""
    if not isinstance(value, list | tuple):
        return value
    if len(set(value)) != 1:
        raise InputError(f"vision_config.{field} is {list(value)}; a qwen_vit needs both sides equal")
    return value[0]


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
        model_config(config),
        to_batch=batcher,
        renaming=renaming(config),
        config=config,
        dtype=dtype,
        device=device,
    )


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that such a checkpoint's processor returns.

    Which words stand for images and videos is told by their ids, so that `mm_token_type_ids` say nothing more.
    """
    reference = reference_config(config)
    merge, apart = reference.vision_config.spatial_merge_size, config["model_type"] == "qwen3_vl"

    def to_batch(
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        pixel_values: Float[Tensor, "N F"] | None = None,
        pixel_values_videos: Float[Tensor, "M G"] | None = None,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        mm_token_type_ids: Int[Tensor, "B L"] | None = None,
        position_ids: Int[Tensor, "*axes B L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
    ) -> Batch:
        batch = text_batch(input_ids, attention_mask, _by_row(position_ids), labels)
        groups = [
            ("image", input_ids == reference.image_token_id, cut("image", pixel_values, image_grid_thw)),
            ("video", input_ids == reference.video_token_id, cut("video", pixel_values_videos, video_grid_thw)),
        ]
        made, layout = put(batch, groups, model, merge=merge)
        if layout is None or batch.positions is not None:
            return made
        layout = layout.by_frame() if apart else layout  # the frames of a video are placed one after the other
        return replace(made, positions=axial_positions(made.image_slot, batch.valid, layout))

    return to_batch


def _by_row(position_ids: Int[Tensor, "*axes B L"] | None) -> Int[Tensor, "B L *three"] | None:
    """Positions with their axes last; a first of four axes is that of the words alone, which masks were made of."""
    if position_ids is None or position_ids.ndim == 2:
        return position_ids
    return position_ids[-3:].permute(1, 2, 0)


def cut(
    what: str,
    values: Float[Tensor, "N F"] | None,
    grids: Tensor | None,
    *,
    named: tuple[str, str] | None = None,
) -> Patches | None:
    """The patches of these images or videos; raises InputError where their grids, by the `named` arguments, have
    another number, and for grids that are no whole numbers `[I 3]`."""
    given, sizes = named or (f"pixel_values{'' if what == 'image' else '_videos'}", f"{what}_grid_thw")
    if values is None or grids is None:
        if (values is None) != (grids is None):
            there, lacks = (given, sizes) if grids is None else (sizes, given)
            raise InputError(f"{there} without {lacks}; give both as the checkpoint's processor returns them")
        return None
    if grids.ndim != 2 or grids.shape[1] != 3 or grids.dtype.is_floating_point:
        raise InputError(
            f"{sizes} is {str(grids.dtype).removeprefix('torch.')} {list(grids.shape)}; give whole numbers "
            f"[{what}s, 3]: times, rows and columns of patches, a row each"
        )
    wanted = int(grids.prod(1).sum())
    if wanted != len(values):
        raise InputError(
            f"{given} of {len(values)} patches but {sizes} of {wanted}; give both as the checkpoint's "
            "processor returns them"
        )
    return Patches(values=values, grids=tuple((t, h, w) for t, h, w in grids.tolist()))


def put(
    batch: Batch,
    groups: Sequence[tuple[str, Bool[Tensor, "B L"], Patches | None]],
    model: Causal,
    *,
    merge: int,
) -> tuple[Batch, Layout | None]:
    """The batch with images, and videos after them, each kind in its own marked places in order, and their layout
    (None: there are none). Takes the errors of `rows_of`.
    """
    slots, owners, counts, given = batch.image_slot, [], 0, [one for _, _, one in groups if one is not None]
    if len(widths := [one.values.shape[1] for one in given]) > 1 and widths[0] != widths[1]:
        raise InputError(
            f"patches of {widths[0]} values of images and {widths[1]} of videos; give both as the checkpoint's "
            "processor returns them"
        )
    every = Patches(
        values=torch.cat([one.values for one in given]) if given else batch.input_ids.new_zeros(0, 1).float(),
        grids=tuple(grid for one in given for grid in one.grids),
        block=merge,
    )
    assert model.connector is not None
    layout = model.connector.plan(every.layout) if given else Layout.of_grids([])
    of = list(layout.counts)
    for what, marked, patches in groups:
        mine, of = of[: len(patches.grids if patches else ())], of[len(patches.grids if patches else ()) :]
        owners.append(rows_of(marked, mine, what))
        slots = torch.where(marked, counts + marked.flatten().cumsum(0).view_as(marked) - 1, slots)
        counts += sum(mine)
    if not given:
        return batch, None
    return replace(batch, image_slot=slots, visual=every, owner=torch.cat(owners)), layout
