"""A budget an image, spent on the grids that the image's visual tokens lie on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.interfaces import Allocator
from foveal.core.lookup import build, names, spec
from foveal.core.types import Grid, Layout, Query, Relevance, VisualTokens
from foveal.interop.pictures import Picture, Spots
from foveal.relevance.spending import coarser, plain, undrawn, whole_number

ROOM = "relevance.strategies"


@dataclass(frozen=True, kw_only=True)
class Left:
    """What is left of an image: tokens, the `numbers` of those among all in whose places they stand, the
    same tokens at other depths, and by what each piece was cut (None: by nothing).
    """

    numbers: Int[Tensor, " K"]
    features: Float[Tensor, "K D"]
    levels: tuple[Tensor, ...]
    looked: tuple[Relevance | None, ...]


class Purse:
    """A strategy at any budget: one allocator for each portion that a piece of an image gets.

    Raises InputError for a budget that is none, an unknown strategy or setting, and a strategy that acts elsewhere.
    """

    def __init__(self, budget: object, strategy: object, settings: dict[str, Any]) -> None:
        if (number := whole_number(budget) or 0) < 1:
            raise InputError(f"a budget of {budget!r} visual tokens an image; give a whole number, 1 or more")
        if not isinstance(strategy, str) or "name" in settings:
            wrong = f"name={settings['name']!r} is no setting" if "name" in settings else f"{strategy!r} is no strategy"
            raise InputError(f"{wrong}; give one of {', '.join(_able())} as 'strategy'")
        self.budget, self.strategy = number, strategy
        self.settings = {name: plain(value) for name, value in settings.items()}
        self._made: dict[int, Allocator] = {}
        made, beyond = self.allocator(self.budget), Layout.of_grids([(self.budget + 1, 1)])
        lacks = _lacks(made)
        if lacks:
            raise InputError(
                f"strategy {strategy!r} wants {lacks}, and foveal.compress acts between the encoder and the language "
                "model; take foveal, or load the checkpoint by foveal.load"
            )
        self.spares = made.plan(beyond) != beyond  # `all` does not

    def allocator(self, budget: int) -> Allocator:
        """The strategy, spending so many tokens: all of the budget, or a share of it."""
        if budget not in self._made:
            said = self.settings if budget >= self.budget else coarser(self.settings, budget)
            with undrawn():  # it may be built within a pass, between the samples of a seed
                self._made[budget] = build(ROOM, spec(ROOM, {**said, "name": self.strategy, "budget": budget}))
        return self._made[budget]

    def cuts(self, spots: Spots) -> bool:
        """Whether an image of such tokens would lose some."""
        return self.spares and spots.count > self.budget


def _able() -> list[str]:
    """The strategies that lack nothing here."""
    with undrawn():
        return [name for name in names(ROOM) if not _lacks(build(ROOM, spec(ROOM, {"name": name, "budget": 1})))]


def _lacks(made: Allocator) -> str:
    """What a strategy asks for that is not there between the encoder and the language model; "": nothing."""
    if "attention" in getattr(made, "needs", ()):
        return "the encoder's attention"
    if hasattr(made, "before"):
        return "pictures before they are encoded"
    return "places within the language model" if hasattr(made, "cuts") else ""


def portions(spots: Spots, budget: int) -> tuple[list[int], int]:
    """How many tokens each piece may keep, and how many loose ones: these last.

    Pieces share by their sizes (largest remainders, then the view first), one each where the budget has as many.
    """
    sizes = [piece.grid[0] * piece.grid[1] for piece in spots.pieces]
    paid = min(budget, sum(sizes))
    order = sorted(range(len(sizes)), key=lambda number: (number != spots.view, number))
    if paid < len(sizes):
        first = set(order[:paid])
        return [int(number in first) for number in range(len(sizes))], budget - paid
    rest, over = paid - len(sizes), max(1, sum(sizes) - len(sizes))
    shares = [1 + rest * (size - 1) // over for size in sizes]
    order.sort(key=lambda number: -(rest * (sizes[number] - 1) % over))
    for number in order[: paid - sum(shares)]:
        shares[number] += 1
    return shares, budget - paid


def spend(
    purse: Purse,
    pictures: Sequence[Picture],
    features: Sequence[Float[Tensor, "_ D"]],
    levels: Sequence[tuple[Tensor, ...]],
    query: Query,
) -> list[Left]:
    """What the budget leaves of each image. Raises InputError for features that are no numbers."""
    for number, (picture, shown) in enumerate(zip(pictures, features, strict=True)):
        if not bool(torch.isfinite(shown).all()):
            raise InputError(
                f"the features of image {number} (row {picture.row}) hold {int((~torch.isfinite(shown)).sum())} values "
                "that are no numbers; mend the pixels or the encoder's dtype"
            )
    jobs: dict[int, list[tuple[int, int]]] = {}
    parts: list[dict[int, Left]] = [{} for _ in pictures]
    for image, picture in enumerate(pictures):
        if not purse.cuts(picture.spots):
            continue
        shares, _ = portions(picture.spots, purse.budget)
        for piece, share in enumerate(shares):
            if share:
                jobs.setdefault(share, []).append((image, piece))
    for share, places in jobs.items():
        cut = _cut(purse, share, places, pictures, features, levels, query)
        for (image, piece), left in zip(places, cut, strict=True):
            parts[image][piece] = left
    return [
        _joined(purse, *given) if purse.cuts(given[0].spots) else _whole(*given[:3])
        for given in zip(pictures, features, levels, parts, strict=True)
    ]


def _cut(
    purse: Purse,
    share: int,
    places: list[tuple[int, int]],
    pictures: Sequence[Picture],
    features: Sequence[Tensor],
    levels: Sequence[tuple[Tensor, ...]],
    query: Query,
) -> list[Left]:
    """What is left of these pieces of images, each with the same share."""
    device = features[0].device
    pieces = [pictures[image].spots.pieces[piece] for image, piece in places]
    cells = [torch.tensor(piece.cells, device=device) for piece in pieces]
    owners = [image for image, _ in places]
    deep = [torch.cat([levels[i][depth][mine] for i, mine in zip(owners, cells, strict=True)]) for depth in _of(levels)]
    shown = torch.cat([features[i][mine] for i, mine in zip(owners, cells, strict=True)])
    which = torch.cat([torch.arange(len(mine), device=device) for mine in cells])[:, None].float()  # goes as a level
    visual = VisualTokens.on_layout(shown, Layout.of_grids([piece.grid for piece in pieces]), (*deep, which))
    rows = torch.tensor([pictures[image].row for image in owners], device=device)
    allocator: Any = purse.allocator(share)
    with torch.inference_mode(False):  # a later pass may train with it
        allocator.to(device)
    whole = getattr(allocator, "realize", None) == "medoid"  # a token is one patch, somewhere in its cell
    made = allocator.between(visual, replace(query, owner=rows))
    found, ends = [], made.layout.offsets
    for number, (piece, mine) in enumerate(zip(pieces, cells, strict=True)):
        here = slice(ends[number], ends[number + 1])
        own = made.levels[-1][here, 0].long() if whole else _middles(made.boxes[here], piece.grid)
        order = own.argsort() if whole else torch.arange(len(own), device=device)
        found.append(
            Left(
                numbers=mine[own[order]],
                features=made.features[here][order],
                levels=tuple(level[here][order] for level in made.levels[:-1]),
                looked=(made.looked[number] if made.looked else None,),
            )
        )
    return found


def _of(levels: Sequence[tuple[Tensor, ...]]) -> range:
    return range(len(levels[0]))


def _middles(boxes: Float[Tensor, "K 4"], grid: Grid) -> Int[Tensor, " K"]:
    """The cell in the middle of each box; of two the later one."""
    sides = boxes.new_tensor([grid[1], grid[0]])
    x, y = ((boxes[:, :2] + boxes[:, 2:]) / 2 * sides + 1e-3).long().unbind(1)
    return y * grid[1] + x


def _whole(picture: Picture, features: Tensor, levels: tuple[Tensor, ...]) -> Left:
    numbers = torch.arange(picture.spots.count, device=features.device)
    return Left(numbers=numbers, features=features, levels=levels, looked=(None,) * len(picture.spots.pieces))


def _joined(
    purse: Purse, picture: Picture, features: Tensor, levels: tuple[Tensor, ...], parts: dict[int, Left]
) -> Left:
    """Pieces and the loose tokens that the budget still pays, in the order of their places; a piece's own tokens stay
    in the order in which they came, that of the first patch that each holds, as models here are trained with.
    """
    _, more = portions(picture.spots, purse.budget)
    numbers = torch.tensor(picture.spots.loose[:more], dtype=torch.long, device=features.device)
    deep = tuple(level[numbers] for level in levels)
    some = [*parts.values(), Left(numbers=numbers, features=features[numbers], levels=deep, looked=())]
    order = torch.cat([part.numbers.sort().values for part in some]).argsort(stable=True)
    looked = {piece: part.looked[0] for piece, part in parts.items()}
    return Left(
        numbers=torch.cat([part.numbers for part in some])[order],
        features=torch.cat([part.features for part in some])[order],
        levels=tuple(torch.cat([part.levels[depth] for part in some])[order] for depth in range(len(levels))),
        looked=tuple(looked.get(piece) for piece in range(len(picture.spots.pieces))),
    )
