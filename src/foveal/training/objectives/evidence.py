"""Relevance learns where answers come from: whoever looks should have looked at what the right answer hangs on.

How far the odds of the right answer move with each visual token says where it was found (1312.6034); nobody labels it.
Only who spends the budget learns, and the model that answers stays as it is.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch, Grid, Query, VisualTokens
from foveal.layers.field import field, over_view
from foveal.models.budget import allocator_of
from foveal.models.tiles import choosable, glanced
from foveal.training.objectives import choose, next_token
from foveal.training.objectives.budgets import Of
from foveal.training.settings import check_whole
from foveal.training.wants import Wants

Worth = Float[Tensor, " N"]
WANTS = Wants(assemblies=("causal", "seq2seq", "masked"), spends=True, layers=True, slopes=True)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The model answers from `budget` tokens an image, of whose tiles all are read. It answers with the next token
    `of` an answer, or it chooses one.
    """

    budget: int = 512
    of: Of = "next_token"

    def __post_init__(self) -> None:
        check_whole("evidence", 1, budget=self.budget)


def evidence(
    model: Any, batch: Batch, *, budget: int = 512, of: Of = "next_token"
) -> tuple[Tensor, int, Mapping[str, tuple[Tensor, int]]]:
    """The summed divergence (nats) of relevance from what answers hang on, and the number of images; a question a row.

    Parts tell that of tokens and that of glances at views of the whole. Raises InputError for a model without an
    allocator that knows relevance, and for images on no grid.
    """
    spender: Any = allocator_of(model)
    if not hasattr(spender, "shares"):
        raise InputError("evidence teaches relevance to who spends a budget by it; give the model an allocator: foveal")
    with torch.no_grad():
        given = model.looked(batch)
        tiled = model.tiled(given)
        spent = model.spent(given, tiled, budget, cover=1.0)
        whole, _ = choosable(model, given, _reading(spender, budget), tiled)
        query = model.query(given)
    seen = spent.seen if spent.seen is not None else tiled
    none = torch.stack([weight.sum() for weight in spender.parameters()]).sum() * 0.0
    if seen is None or tiled is None or whole is None:
        return none, 0, {}
    worth = hangs(model, replace(spent, seen=seen), batch, of=of)
    wanted: dict[int, Worth] = {}
    tokens, views = [none], [none]
    for image, grid, maps, boxes in _images(spender, whole, seen, query):
        found = spread(boxes, worth[slice(*seen.layout.offsets[image : image + 2])], grid)
        wanted[image] = found / found.sum().clamp(min=torch.finfo(found.dtype).tiny)
        shares = spender.shares(maps[None], grid, query, query.owner[image][None])[0]
        tokens.append(_apart(wanted[image], shares))
    if not wanted:
        raise InputError("no image of the batch lies on a grid, where relevance could be told; leave evidence out")
    for image, cut, cells, share in glanced(model, given, spender, tiled):
        if image in wanted and len(wanted[image]) == prod(field(cut, cells)):
            views.append(_apart(over_view(wanted[image], cut, cells), share))
    found = {"evidence": (tokens, len(wanted)), "glances": (views, len(views) - 1)}
    parts = {name: (torch.stack(some).sum(), count) for name, (some, count) in found.items() if count}
    return torch.stack([part for part, _ in parts.values()]).sum(), len(wanted), parts


def hangs(model: Any, spent: Batch, batch: Batch, *, of: Of = "next_token") -> Float[Tensor, " S"]:
    """How far the log-odds of what is labelled move with each visual token: the norm of their slope."""
    kind: Any = next_token if of == "next_token" else choose
    assert spent.seen is not None
    felt = spent.seen.features.detach().requires_grad_()
    with torch.enable_grad():
        told = kind.told(model, replace(spent, seen=replace(spent.seen, features=felt)))
        logits = told.logits.detach().double().requires_grad_()
        (pull,) = torch.autograd.grad(kind.score(replace(told, logits=logits), batch)[0], logits)
        # The slope of likelihood fades as the model is sure; that of log-odds, with all others together, does not.
        against = pull.clamp(min=0).sum(-1, keepdim=True).clamp(min=torch.finfo(pull.dtype).tiny)
        (slope,) = torch.autograd.grad(told.logits, felt, (pull / against).to(told.logits.dtype))
    return slope.float().norm(dim=-1)


def spread(boxes: Float[Tensor, "B 4"], worth: Float[Tensor, " B"], grid: Grid) -> Worth:
    """What tokens are worth over the patches that each stands for (row0, col0, row1, col1, half open), evenly."""
    rows, columns = grid
    row0, col0, row1, col1 = boxes.long().T
    each = worth.double() / ((row1 - row0) * (col1 - col0))
    corners = boxes.new_zeros((rows + 1) * (columns + 1), dtype=torch.float64)
    for row, column, sign in ((row0, col0, 1), (row0, col1, -1), (row1, col0, -1), (row1, col1, 1)):
        corners = corners.index_add(0, row * (columns + 1) + column, sign * each)
    patches = corners.view(rows + 1, columns + 1).cumsum(0).cumsum(1)[:rows, :columns]
    return patches.clamp(min=0).flatten().to(worth.dtype)


def _apart(wanted: Worth, shares: Worth) -> Tensor:
    """By how many nats the shares miss what is wanted."""
    return torch.xlogy(wanted, wanted).sum() - (wanted * shares.float().clamp(min=1e-12).log()).sum()


def _reading(spender: Any, budget: int) -> Any:
    """The same one with this budget, for which all tiles are read."""
    reading = copy.copy(spender)
    reading.budget, reading.cover = budget, 1.0
    return reading


def _images(
    spender: Any, whole: VisualTokens, seen: VisualTokens, query: Query
) -> Iterator[tuple[int, Grid, Float[Tensor, "3 N"], Float[Tensor, "B 4"]]]:
    """Of each image that is whole on a grid: its number, the grid, its maps, and where on it the tokens seen lie."""
    for image, grid in enumerate(whole.layout.grids):
        if grid is None:
            continue
        own, row = slice(*whole.layout.offsets[image : image + 2]), query.owner[image][None]
        features = whole.features[own][None]
        looked = seen.looked[image] if seen.looked else None
        if looked is not None:  # what does not learn is known
            heard = spender.coupled(features, query, row).float()
            yield image, grid, torch.cat([looked.maps[:2].flatten(1), heard]), looked.boxes
            continue
        known = spender.beside(whole, [image])
        place = torch.cartesian_prod(*(torch.arange(side, device=features.device) for side in grid)).view(-1, 2)
        boxes = torch.cat([place, place + 1], dim=1).float()
        yield image, grid, spender.knowing(features, grid, query, row, **known)[0], boxes
