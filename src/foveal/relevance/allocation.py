"""An exact budget of tokens for a grid of patches: coarse everywhere, fine where it matters (ARR-COC's attending).

Letters: N patches of one image, B its budget, I images of one grid.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Grid
from foveal.relevance.pooling import full, means
from foveal.relevance.slopes import by_key, split_keys, within
from foveal.relevance.spending import whole_number
from foveal.relevance.tree import Tree, tree_of


@dataclass(frozen=True, kw_only=True)
class Partition:
    """What the tokens of an image stand for: `boxes [B 4]` (row0, col0, row1, col1 in patches, half open), in raster
    order of their first patches, and `mass [B]`, how many patches that is.

    `assignment [N]` is the token that holds each patch (-1: none does), `order [N-1]` the splits in the order in which
    budgets take them, numbered from coarse to fine, and `keys` what each of these gains a token, not rising. A `note`
    says where the budget was not needed.
    """

    boxes: Int[Tensor, "*I B 4"]
    assignment: Int[Tensor, "*I N"]
    mass: Int[Tensor, "*I B"]
    order: Int[Tensor, "*I N1"]
    keys: Float[Tensor, "*I N1"]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Allocation(Partition):
    """The tokens of an image, `features [B D]`, and what they stand for."""

    features: Float[Tensor, "*I B D"]


def allocate(
    features: Num[Tensor, "*I N D"],
    *,
    grid: Sequence[int],
    budget: SupportsIndex,
    relevance: Tensor | None = None,
    floor: SupportsIndex | Sequence[int] | None = None,
) -> Allocation:
    """Exactly `budget` tokens for the patches of a grid (rows, columns), pooled by `relevance [*I N]` (None: alike).

    A `floor` of (rows, columns) or of so many of both is parted first, so that each of its cells has a token; None:
    one root for all. Budgets nest: the tokens of a smaller one are parted by a larger one. Several images of one grid
    may come at once. Half precision is parted and pooled in float32; whole numbers are taken as float. Raises
    InputError for a budget, a grid, a floor or values that make no sense.
    """
    made = partition(features, grid=grid, budget=budget, relevance=relevance, floor=floor)
    features = floating(features, "features")
    given = (features, _weight(features, relevance), made.boxes, made.assignment, made.mass)
    columns = operator.index(grid[1])
    if features.ndim == 2:
        return Allocation(features=_realized(*(part[None] for part in given), columns=columns)[0], **vars(made))
    return Allocation(features=_realized(*given, columns=columns), **vars(made))


def partition(
    features: Num[Tensor, "*I N D"],
    *,
    grid: Sequence[int],
    budget: SupportsIndex,
    relevance: Tensor | None = None,
    floor: SupportsIndex | Sequence[int] | None = None,
) -> Partition:
    """The same without the tokens themselves, for what pools in another way; takes the same errors."""
    features, grid, budget = floating(features, "features"), _grid(grid), _budget(budget)
    relevance, floor = None if relevance is None else floating(relevance, "relevance"), _floor(floor)
    _check(features, grid, budget, relevance, floor)
    patches, alone = grid[0] * grid[1], features.ndim == 2
    some, weight = full(features.detach()), _weight(features, relevance).detach()
    some, weight = (some[None], weight[None]) if alone else (some, weight)
    tree = tree_of(grid, floor, device=features.device)
    (some, scale), (weight, share) = within(some), within(weight)
    keys = split_keys(tree, some, weight)
    order = by_key(tree, keys)
    leaf = _leaves(tree, order[:, : min(budget, patches) - 1])
    parts = _tokens(leaf, grid[1], min(budget, patches))
    number = tree.splits.long().cumsum(0) - 1  # a name for each split alone
    parts = {**parts, "order": number[order], "keys": _plain(keys.gather(1, order), scale, share)}
    note = f"a budget of {budget} for {patches} patches: all are kept" if budget > patches else ""
    return Partition(**{name: part[0] if alone else part for name, part in parts.items()}, note=note)


def evenly(features: Float[Tensor, "I N D"], *, grid: Grid, budget: int) -> Partition:
    """Rectangles that are all about equal, whatever they show."""
    return partition(features[:, :, :1] * 0, grid=grid, budget=budget)


def _leaves(tree: Tree, taken: Int[Tensor, "I T"]) -> Int[Tensor, "I N 4"]:
    """The rectangle that each patch is in when these splits are made."""
    split = taken.new_zeros(taken.shape[0], max(1, len(tree.splits))).scatter(1, taken, 1)
    level = split[:, tree.place[:-1]].cumprod(1).sum(1)
    return tree.rectangles[tree.place[level, torch.arange(tree.place.shape[1], device=level.device)]]


def _tokens(leaf: Int[Tensor, "I N 4"], columns: int, budget: int) -> dict[str, Tensor]:
    """Boxes, assignment and mass of the tokens, given the rectangle that each patch is in."""
    corner = leaf[..., 0] * columns + leaf[..., 1]
    ranks = (corner == torch.arange(corner.shape[1], device=corner.device)).long().cumsum(1)
    wanted = torch.arange(1, budget + 1, device=ranks.device).expand(ranks.shape[0], -1)
    first = torch.searchsorted(ranks, wanted.contiguous())[..., None]
    boxes = leaf.gather(1, first.expand(-1, -1, 4))
    mass = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return {"boxes": boxes, "assignment": ranks.gather(1, corner) - 1, "mass": mass}


def _realized(
    features: Float[Tensor, "I N D"],
    weight: Float[Tensor, "I N"],
    boxes: Int[Tensor, "I B 4"],
    assignment: Int[Tensor, "I N"],
    mass: Int[Tensor, "I B"],
    *,
    columns: int,
) -> Float[Tensor, "I B D"]:
    """The mean of each token's patches by weight; a patch that is a token by itself stays as it is, bit for bit."""
    first = (boxes[..., 0] * columns + boxes[..., 1])[..., None]
    own = features.gather(1, first.expand(-1, -1, features.shape[-1]))
    return torch.where(mass[..., None] == 1, own, means(features, assignment, within(weight)[0], mass.shape[1]))


def _weight(features: Float[Tensor, "*I N D"], relevance: Tensor | None) -> Float[Tensor, "*I N"]:
    """What each patch weighs, in float32 or more."""
    return full(torch.ones_like(features[..., 0]) if relevance is None else floating(relevance, "relevance"))


def _plain(keys: Float[Tensor, "I N1"], scale: Float[Tensor, " I"], share: Float[Tensor, " I"]) -> Tensor:
    """Keys as they are without these powers, as far as numbers go; those of the floor stay infinite."""
    scale, share = scale.double()[:, None], share.double()[:, None]
    there = (keys / scale / scale / share).clamp(max=torch.finfo(keys.dtype).max)
    return torch.where(keys.isinf(), keys, there)


def floating(values: Any, name: str) -> Tensor:
    """A tensor's real numbers, whole ones and truths as float; raises InputError for anything else."""
    if not isinstance(values, Tensor) or values.is_complex():
        kind = values.dtype if isinstance(values, Tensor) else f"type {type(values).__name__}"
        raise InputError(f"{name} of {kind}; give a tensor of real numbers")
    if values.is_floating_point() and values.dtype.itemsize < 2:
        raise InputError(f"{name} of {values.dtype}, which nothing is added up in; give them as float16 or wider")
    return values if values.is_floating_point() else values.float()


def _grid(grid: Any) -> Grid:
    if (sides := _pair(grid)) is None or min(sides) < 1:
        raise InputError(f"a grid of {grid!r}; give (rows, columns), whole numbers of 1 or more")
    return sides


def _floor(floor: Any) -> Grid:
    side = 1 if floor is None else whole_number(floor)
    cells = _pair(floor) if side is None else (side, side)
    if cells is None:
        raise InputError(f"a floor of {floor!r}; give a whole number of cells a side, or (rows, columns) of them")
    return cells


def _budget(budget: Any) -> int:
    if (tokens := whole_number(budget)) is None:
        raise InputError(f"a budget of {budget!r}; give a whole number of tokens, 1 or more")
    return tokens


def _pair(sides: Any) -> Grid | None:
    try:
        found = [whole_number(side) for side in sides]
    except TypeError:
        return None
    return (found[0], found[1]) if len(found) == 2 and found[0] is not None and found[1] is not None else None


def _check(features: Tensor, grid: Grid, budget: int, relevance: Tensor | None, floor: Grid) -> None:
    patches = grid[0] * grid[1]
    if features.ndim not in (2, 3) or features.shape[-2] != patches or features.shape[-1] < 1:
        raise InputError(
            f"features of shape {tuple(features.shape)} for a grid of {grid[0]} x {grid[1]} = {patches} patches; "
            "give [N D] or [I N D] with as many"
        )
    if any(not 1 <= cells <= side for cells, side in zip(floor, grid, strict=True)):
        raise InputError(
            f"a floor of {floor[0]} x {floor[1]} cells on a grid of {grid[0]} x {grid[1]}; give 1 to as many of both"
        )
    if budget < 1:
        raise InputError(f"a budget of {budget} tokens; give 1 or more")
    if budget < floor[0] * floor[1]:
        raise InputError(
            f"a budget of {budget} tokens for a floor of {floor[0] * floor[1]}; give the budget that many or more"
        )
    if relevance is not None and relevance.shape != features.shape[:-1]:
        raise InputError(
            f"relevance of shape {tuple(relevance.shape)} for features of {tuple(features.shape)}; give each patch one"
        )
    if not torch.compiler.is_compiling():
        _check_values(features, relevance)


def _check_values(features: Tensor, relevance: Tensor | None) -> None:
    for name, values in (("features", features), ("relevance", relevance)):
        if values is None or bool(torch.isfinite(values.sum(dtype=torch.float64))):  # one look finds any
            continue
        if wrong := int((~torch.isfinite(values)).sum()):
            raise InputError(f"{name} hold {wrong} values that are no numbers; mend them")
    if relevance is not None and bool((relevance < 0).any()):
        raise InputError(f"relevance goes down to {float(relevance.min()):.3g}; give 0 or more (softmax of scores)")


for _type in (Partition, Allocation):
    torch.export.register_dataclass(_type)
