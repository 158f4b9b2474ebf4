"""Parts of an image as visual tokens: what lies under a box, pooled."""

from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Regions, VisualTokens


def pooled(visual: VisualTokens, regions: Regions) -> VisualTokens:
    """A token for each region: the mean of its image's tokens, each by the share of the region that it covers.

    Raises InputError where the regions are those of other images.
    """
    if len(regions.layout.counts) != len(visual.layout.counts):
        raise InputError(
            f"regions of {len(regions.layout.counts)} images for {len(visual.layout.counts)}; give each image its own"
        )
    spans = zip(pairwise(regions.layout.offsets), pairwise(visual.layout.offsets), strict=True)
    under = [overlaps(regions.boxes[a:b], visual.boxes[c:d]) for (a, b), (c, d) in spans]
    means = [area / area.sum(1, keepdim=True).clamp(min=1e-12) for area in under]

    def mix(seen: Tensor, weights: list[Tensor]) -> Tensor:
        parts = zip(weights, seen.split(visual.layout.counts), strict=True)
        return torch.cat([weight.to(part.dtype) @ part for weight, part in parts])

    sizes = (visual.boxes[:, 2:] - visual.boxes[:, :2]).prod(-1).clamp(min=1e-12)
    plain = VisualTokens.on_layout(mix(visual.features, means), regions.layout)
    return replace(
        plain,
        boxes=regions.boxes,
        mass=mix(visual.mass / sizes, under),
        levels=tuple(mix(level, means) for level in visual.levels),
        classes=None if visual.classes is None else mix(visual.classes, means),
    )


def overlaps(boxes: Float[Tensor, "R 4"], cells: Float[Tensor, "N 4"]) -> Float[Tensor, "R N"]:
    """The area that each box shares with each cell."""
    low = torch.maximum(boxes[:, None, :2], cells[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], cells[None, :, 2:])
    return (high - low).clamp(min=0).prod(-1)
