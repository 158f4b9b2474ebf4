"""Visual tokens of many images brought down to a budget each: what every strategy between connector and text shares."""

import math
import operator
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Grid, Layout, Query, VisualTokens
from foveal.layers.precision import own_dtype
from foveal.relevance.pooling import means, sums


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Tokens that are no means: how much of each patch is in each, and which of them stands where the patch is."""

    parts: Float[Tensor, "I B N"]
    token: Int[Tensor, "I N"]


Shares = tuple[Tensor, Tensor]  # the token that holds each patch [I N] (-1: none does), and each patch's weight [I N]
Choose = Callable[[Tensor, Any, Sequence[int]], Shares | Sums]  # of features [I N D], their grid or None, which images


def whole_number(given: Any) -> int | None:
    """The number itself, of Python, numpy or a tensor; None for anything but a whole one, truths among them."""
    try:
        return None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        return None


def plain(given: Any) -> Any:
    """The Python number of a scalar of numpy or a tensor; anything else as it is."""
    return given.item() if getattr(given, "ndim", None) == 0 else given


def budget_of(given: Any) -> int:
    """A budget as a number of Python; raises InputError where it is no whole one."""
    if (tokens := whole_number(given)) is None:
        raise InputError(f"a budget of {given!r} visual tokens an image; give a whole number, 1 or more")
    return tokens


def coarser(settings: Mapping[str, Any], budget: int) -> dict[str, Any]:
    """Settings whose floor has room in so many tokens, where it is of one that was meant for more."""
    floor = settings.get("floor")
    return {**settings, **({} if not isinstance(floor, int) else {"floor": min(floor, math.isqrt(max(0, budget)))})}


@contextmanager
def undrawn() -> Iterator[None]:
    """What is built in here leaves torch's random stream as it was, whatever device is the default, and may be trained
    though a pass that only reads builds it.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.inference_mode(False):
        yield


def checked(budget: int) -> int:
    """The budget itself; raises InputError where it is none."""
    if budget < 1:
        raise InputError(f"a budget of {budget} visual tokens; give 1 or more")
    return budget


def covering(share: float) -> float:
    """The share of what a view is worth that the tiles which are read hold; raises InputError where it is none."""
    if not 0 < share <= 1:
        raise InputError(f"a cover of {share:g}; give a share above 0, or 1 for all tiles")
    return share


def planned(layout: Layout, budget: int | Sequence[int], *, name: str, loose: bool = False) -> Layout:
    """The layout with at most `budget` tokens an image, or of each.

    Raises InputError for more of them that lie on no grid, but where such `loose` ones may be chosen among.
    """
    if layout.frames is not None:
        raise InputError(
            f"strategy {name!r} cuts pictures, and there are videos here; ask about one of their frames as a picture, "
            "or without a budget where the model has no allocator of its own"
        )
    counts, grids, cut, own = [], [], [], each(layout, budget)
    for image, (count, grid) in enumerate(zip(layout.counts, layout.grids, strict=True)):
        if count > own[image] and grid is None and not loose:
            raise InputError(
                f"strategy {name!r} wants a grid to cut, and the {count} visual tokens of image {image} lie on none; "
                "take a connector that keeps it, or no budget"
            )
        counts.append(min(count, own[image]))
        grids.append(grid if count <= own[image] else None)
        cut.append(grid if count > own[image] else None)
    return Layout(counts=tuple(counts), grids=tuple(grids), cut=tuple(cut) if any(cut) else None)


def each(layout: Layout, budget: int | Sequence[int]) -> Sequence[int]:
    """The budget of each image."""
    return (budget,) * len(layout.counts) if isinstance(budget, int) else budget


def spend(
    visual: VisualTokens, budget: int | Sequence[int], choose: Choose, *, name: str, loose: bool = False
) -> VisualTokens:
    """The tokens that are left: images of one grid and budget are chosen among together; those within stay as they are.

    Raises InputError for hidden tokens, and takes the errors of `planned`.
    """
    layout = planned(visual.layout, budget, name=name, loose=loose)
    if layout.counts == visual.layout.counts:
        return visual
    if visual.masked is not None:
        raise InputError(
            f"strategy {name!r} met hidden visual tokens, which stand in tiles that an image does not fill, or are "
            "what an objective hides; ask or train without a budget, or give images that fill all of their tiles"
        )
    groups = alike(visual.layout, layout.counts)
    parts = [_cut(visual, images, layout.counts[images[0]], choose) for images in groups]
    taken = [image for images in groups for image in images]
    order = sorted(range(len(taken)), key=taken.__getitem__)
    counts = [layout.counts[image] for image in taken]
    whole = {key: torch.cat([part[key] for part in parts]).split(counts) for key in parts[0]}
    flat = {key: torch.cat([pieces[image] for image in order]) for key, pieces in whole.items()}
    levels = tuple(flat.pop(f"level{number}") for number in range(len(visual.levels)))
    made = VisualTokens.on_layout(flat.pop("features"), layout, levels)
    return replace(made, marks=visual.marks, before=visual.layout, **flat)


@dataclass(frozen=True, kw_only=True)
class Among:
    """Images of one grid, among whose patches is chosen, out of all that are seen, and what is asked of them."""

    features: Float[Tensor, "I N D"]
    grid: Grid
    images: Sequence[int]
    visual: VisualTokens
    query: Query


class Choosing(nn.Module):
    """A strategy between connector and text: each image has `budget` tokens, of what is chosen among its patches.

    Errors call it by its `name`. Raises InputError for a budget below 1.
    """

    name: str
    steered = False

    def __init__(self, *, budget: int = 64) -> None:
        super().__init__()
        self.budget = checked(budget)

    def plan(self, layout: Layout) -> Layout:
        """The budget of each image, or all it has."""
        return planned(layout, self.budget, name=self.name)

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """What is chosen of each image that has more than its budget."""

        def choose(features: Tensor, grid: Grid, images: Sequence[int]) -> Shares | Sums:
            return self.choose(Among(features=features, grid=grid, images=images, visual=visual, query=query))

        return spend(visual, self.budget, choose, name=self.name)

    @abstractmethod
    def choose(self, among: Among) -> Shares | Sums:
        """The token that holds each patch, as many as the budget has."""


def of_images(values: Tensor, layout: Layout, images: Sequence[int]) -> Tensor:
    """What each patch of some images of one count has of values `[S ...]`: `[I N ...]`."""
    begins = torch.tensor([layout.offsets[image] for image in images], device=values.device)
    return values[begins[:, None] + torch.arange(layout.counts[images[0]], device=values.device)]


def alike(layout: Layout, left: Sequence[int] = ()) -> list[list[int]]:
    """The images of each grid (or none) and count, those of one together; and of which as many are `left`."""
    found: dict[tuple[Grid | None, int, int], list[int]] = {}
    for image, key in enumerate(zip(layout.grids, layout.counts, left or layout.counts, strict=True)):
        found.setdefault(key, []).append(image)
    return list(found.values())


def _cut(visual: VisualTokens, images: list[int], budget: int, choose: Choose) -> dict[str, Tensor]:
    """What is left of images of one grid, end to end."""
    layout, first = visual.layout, images[0]
    count, grid, device = layout.counts[first], layout.grids[first], visual.features.device
    rows = torch.cat([torch.arange(layout.offsets[i], layout.offsets[i + 1]) for i in images]).to(device)
    given = {"features": visual.features, "boxes": visual.boxes[:, :4], "mass": visual.mass}
    given |= {} if visual.classes is None else {"classes": visual.classes}
    given |= {f"level{number}": level for number, level in enumerate(visual.levels)}
    mine = {key: part[rows].unflatten(0, (len(images), count)) for key, part in given.items()}
    if count > budget:
        made = choose(mine["features"], grid, images)
        token = made.token if isinstance(made, Sums) else made[0]
        boxes = (_middles if grid is not None else sums)(mine["boxes"], token, budget)
        mass = sums(mine["mass"][..., None], token, budget)[..., 0]
        mine = {key: _pooled(key, part, made, budget) for key, part in mine.items() if key not in ("boxes", "mass")}
        mine |= {"boxes": boxes, "mass": mass}
    return {key: part.flatten(0, 1) for key, part in mine.items()}


def _pooled(key: str, values: Float[Tensor, "I N D"], made: Shares | Sums, budget: int) -> Float[Tensor, "I B D"]:
    """The tokens' own values; distributions stay such whatever the others come to."""
    if not isinstance(made, Sums):
        return means(values, *made, budget)
    parts = made.parts / made.parts.sum(-1, keepdim=True) if key == "classes" else made.parts
    with own_dtype(values):
        return parts.to(values.dtype) @ values


def _middles(boxes: Float[Tensor, "I N 4"], token: Int[Tensor, "I N"], budget: int) -> Float[Tensor, "I B 4"]:
    """A cell in the middle of the patches of each token: what reads places was taught with cells."""
    slot = torch.where(token >= 0, token, budget)[..., None].expand(-1, -1, 2)
    ends = boxes.new_zeros(len(boxes), budget + 1, 2)
    least = (ends + torch.inf).scatter_reduce(1, slot, boxes[..., :2], "amin")[:, :budget]
    most = ends.scatter_reduce(1, slot, boxes[..., 2:], "amax")[:, :budget]
    cell = (boxes[:, :1, 2:] - boxes[:, :1, :2]).expand_as(least)
    corner = (least + most - cell) / 2
    alone = (most - least - cell).abs().amax(-1, keepdim=True) < 1e-6
    corner = torch.where(alone, least, corner)
    return torch.cat([corner, torch.where(alone, most, corner + cell)], dim=-1)
