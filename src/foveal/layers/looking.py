"""Which images of its row each token may look at, and where their tokens lie."""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Stream, VisualTokens
from foveal.layers.masks import in_conversation
from foveal.layers.meeting import places_of


class View(NamedTuple):
    """Each row's images laid out side by side: which visual tokens, where there are any, and who sees them."""

    index: Int[Tensor, "B M"]
    there: Bool[Tensor, "B 1 1 M"]
    seen: Bool[Tensor, "B 1 L M"]


def by_markers(stream: Stream, visual: VisualTokens, *, last: bool, together: bool = False) -> View:
    """Tokens see the images that begin at or before them, of their own segment, in the trunk or their own branch.

    With `last` it is the last of these alone, or `together` with it those that no word parts from it. Rows may share an
    image: so the rows say, not the images.
    """
    places, real, sees = begun(stream, visual)
    if together:
        words = (stream.slots < 0).cumsum(1).gather(1, places)[:, None]  # before each image: one number is one group
        sees &= words == torch.where(sees, words, -1).amax(-1, keepdim=True)
    elif last:
        sees &= sees.flip(-1).cumsum(-1).flip(-1) == 1
    return _laid(visual.image[stream.slots.clamp(min=0).gather(1, places)], real, visual, sees)


def begun(
    stream: Stream, visual: VisualTokens
) -> tuple[Int[Tensor, "B N"], Bool[Tensor, "B N"], Bool[Tensor, "B L N"]]:
    """The places where each row's images begin, which of these are real, and which a token finds behind or at it."""
    opens = visual.image.diff(prepend=visual.image[:1] - 1) != 0
    first = (stream.slots >= 0) & opens[stream.slots.clamp(min=0)]
    places = places_of(first)
    real = first.gather(1, places)
    before = real[:, None] & (places[:, None] <= torch.arange(first.shape[1], device=first.device)[:, None])
    return places, real, in_conversation(before, stream.segment, stream.branch, keys=places)


def as_told(looks: Bool[Tensor, "B L *N"], owner: Int[Tensor, " I"], visual: VisualTokens) -> View:
    """Tokens see the images of their row, in order, that `looks` names; or of each image `[B L N P]` the equal parts.

    What a budget has left of an image is seen as a whole. Raises InputError for a row that owns more images than it
    tells of, for images that have no such parts, and for cut ones of which a token sees some parts only.
    """
    rows, told = looks.shape[0], looks.shape[2]
    number = (owner[:, None] == owner).tril(-1).sum(1)
    if not torch.compiler.is_compiling() and len(owner) and (most := int(number.max()) + 1) > told:
        raise InputError(f"a row has {most} images, but its looks tell of {told}; give both the same number")
    images = owner.new_zeros(rows, told)
    images[owner, number] = torch.arange(len(owner), device=owner.device)
    real = torch.zeros_like(images, dtype=torch.bool)
    real[owner, number] = True
    if looks.ndim == 3:
        return _laid(images, real, visual, looks & real[:, None])
    if visual.before is not None and visual.before.counts != visual.layout.counts:
        return _laid(images, real, visual, _alike(looks) & real[:, None])
    sizes, parts = set(visual.layout.counts), looks.shape[3]
    if len(sizes) != 1 or (size := sizes.pop()) % parts:
        raise InputError(f"images of {visual.layout.counts} tokens in {parts} parts each; give all the same multiple")
    view = _laid(images, real, replace(visual, masked=None), real[:, None].expand(looks.shape[:3]))
    return view._replace(seen=view.there & looks.flatten(2).repeat_interleave(size // parts, -1)[:, None])


def _alike(looks: Bool[Tensor, "B L N P"]) -> Bool[Tensor, "B L N"]:
    """Which images are looked at, whose parts are all looked at alike."""
    seen = looks.any(-1)
    if not torch.compiler.is_compiling() and bool((looks != seen[..., None]).any()):
        raise InputError(
            "looks tell the parts of an image apart, and a budget has cut across these; look at all parts of it, or "
            "ask without a budget"
        )
    return seen


def _laid(
    images: Int[Tensor, "B N"], real: Bool[Tensor, "B N"], visual: VisualTokens, sees: Bool[Tensor, "B L N"]
) -> View:
    sizes, begins = torch.tensor(
        [visual.layout.counts, visual.layout.offsets[:-1]], dtype=torch.long, device=images.device
    )
    place = torch.arange(max(visual.layout.counts), device=images.device)
    there = real[..., None] & (place < sizes[images][..., None])
    index = torch.where(there, begins[images][..., None] + place, 0)
    shown = there if visual.masked is None else there & ~visual.masked[index]
    seen = sees[..., None] & shown[:, None]
    return View(index.flatten(1), there.flatten(1)[:, None, None], seen.flatten(2)[:, None])
