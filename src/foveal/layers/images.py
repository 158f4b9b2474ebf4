"""Visual tokens laid out image by image."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.core.types import Layout, VisualTokens


def by_image(
    features: Float[Tensor, "S E"], layout: Layout
) -> tuple[Float[Tensor, "I M E"], Bool[Tensor, "I 1 1 M"] | None]:
    """Each image's tokens in a row of its own, and where there are any (None: everywhere)."""
    counts = layout.counts
    if len(set(counts)) == 1:
        return features.unflatten(0, (len(counts), counts[0])), None
    most = max(counts, default=0)
    sizes, begins = torch.tensor([counts, layout.offsets[:-1]], dtype=torch.long, device=features.device)
    place = torch.arange(most, device=features.device)
    there = place < sizes[:, None]
    index = torch.where(there, begins[:, None] + place, 0)
    rows = features[index] if len(features) else features.new_zeros(*index.shape, features.shape[-1])
    return rows, there[:, None, None]


def lain(layout: Layout, count: int) -> Layout:
    """The layout of so many tokens for each image of another, on no grid."""
    images = len(layout.counts)
    return Layout(counts=(count,) * images, grids=(None,) * images)


def shares(visual: VisualTokens, count: int) -> Float[Tensor, " N"]:
    """How many patches each of `count` tokens an image stands for, where all stand for the whole of it."""
    images = len(visual.layout.counts)
    whole = visual.mass.new_zeros(images).index_add(0, visual.image, visual.mass)
    return (whole / count).repeat_interleave(count)
