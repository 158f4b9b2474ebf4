"""Budgets for images that differ in grid: those that are alike go together, and each comes out as if alone."""

from collections.abc import Sequence
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from foveal.core.errors import InputError
from foveal.relevance.allocation import Allocation, allocate, floating


def allocate_each(
    features: Sequence[Tensor],
    *,
    grids: Sequence[Sequence[int]],
    budgets: SupportsIndex | Sequence[SupportsIndex] | Tensor,
    relevance: Sequence[Tensor] | None = None,
    floor: SupportsIndex | Sequence[int] | None = None,
) -> list[Allocation]:
    """`allocate` for each of several images `[N D]` on grids of their own: one budget for all, or one for each.

    Budgets may be an array. Raises InputError where there are not as many of each, and takes the errors of `allocate`,
    which name the image.
    """
    count = len(features)
    listed: Any = isinstance(budgets, Sequence) or getattr(budgets, "ndim", 0)
    own: list[Any] = list(budgets) if listed else [budgets] * count  # type: ignore[arg-type]
    maps = count if relevance is None else len(relevance)
    for name, many in (("grids", len(grids)), ("budgets", len(own)), ("maps of relevance", maps)):
        if many != count:
            raise InputError(f"{many} {name} for {count} images; give each image one")
    heard = None if relevance is None else [floating(each, "relevance") for each in relevance]
    seen, found = [floating(each, "features") for each in features], dict[object, list[int]]()
    for image, some in enumerate(seen):
        kinds = [(part.shape, part.dtype) for part in ([some] if heard is None else [some, heard[image]])]
        found.setdefault((*kinds, repr(grids[image]), repr(own[image])), []).append(image)
    for image, some in enumerate(seen):
        if some.ndim != 2:
            raise InputError(f"features of shape {tuple(some.shape)} for image {image}; give [N D], an image each")
    made: dict[int, Allocation] = {}
    for images in found.values():
        some = torch.stack([seen[image] for image in images])
        worth = None if heard is None else torch.stack([heard[image] for image in images])
        settings = {"grid": grids[images[0]], "budget": own[images[0]], "floor": floor}
        try:
            whole = allocate(some, relevance=worth, **settings)
        except InputError as error:
            wrong = [image for place, image in enumerate(images) if _fails(some, worth, place, settings)]
            raise InputError(f"of images {', '.join(map(str, wrong))}: {error}") from None
        for place, image in enumerate(images):
            made[image] = _one(whole, place)
    return [made[image] for image in range(count)]


def _fails(features: Tensor, relevance: Tensor | None, image: int, settings: dict[str, Any]) -> bool:
    """Whether an image is refused by itself too."""
    try:
        allocate(features[image], relevance=None if relevance is None else relevance[image], **settings)
    except InputError:
        return True
    return False


def _one(whole: Allocation, image: int) -> Allocation:
    parts = {name: part if name == "note" else part[image] for name, part in vars(whole).items()}
    return Allocation(**parts)
