"""A batch laid out anew for fewer visual tokens than it was made for: its places shrink with its images."""

from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch, Cache, Fan, Layout, VisualTokens
from foveal.layers.masks import in_conversation
from foveal.layers.thinning import thinner


def relaid(batch: Batch, *, before: Layout, after: Layout, seen: VisualTokens) -> Batch:
    """The batch whose images are `seen` already and have lost tokens since it was laid out, `before`, and now `after`.

    One that was laid out for what is left already is `seen`, and else as it is. Words keep their order. Positions on
    several axes stay as they were, and a token that is left stands in the middle of what it holds; others are counted
    on, until `stretched` says where they had been. Rows are padded on their right.
    Raises InputError where the batch says which words each visual token shows, for these tokens are no longer there,
    and where its places are those of neither layout.
    """
    if batch.alignment is not None:
        raise InputError(
            "visual tokens that are aligned with words cannot be cut; leave the alignment out, or the budget"
        )
    if before.places == after.places and before.offsets == after.offsets:
        return replace(batch, seen=seen)
    if not _fits(batch.image_slot, before):
        if not _fits(batch.image_slot, after):
            raise InputError(misplaced(int(batch.image_slot.max()) + 1, before.total))
        return replace(batch, seen=seen)
    image, rank = _images(batch.image_slot, before)
    left = torch.tensor(after.places, device=image.device)[image]
    keep = batch.valid & ((batch.image_slot < 0) | (rank < left))
    positions = _positions(batch, before, seen, keep)
    slots = torch.where(batch.image_slot >= 0, torch.tensor(after.offsets, device=image.device)[image] + rank, -1)
    slots = torch.where(batch.image_slot < 0, batch.image_slot, slots)
    fan, at, real = _left(batch, keep)
    made = replace(batch, positions=positions, image_slot=slots).only(at)
    return replace(
        made,
        prompt=made.prompt & real,
        image_slot=torch.where(real, made.image_slot, -1),
        labels=None if made.labels is None else torch.where(real, made.labels, IGNORE),
        valid=real,
        begin=None if batch.begin is None else (at == batch.begin[:, None]).int().argmax(1),
        fan=fan,
        full=batch.full and bool(real.all()),
        seen=replace(seen, before=None) if positions is not None and positions.ndim == 3 else seen,
    )


def misplaced(laid: int, total: int) -> str:
    """What is told of a text with places for so many visual tokens, whose images have another total."""
    return f"the text has places for {laid} visual tokens and its images have {total}; lay it out by the model's plan"


def stretched(batch: Batch, seen: VisualTokens | None, cache: Cache | None = None) -> Batch:
    """The batch with each token in the place that it would have had `before` the budget: what is left of an image in
    the middle of what it holds, and words as far from it as ever: so a model finds both where it was taught to. What a
    cache reads later goes on from there. Raises InputError for a text with places for other tokens than there are.
    """
    if seen is None or seen.before is None or seen.before.counts == seen.layout.counts:
        return batch
    if not _fits(batch.image_slot, seen.layout):
        raise InputError(misplaced(int(batch.image_slot.max()) + 1, seen.layout.total))
    image, rank = _images(batch.image_slot, seen.layout)
    shown = batch.image_slot >= 0
    lost = torch.tensor(seen.before.counts, device=image.device) - torch.tensor(seen.layout.counts, device=image.device)
    ends = shown & (rank == torch.tensor(seen.layout.counts, device=image.device)[image] - 1)
    gone = torch.where(ends, lost[image], 0)
    known = batch.positions
    if known is not None and known.ndim == 3:
        return replace(batch, positions=known + _inside(seen, known)[(batch.image_slot + 1).clamp(min=0)])
    if known is None:
        known = (batch.valid.cumsum(1) - 1).clamp(min=0)
        if cache is not None:
            known = known + cache.tokens[:, None] + (0 if cache.shift is None else cache.shift[:, None])
    plain = batch.positions is None and batch.segment is None and batch.branch is None
    shift = gone.cumsum(1) - gone if plain else (gone[:, None] * _earlier(batch, known)).sum(-1)
    old = _middles(seen.before, seen).to(image.device)[batch.image_slot.clamp(min=0)]
    inside = old - torch.tensor(seen.before.offsets, device=image.device)[image] - rank
    if cache is not None:
        cache.shift = gone.sum(1) if cache.shift is None else cache.shift + gone.sum(1)
    return replace(batch, positions=known + shift + torch.where(shown, inside, 0))


def _fits(slots: Int[Tensor, "B L"], layout: Layout) -> bool:
    """Whether the text has all places of each image, or none, and no others; compiled, nobody asks."""
    if torch.compiler.is_compiling():
        return True
    laid = torch.bincount(slots[slots >= 0], minlength=layout.total) > 0
    if len(laid) > layout.total:
        return False
    found = (int(part.sum()) for part in laid.split(layout.counts))
    return all(count in (0, places) for count, places in zip(found, layout.places, strict=True))


def _inside(seen: VisualTokens, like: Tensor) -> Int[Tensor, "R 3"]:
    """How far each token of a cut image is from where it begins, in time, rows and columns; before them, a word's."""
    assert seen.before is not None
    before, cells = seen.before, [0 if grid is None else grid[0] * grid[1] for grid in seen.before.grids]
    before = replace(before, counts=tuple(map(max, before.counts, cells)))  # axes go on over all cells of a grid
    parts, old = [like.new_zeros(1, 3)], _middles(before, seen).to(like.device).split(seen.layout.counts)
    for mine, grid, first, left in zip(old, before.grids, before.offsets, seen.layout.grids, strict=False):
        if grid is None or left is not None:  # laid out where it is
            parts.append(like.new_zeros(len(mine), 3))
            continue
        inside = mine - first
        parts.append(torch.stack([0 * inside, inside // grid[1], inside % grid[1]], dim=-1))
    return torch.cat(parts)


def _earlier(batch: Batch, positions: Int[Tensor, "B L"]) -> Bool[Tensor, "B L L"]:
    """Which tokens each one comes after, in its own conversation: its trunk and its own branch."""
    return in_conversation(positions[:, None, :] < positions[:, :, None], batch.segment, batch.branch)


def _images(slots: Int[Tensor, "B L"], layout: Layout) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    """The image of each place (any for words), and which of the image's tokens stands there."""
    offsets = torch.tensor(layout.offsets, device=slots.device)
    image = torch.bucketize(slots.clamp(min=0), offsets[1:], right=True).clamp(max=max(0, len(layout.counts) - 1))
    return image, slots - offsets[image]


def _left(batch: Batch, keep: Bool[Tensor, "B L"]) -> tuple[Fan | None, Int[Tensor, "B Q"], Bool[Tensor, "B Q"]]:
    """The fan of what is left if it is still one, the places that are left in order, and which are no filling."""
    if batch.fan is not None:
        trunk = torch.arange(keep.shape[1], device=keep.device) < batch.fan.trunk
        laid = keep | ~trunk  # branches stay as they are laid out
        counts = laid.sum(1)
        if bool((counts == counts[0]).all()) and bool(((batch.image_slot < 0) | trunk).all()):
            at = first(laid, int(counts[0]))
            fan = thinner(batch.fan, at, keep.shape[1])
            if fan is not None:
                return fan, at, batch.valid.gather(1, at)
    most = int(keep.sum(1).max())
    at = first(keep, most)
    return None, at, keep.gather(1, at)


def first(keep: Bool[Tensor, "B L"], most: int) -> Int[Tensor, "B Q"]:
    """So many places of each row, those to keep before the others, both in their order."""
    return keep.byte().argsort(dim=1, descending=True, stable=True)[:, :most]


def _positions(batch: Batch, before: Layout, seen: VisualTokens, keep: Bool[Tensor, "B L"]) -> Tensor | None:
    """Positions of all places, of which those to keep count."""
    known = batch.positions
    if known is None:
        return None
    if known.ndim == 2:
        gone = (batch.valid & ~keep)[:, None, :]
        return known - (gone & _earlier(batch, known)).sum(-1)
    middle = torch.arange(int(batch.image_slot.max()) + 1, device=known.device)  # each token's old place, at its own
    middle[: seen.layout.total] = _middles(before, seen).to(known.device)
    image, rank = _images(batch.image_slot, before)
    new = (torch.tensor(seen.layout.offsets, device=known.device)[image] + rank).clamp(0, len(middle) - 1)
    shift = torch.where((batch.image_slot >= 0) & keep, middle[new] - batch.image_slot, 0)
    place = torch.arange(known.shape[1], device=known.device) + shift  # an image's places stand side by side
    return known.take_along_dim(place.clamp(0, known.shape[1] - 1)[..., None], 1)


def _middles(before: Layout, seen: VisualTokens) -> Int[Tensor, " S"]:
    """Which of the tokens `before` stands in the middle of what each token holds; on no grid: in its own place.

    Where there were fewer than cells, each stood for its share of these, in their order.
    """
    parts, start = [], seen.layout.offsets
    for number, (count, grid, first) in enumerate(zip(before.counts, before.grids, before.offsets, strict=False)):
        boxes = seen.boxes[start[number] : start[number + 1], :4]
        if grid is None or len(boxes) == count or grid[0] * grid[1] < count:
            parts.append(first + torch.arange(len(boxes), device=boxes.device))
            continue
        x, y = ((boxes[:, i] + boxes[:, i + 2]) / 2 for i in (0, 1))
        row = (y * grid[0]).long().clamp(0, grid[0] - 1)
        column = (x * grid[1]).long().clamp(0, grid[1] - 1)
        parts.append(first + (row * grid[1] + column) * count // (grid[0] * grid[1]))
    return torch.cat(parts)
