"""Visual tokens of some images out of those of many, and of many out of those of some."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from foveal.core.types import Layout, VisualTokens

_BY_TOKEN = ("boxes", "mass", "classes", "codes", "attention", "keys")


def taken(visual: VisualTokens, images: Sequence[int]) -> VisualTokens:
    """The tokens of these whole images in this order; one may come again."""
    layout, device = visual.layout, visual.features.device
    rows = [torch.arange(layout.offsets[image], layout.offsets[image + 1]) for image in images]
    index = torch.cat(rows).to(device)
    part = Layout(
        counts=tuple(layout.counts[image] for image in images), grids=tuple(layout.grids[image] for image in images)
    )
    made = VisualTokens.on_layout(visual.features[index], part, tuple(level[index] for level in visual.levels))
    return replace(made, **{name: own[index] for name in _BY_TOKEN if (own := getattr(visual, name)) is not None})


def together(parts: Sequence[VisualTokens]) -> VisualTokens:
    """The tokens of one after the other, which are of one make, and how their images are cut."""
    if len(parts) == 1:
        return parts[0]
    layout = Layout(
        counts=tuple(count for part in parts for count in part.layout.counts),
        grids=tuple(grid for part in parts for grid in part.layout.grids),
    )
    levels = tuple(torch.cat(pair) for pair in zip(*(part.levels for part in parts), strict=True))
    made = VisualTokens.on_layout(torch.cat([part.features for part in parts]), layout, levels)
    names = [name for name in _BY_TOKEN if getattr(parts[0], name) is not None]
    cuts = tuple(cut for part in parts for cut in part.cuts or ())
    return replace(
        made, **{name: torch.cat([getattr(part, name) for part in parts]) for name in names}, cuts=cuts or None
    )
