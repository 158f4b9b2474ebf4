"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL checkpoints of Hugging Face (2409.12191, 2502.13923, 2511.21631).

Native resolution, windows in Qwen2.5-VL, M-RoPE, DeepStack in Qwen3-VL.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, Patches
from foveal.layers.axes import axial_positions, moments
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.weights.decoder import language_rules, language_settings, reference_config
from foveal.weights.huggingface import text_batch
from foveal.weights.names import Renaming, Rule, prefixed
from foveal.weights.rows import rows_of
from foveal.weights.windows import window_side

_BLOCK: list[Rule] = [
    ("attention_norm.*", "norm1.*"),
    *(
        (tuple(f"attention.{part}.{kind}" for part in ("query", "key", "value")), f"attn.qkv.{kind}")
        for kind in ("weight", "bias")
    ),
    ("attention.out.*", "attn.proj.*"),
    ("feed_norm.*", "norm2.*"),
]
_MAPS_2: list[Rule] = [("up.*", "mlp.0.*"), ("down.*", "mlp.2.*")]
_MAPS_3: list[Rule] = [("up.*", "linear_fc1.*"), ("down.*", "linear_fc2.*")]
_VISUAL = ("model.visual.", "visual.")  # transformers wrote the second until 4.52
_LANGUAGE = ("model.language_model.", "model.")


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What one of them has of its own: the names of its weights, and its settings out of the config of its vision.

    `out` is the field with the width of what its merger says, `merger` are further settings of that. Frames are placed
    `apart`, each as an image, or by the seconds that its vision config gives `ticks` of time.
    """

    feed: list[Rule]
    norm: str
    maps: list[Rule]
    tower: Callable[[Any], dict[str, Any]]
    out: str = "out_hidden_size"
    merger: Mapping[str, Any] = field(default_factory=dict)
    apart: bool = False
    ticks: str | None = None


def _tower_2(vision: Any) -> dict[str, Any]:
    return {"width": vision.embed_dim, "inner": int(vision.embed_dim * vision.mlp_ratio)}


def _tower_25(vision: Any) -> dict[str, Any]:
    patch, merge = _side(vision, "patch_size"), _side(vision, "spatial_merge_size")
    return {
        "width": vision.hidden_size,
        "inner": vision.intermediate_size,
        "window": window_side(vision.window_size, merge=merge, patch=patch),
        "whole": tuple(index + 1 for index in vision.fullatt_block_indexes if 0 <= index < vision.depth),
        "norm": "rms",
        "gated": True,
    }


def _tower_3(vision: Any) -> dict[str, Any]:
    return {
        "width": vision.hidden_size,
        "inner": vision.intermediate_size,
        "patch_bias": True,
        "positions": int(vision.num_position_embeddings**0.5),
        "levels": _levels(vision),
    }


_KINDS = {
    "qwen2_vl": _Kind(
        feed=[("up.*", "fc1.*"), ("down.*", "fc2.*")], norm="ln_q", maps=_MAPS_2, tower=_tower_2, out="hidden_size"
    ),
    "qwen2_5_vl": _Kind(
        feed=[(f"{part}.*", f"{part}_proj.*") for part in ("gate", "up", "down")],
        norm="ln_q",
        maps=_MAPS_2,
        tower=_tower_25,
        merger={"kind": "rms"},
        ticks="tokens_per_second",
    ),
    "qwen3_vl": _Kind(feed=_MAPS_3, norm="norm", maps=_MAPS_3, tower=_tower_3, apart=True),
}
KINDS = tuple(_KINDS)


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a Qwen2-VL, a Qwen2.5-VL or a Qwen3-VL."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between the weight names of such a checkpoint, of this or older versions of transformers, and ours."""
    kind = _KINDS[config["model_type"]]
    tower: list[Rule] = [("vision.patches.*", "patch_embed.proj.*"), ("vision.positions", "pos_embed.weight")]
    tower += prefixed(_BLOCK, ours="vision.blocks.*.", theirs="blocks.*.")
    tower += prefixed(kind.feed, ours="vision.blocks.*.feed.", theirs="blocks.*.mlp.")
    tower += prefixed([("before.*", f"{kind.norm}.*"), *kind.maps], ours="connector.", theirs="merger.")
    tower += prefixed([("after.*", f"{kind.norm}.*"), *kind.maps], ours="deeper.*.", theirs="deepstack_merger_list.*.")
    return Renaming([*prefixed(tower, theirs=_VISUAL), *language_rules(theirs_prefix=_LANGUAGE)])


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for such a config.json, with the reference's defaults.

    Raises InputError for an unsupported part, and for sizes that differ.
    """
    reference, kind = reference_config(config), _KINDS[config["model_type"]]
    vision, text = reference.vision_config, reference.text_config
    if (out := getattr(vision, kind.out)) != text.hidden_size:
        raise InputError(
            f"vision_config.{kind.out} is {out} but text_config.hidden_size {text.hidden_size}; visual tokens stand "
            "among words: give one to both"
        )
    levels = _levels(vision)
    merger = {"name": "patch_merger", "factor": _side(vision, "spatial_merge_size"), **kind.merger}
    after = tuple(sorted(levels).index(level) for level in levels)  # the lowest level goes first, wherever it is named
    fusion = {"name": "deepstack", "after": after} if levels else "prefix"
    return ModelConfig.parse(
        {
            "vision": _tower(vision) | kind.tower(vision),
            "connector": merger,
            "levels": {**merger, "norm": "after"} if levels else None,
            "fusion": fusion,
            "language": language_settings(text.to_dict()),
            "head": {"name": "language_model", "tied": bool(reference.tie_word_embeddings)},
        }
    )


def _levels(vision: Any) -> tuple[int, ...]:
    return tuple(index + 1 for index in getattr(vision, "deepstack_visual_indexes", ()))


def _tower(vision: Any) -> dict[str, Any]:
    """What all of them have."""
    return {
        "name": "qwen_vit",
        "depth": vision.depth,
        "heads": vision.num_heads,
        "patch": _side(vision, "patch_size"),
        "frames": _side(vision, "temporal_patch_size"),
        "channels": vision.in_channels,
        "activation": vision.hidden_act,
        "base": vision.rope_parameters["rope_theta"],
    }


def _side(vision: Any, name: str) -> int:
    """A size, which may be written [s, s]; raises InputError for sides that differ and for one of nothing."""
    value = getattr(vision, name)
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise InputError(f"vision_config.{name} is {list(value)}; a qwen_vit needs both sides equal")
    if (side := sides.pop()) < 1:
        raise InputError(f"vision_config.{name} is {side}; give 1 or more")
    return side


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that such a checkpoint's processor returns.

    Which words stand for images and videos is told by their ids, so that `mm_token_type_ids` say nothing more.
    """
    reference, kind = reference_config(config), _KINDS[config["model_type"]]
    merge = reference.vision_config.spatial_merge_size
    ticks = None if kind.ticks is None else getattr(reference.vision_config, kind.ticks)

    def to_batch(
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        pixel_values: Float[Tensor, "N F"] | None = None,
        pixel_values_videos: Float[Tensor, "M G"] | None = None,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        second_per_grid_ts: Float[Tensor, " K"] | Sequence[float] | None = None,
        mm_token_type_ids: Int[Tensor, "B L"] | None = None,
        position_ids: Int[Tensor, "*axes B L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
    ) -> Batch:
        batch = text_batch(input_ids, attention_mask, _by_row(position_ids), labels)
        images = cut("image", pixel_values, image_grid_thw)
        videos = cut("video", pixel_values_videos, video_grid_thw)
        groups = [
            ("image", input_ids == reference.image_token_id, images),
            ("video", input_ids == reference.video_token_id, videos),
        ]
        lasting = [[times for times, _, _ in one.grids] if one else [] for one in (images, videos)]
        timed = _timed(lasting[1], second_per_grid_ts, ticks)
        made, layout = put(batch, groups, model, merge=merge)
        if layout is None or batch.positions is not None:
            return made
        if timed is not None:
            layout = replace(layout, moments=(*(moments(times, 1.0) for times in lasting[0]), *timed))
        layout = layout.by_frame() if kind.apart else layout  # the frames of a video are placed one after the other
        return replace(made, positions=axial_positions(made.image_slot, batch.valid, layout))

    return to_batch


def _timed(
    times: Sequence[int], seconds: Float[Tensor, " K"] | Sequence[float] | None, ticks: int | None
) -> tuple[tuple[int, ...], ...] | None:
    """Where the frames of each video stand in time, by the seconds of each; None for one after the other.

    Raises InputError for seconds where none are counted, and where there are not as many as videos.
    """
    if ticks is None:
        if seconds is not None:
            raise InputError("second_per_grid_ts, but this checkpoint counts the frames of videos; leave them out")
        return None
    told = [1.0] * len(times) if seconds is None else seconds
    each = list(told.flatten().cpu() if isinstance(told, Tensor) else told)
    if len(each) != len(times) or not all(0 <= float(second) < float("inf") for second in each):
        named = [round(float(second), 3) for second in each]
        raise InputError(
            f"second_per_grid_ts is {named} but video_grid_thw has {len(times)} videos; give both as the checkpoint's "
            "processor returns them, a number of seconds each"
        )
    return tuple(moments(number, ticks * second) for number, second in zip(times, each, strict=True))


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
