"""Selection as shares: the patches with the highest scores become tokens, and the others none."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import VisualTokens
from foveal.layers.precision import own_dtype
from foveal.relevance.spending import Shares, of_images


def chosen(scores: Float[Tensor, "I N"], budget: int) -> Shares:
    """The `budget` best patches of each image, in raster order; of equal ones the first."""
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :budget]
    kept = torch.zeros_like(scores, dtype=torch.bool).scatter(1, best, True)
    return torch.where(kept, kept.long().cumsum(1) - 1, -1), kept.to(scores.dtype)


def picked(places: Int[Tensor, "I B"], count: int) -> Shares:
    """These places of each image's `count` patches, in raster order."""
    scores = torch.zeros(len(places), count, device=places.device)
    return chosen(scores.scatter(1, places, 1.0), places.shape[1])


def likeness(one: Float[Tensor, "I N D"], other: Float[Tensor, "I M D"]) -> Float[Tensor, "I N M"]:
    """The cosine of each of `one` with each of the `other` unit vectors, in their own dtype."""
    with own_dtype(one):
        return one @ other.transpose(1, 2)


def attention_of(visual: VisualTokens, images: Sequence[int], *, name: str) -> Float[Tensor, "I N"]:
    """How much the encoder attends to each patch of some images; raises InputError where nobody brought it."""
    if visual.attention is None:
        raise InputError(
            f"strategy {name!r} needs the encoder's attention, and the visual tokens come without it, as from joined "
            "tiles; take an encoder that has it (vit) with a connector that keeps its tokens, or a strategy that needs "
            "none"
        )
    return of_images(visual.attention, visual.layout, images).float()


def keys_of(visual: VisualTokens, images: Sequence[int], *, name: str) -> Float[Tensor, "I N H d"]:
    """What the encoder attends to them by, each head's own; raises InputError where nobody brought it."""
    if visual.keys is None:
        raise InputError(
            f"strategy {name!r} compares the encoder's keys, and the visual tokens come without them, as from joined "
            "tiles; take an encoder that has attention (vit) with a connector that keeps its tokens, or a strategy "
            "that needs none"
        )
    return of_images(visual.keys, visual.layout, images).float()
