"""LLaVA-NeXT and LLaVA-OneVision checkpoints of Hugging Face: LLaVA over tiles of an image (2310.03744, 2408.03326)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch, Cut, Pixels
from foveal.models.budget import unspent
from foveal.models.causal import Causal
from foveal.models.config import ModelConfig
from foveal.preprocess.tiling import Tiling
from foveal.weights import llava
from foveal.weights.decoder import reference_config
from foveal.weights.files import section
from foveal.weights.huggingface import text_batch
from foveal.weights.names import Renaming
from foveal.weights.rows import rows_of
from foveal.weights.vision_towers import vision_leading

KINDS = ("llava_next", "llava_onevision")

_NEWLINE = ("model.image_newline", "image_newline")


def matches(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a LLaVA-NeXT or LLaVA-OneVision model."""
    return config.get("model_type") in KINDS


def renaming(config: Mapping[str, Any]) -> Renaming:
    """Between such a checkpoint's weight names, of this or older versions of transformers, and ours."""
    leading = vision_leading(section(config, "vision_config"))
    return Renaming([("joined.newline", _NEWLINE), *llava.rules(config)], leading=leading)


def model_config(config: Mapping[str, Any]) -> ModelConfig:
    """The rooms' components for such a config.json, with the reference's defaults.

    Raises InputError for images that are not cut by anyres_max_N.
    """
    reference = reference_config(config)
    one_vision = config["model_type"] == "llava_onevision"
    given = {**config, "vision_feature_layer": reference.vision_feature_layer}
    given |= {"vision_feature_select_strategy": reference.vision_feature_select_strategy}
    given |= {part: getattr(reference, part).to_dict() for part in ("vision_config", "text_config")}
    mosaic = {"order": "raster", "newline": True}
    if one_vision:
        mosaic |= {"most": _most(reference.vision_aspect_ratio), "film": 2}
    return replace(llava.model_config(given), mosaic=ModelConfig.parse({"mosaic": mosaic}).mosaic)


def _most(ratio: str) -> int:
    number = ratio.removeprefix("anyres_max_")
    if number == ratio or not number.isdecimal():
        raise InputError(f"vision_aspect_ratio {ratio!r} is not supported; supported: anyres_max_N, as anyres_max_9")
    return int(number)


def batcher(model: Causal, config: Mapping[str, Any]) -> Callable[..., Batch]:
    """What makes a batch of the arguments that such a checkpoint's processor returns."""
    reference = reference_config(config)
    pinpoints = tuple((int(height), int(width)) for height, width in reference.image_grid_pinpoints)
    tiling = Tiling(kind="anyres", tile=reference.vision_config.image_size, pinpoints=pinpoints)

    def to_batch(
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Int[Tensor, "I 2"] | None = None,
        position_ids: Int[Tensor, "B L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
    ) -> Batch:
        batch = text_batch(input_ids, attention_mask, position_ids, labels)
        marked = input_ids == reference.image_token_id
        return _put(batch, [("image", marked, _images(pixel_values, image_sizes, tiling))], model)

    def with_videos(
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"] | None = None,
        pixel_values: Tensor | None = None,
        image_sizes: Int[Tensor, "I 2"] | None = None,
        pixel_values_videos: Float[Tensor, "N T C H W"] | None = None,
        batch_num_images: Int[Tensor, " R"] | None = None,
        position_ids: Int[Tensor, "B L"] | None = None,
        labels: Int[Tensor, "B L"] | None = None,
    ) -> Batch:
        batch = text_batch(input_ids, attention_mask, position_ids, labels)
        marked, films = input_ids == reference.image_token_id, input_ids == reference.video_token_id
        shown = _images(pixel_values, image_sizes, tiling, batch_num_images)
        given = () if pixel_values_videos is None else pixel_values_videos
        videos = [(tiling.frames((one.shape[-2], one.shape[-1]), len(one)), one) for one in given]
        return _put(batch, [("image", marked, shown), ("video", films, videos)], model)

    return with_videos if config["model_type"] == "llava_onevision" else to_batch


def _images(
    values: Tensor | None, sizes: Int[Tensor, "I 2"] | None, tiling: Tiling, numbers: Int[Tensor, " R"] | None = None
) -> list[tuple[Cut, Tensor]]:
    """Each image's cut and tiles, out of `[I T C H W]` filled up with others, or of all tiles end to end.

    Images of a row with several of them (their `numbers`) are not cut.
    """
    if values is None:
        return []
    if sizes is None:
        raise InputError("pixel_values without image_sizes; give both as the checkpoint's processor returns them")
    wholes = [False] * len(sizes) if numbers is None else [n != 1 for n in numbers.tolist() for _ in range(n)]
    cuts = [
        Cut(tile=(tiling.tile, tiling.tile), size=(high, wide)) if whole else tiling((high, wide)).cut
        for (high, wide), whole in zip(sizes.tolist(), wholes, strict=True)
    ]
    wanted, each = sum(cut.tiles for cut in cuts), values.ndim == 5
    there = sum(min(cut.tiles, values.shape[1]) for cut in cuts[: len(values)]) if each else len(values)
    if there != wanted or (each and len(values) != len(cuts)):
        raise InputError(
            f"pixel_values {list(values.shape)} for image_sizes that make {wanted} tiles of {len(cuts)} images; give "
            "both as the checkpoint's processor returns them"
        )
    tiles = values.split([cut.tiles for cut in cuts]) if not each else values
    return [(cut, some[: cut.tiles]) for cut, some in zip(cuts, tiles, strict=True)]


def _put(
    batch: Batch,
    groups: Sequence[tuple[str, Bool[Tensor, "B L"], Sequence[tuple[Cut, Tensor]]]],
    model: Causal,
) -> Batch:
    """The batch with images, and videos after them, each kind in its own marked places in order.

    Takes the errors of `rows_of`.
    """
    every = [one for _, _, some in groups for one in some]
    layout = unspent(model).plan([cut for cut, _ in every]) if every else None
    counts, slots, owners, begin = () if layout is None else layout.counts, batch.image_slot, [], 0
    for what, marked, some in groups:
        mine, counts = counts[: len(some)], counts[len(some) :]
        owners.append(rows_of(marked, mine, what))
        slots = torch.where(marked, begin + marked.flatten().cumsum(0).view_as(marked) - 1, slots)
        begin += sum(mine)
    if not every:
        return batch
    visual = Pixels.cut(torch.cat([tiles for _, tiles in every]), tuple(cut for cut, _ in every))
    return replace(batch, image_slot=slots, visual=visual, owner=torch.cat(owners))
