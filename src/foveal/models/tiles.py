"""Images in tiles under a budget: the view of the whole is read first, and only the tiles that are needed follow it."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.core.types import Batch, Cut, Grid, Layout, Pixels, VisualTokens
from foveal.layers.field import fields, gated, laid, needed, of_tiles, packed, unpacked
from foveal.models import seats

if TYPE_CHECKING:
    from foveal.models.parts import Sight

Cuts = tuple[Cut, ...]


def choosable(
    model: "Sight", batch: Batch, spender: Any, tiled: VisualTokens | None = None, *, laid_for: int | None = None
) -> tuple[VisualTokens | None, Layout]:
    """What a budget is spent on, each image on one grid where it is in tiles, and the layout of all there would be.

    What is `tiled` already is not encoded again; else the tiles that the strategy does without are not encoded at all.
    Queries that the strategy leads look anew, whatever all of them have found; the batch is `laid_for` so many.
    """
    cuts = None if seats.acts_before(spender) else getattr(tiled or batch.visual, "cuts", None) or None
    if cuts is None and seats.looking(spender, model.connector) is not None and batch.seen is None:
        led = model.tiled(batch, spender, laid=laid_for)
        before = Layout(counts=(), grids=()) if led is None else led.layout
        return led, before if laid_for is None else replace(before, counts=(laid_for,) * len(before.counts))
    alone = not model.reads_whole and not getattr(model.connector, "counts_images", False)  # a tile says all by itself
    lazy = tiled is None and cuts is not None and isinstance(batch.visual, Pixels) and alone
    if tiled is None and not lazy:
        tiled = model.tiled(batch)
    if tiled is not None and tiled.cuts is None:
        return tiled, tiled.layout
    if tiled is None and not lazy:
        return None, Layout(counts=(), grids=())
    cuts = cuts or getattr(tiled, "cuts", None)  # who acts before the encoder cuts otherwise, or no longer
    assert cuts is not None
    tiles, there = _read(model, batch, spender, cuts) if tiled is None else (tiled, None)
    joined = model.mosaic(replace(tiles, cuts=cuts))
    assert joined is not None
    if there is None:
        there = _there(model, batch, spender, cuts, tiles.layout, _views(tiles, cuts))
    return laid(tiles, cuts, joined, there, budget=_most(spender)), joined.layout


def planned(spender: Any, tiles: Layout, cuts: Cuts, joined: Layout) -> Layout:
    """The layout of what a budget is spent on, out of those of tiles and of the images joined from them."""
    return fields(tiles, cuts, joined, _most(spender))


def stood(left: VisualTokens, joined: Layout) -> VisualTokens:
    """What a budget leaves, where it stood among no more tokens than are `joined`, unless more than these are left.

    A mosaic may shrink a field to fewer tokens than it has cells, and no text has stood behind all of them.
    """
    if left.before is None:
        return left
    parts = zip(left.layout.counts, left.before.counts, joined.counts, strict=True)
    counts = tuple(max(now, min(cells, most)) for now, cells, most in parts)
    return replace(left, before=replace(left.before, counts=counts))


def _most(spender: Any) -> int:
    """Above how many tokens an image is brought to one grid: never for who lets all of them enter the text."""
    return sys.maxsize if seats.acts_within(spender) else spender.budget


def _read(model: "Sight", batch: Batch, spender: Any, cuts: Cuts) -> tuple[VisualTokens, Float[Tensor, " T"]]:
    """The tokens of the tiles that are needed, zeros in the places of the others, and which these are."""
    pixels: Any = batch.visual
    layout = model.tile_plan(cuts)
    spots = torch.tensor([spot for cut in cuts for spot in cut.spots], device=pixels.values.device)
    view = spots[:, 0] == -1
    parts: dict[int, Tensor] = {}
    seen = _encoded(model, batch, pixels, view, parts)
    there = _there(model, batch, spender, cuts, layout, seen)
    more = _encoded(model, batch, pixels, (there > 0) & ~view, parts)
    one = seen or more
    assert one is not None
    like = next(iter(parts.values()))
    rows = torch.cat([parts.get(i, like.new_zeros(count, like.shape[1])) for i, count in enumerate(layout.counts)])
    return unpacked(rows, layout, like=one), torch.where(view, 1.0, there)


def _encoded(
    model: "Sight", batch: Batch, pixels: Pixels, wanted: Bool[Tensor, " T"], parts: dict[int, Tensor]
) -> VisualTokens | None:
    """The tokens of some tiles, each an image by itself; all they say goes into `parts` by the tiles' numbers."""
    places = wanted.nonzero()[:, 0].tolist()
    if not places:
        return None
    sizes = None if pixels.sizes is None else tuple(pixels.sizes[i] for i in places)
    some = replace(Pixels.whole(pixels.values[wanted]), sizes=sizes)
    seen = model.tiled(replace(batch, visual=some, owner=batch.owner[pixels.image[wanted]]))
    assert seen is not None
    parts.update(zip(places, packed(seen).split(seen.layout.counts), strict=True))
    return seen


def _views(tiles: VisualTokens, cuts: Cuts) -> VisualTokens:
    """The views alone, as images."""
    places = [i for i, spot in enumerate(spot for cut in cuts for spot in cut.spots) if spot == (-1, -1)]
    layout, offsets = tiles.layout, tiles.layout.offsets
    rows = [tiles.features[offsets[i] : offsets[i + 1]] for i in places] or [tiles.features[:0]]
    some = Layout(counts=tuple(layout.counts[i] for i in places), grids=tuple(layout.grids[i] for i in places))
    return VisualTokens.on_layout(torch.cat(rows), some)


def _there(
    model: "Sight", batch: Batch, spender: Any, cuts: Cuts, layout: Layout, views: VisualTokens | None
) -> Float[Tensor, " T"]:
    """1 for tiles that are needed: all of an image within the budget, without a view or whose strategy cannot tell."""
    there = [torch.ones(cut.tiles, device=batch.input_ids.device) for cut in cuts]
    cover = getattr(spender, "cover", 1.0)
    if not hasattr(spender, "glance") or cover >= 1 or views is None:
        return torch.cat(there)
    joined, query = model.joined.plan(layout, cuts), model.query(batch)
    for i, cells, at in _viewed(cuts, views):
        if joined.counts[i] > spender.budget:
            seen = spender.glance(views.features[at], cells, query, int(query.owner[i]))
            share = of_tiles(seen, cuts[i], cells)
            there[i] = gated(needed(share.detach(), cover), share)
    return torch.cat(there)


def glanced(
    model: "Sight", batch: Batch, spender: Any, tiles: VisualTokens
) -> Iterator[tuple[int, Cut, Grid, Float[Tensor, " N"]]]:
    """Of each image that is in tiles and has a view: its number, its cut, the view's cells, and what each is worth."""
    cuts = tiles.cuts or ()
    views, query = _views(tiles, cuts), model.query(batch)
    for i, cells, at in _viewed(cuts, views):
        yield i, cuts[i], cells, spender.glance(views.features[at], cells, query, int(query.owner[i]))


def _viewed(cuts: Cuts, views: VisualTokens) -> Iterator[tuple[int, Grid, slice]]:
    """The images in tiles that have a view on a grid: their numbers, its cells, and where its tokens are."""
    number = 0
    for i, cut in enumerate(cuts):
        if cut.view == "none" or cut.frames:
            number += cut.frames
            continue
        at, cells = slice(*views.layout.offsets[number : number + 2]), views.layout.grids[number]
        number += 1
        if cut.grid != (0, 0) and cells is not None:
            yield i, cells, at
