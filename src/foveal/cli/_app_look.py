"""What the microscope sees of one answer: its cost against all tokens, and every map on the way to it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foveal.cli import _looked
from foveal.cli._app_wish import Wish
from foveal.core.errors import InputError
from foveal.core.types import Answer, Batch, Grid, Looked, Relevance, VisualTokens

if TYPE_CHECKING:
    from PIL.Image import Image

_LONGER = 320  # pixels of the longer side of a panel
_CELLS = 32  # of textures along it


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture of the page, under the heading of its group; a note says what it shows or why it is absent."""

    group: str
    name: str
    drawn: "Image | None" = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Told:
    """An answer with its seconds."""

    answer: Answer
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Lens:
    """The three ways of knowing of a picture on the grid of its visual tokens; `keys` are what each split gains."""

    looked: Relevance
    keys: Tensor

    def worth(self, price: float) -> int:
        """How many tokens the picture is worth at this price a token."""
        from foveal.relevance.balancing import affordable

        return int(affordable(self.keys[None], price, least=1, most=self.keys.shape[-1] + 1))

    def price(self, budget: int) -> float | None:
        """What the last token of a budget gains; None: it is the first."""
        return float(self.keys[min(budget, len(self.keys) + 1) - 2]) if budget > 1 and len(self.keys) else None


def timed(model: Any, processor: Any, picture: "Image", wish: Wish) -> Told:
    """The answer of a model as it is (it may be a view that spends a budget), and its seconds: the fewer of two times.

    The first time also prepares what all later ones use.
    """
    from foveal.models.talk import answer

    def once() -> Told:
        started = time.perf_counter()
        told = answer(model, processor, [picture], wish.question, max_new_tokens=wish.max_new_tokens)
        return Told(answer=told, seconds=time.perf_counter() - started)

    return min(once(), once(), key=lambda told: told.seconds)


@torch.inference_mode()
def lens(model: Any, processor: Any, picture: "Image", wish: Wish) -> Lens:
    """How ours would look at the picture, whatever strategy answers.

    Raises InputError where the visual tokens lie on no grid, and takes the errors of `budgeted`.
    """
    from foveal.models.budget import allocator_of, budgeted, unspent
    from foveal.relevance.allocation import allocate
    from foveal.relevance.balancing import WAYS

    free: Any = unspent(model)
    view = budgeted(free, 1, **wish.tensions)
    ours: Any = allocator_of(view)
    batch = _batch(free, processor, picture, wish)
    seen = view.whole(batch)
    grid = None if seen is None else seen.layout.grids[0]
    if seen is None or grid is None:
        raise InputError("the visual tokens of this model lie on no grid, so there is no map of them to draw")
    query = free.query(batch)
    known = ours.beside(seen, [0])
    maps = ours.knowing(seen.features[None], grid, query, query.owner[:1], **known)
    shares = ours.shares(maps, grid, query, query.owner[:1])
    made = allocate(seen.features, grid=grid, budget=seen.layout.total, relevance=shares[0])
    looked = Relevance(
        names=WAYS, maps=maps[0].unflatten(-1, grid), shares=shares[0].unflatten(-1, grid), boxes=made.boxes.float()
    )
    return Lens(looked=looked, keys=made.keys.float().cpu())


@torch.inference_mode()
def panels(model: Any, processor: Any, picture: "Image", wish: Wish, *, told: Told, seen: "Lens | None") -> list[Panel]:
    """Every picture of one side; what a model cannot tell is a note in its place."""
    plain = picture.copy()
    plain.thumbnail((_LONGER, _LONGER))
    return [
        *_standing(model, processor, picture, wish, plain=plain, told=told),
        *_knowing(looked_at(processor, picture, told, seen), plain),
        *_textures(picture, plain.size),
    ]


def _standing(
    model: Any, processor: Any, picture: "Image", wish: Wish, *, plain: "Image", told: Told
) -> Iterator[Panel]:
    """Where the tokens stand, and what the language model takes of each."""
    from foveal.models.attended import attended

    batch = _batch(model, processor, picture, wish)
    batch = replace(batch, seen=model.see(batch))
    size, seen = (picture.height, picture.width), batch.seen
    found = told.answer.relevance[0] if told.answer.relevance else None
    boxes = [] if seen is None else _boxes(seen, found, size, processor)
    if not boxes:
        yield Panel(group="tokens", name="partition", note="the tokens of this model have no place in the picture")
    else:
        drawn = _looked.detailed(plain, boxes, picture.size)
        note = "bright: fine; dark: coarse" if found is not None else "where each token stands"
        yield Panel(group="tokens", name="partition", drawn=drawn, note=note)
    try:
        shares = attended(model, batch).cpu().tolist()
    except InputError as reason:
        yield Panel(group="tokens", name="attention", note=str(reason))
        return
    if boxes and len(boxes) == len(shares):
        even = [share / area for share, area in zip(shares, _looked.areas_of(boxes), strict=True)]
        drawn = _looked.painted(plain, boxes, [each / max(*even, 1e-12) for each in even], picture.size)
        note = f"what the first word of the answer takes of each, by area; {100 * sum(shares):.0f}% is for the picture"
        yield Panel(group="tokens", name="attention", drawn=drawn, note=note)


def looked_at(processor: Any, picture: "Image", told: Told, seen: Lens | None) -> Looked | None:
    """What steered an answer, or else how ours would have looked, over the picture; None: neither is known."""
    from foveal.models.seeing import over_picture

    found = told.answer.relevance[0] if told.answer.relevance else None
    if found is not None or seen is None:
        return found
    return over_picture(seen.looked, (picture.height, picture.width), processor.transform)


def _knowing(one: Looked | None, plain: "Image") -> Iterator[Panel]:
    if one is None:
        return
    for name, values in zip(one.names, one.maps, strict=True):
        yield Panel(group="knowing", name=name, drawn=_looked.heat(plain, values.cpu()))
    yield Panel(group="knowing", name="relevance", drawn=_looked.heat(plain, one.shares.cpu()))


def _textures(picture: "Image", shown: tuple[int, int]) -> Iterator[Panel]:
    """What the patches of the picture itself look like, before any encoder."""
    import numpy as np

    from foveal.relevance.texture import CHANNELS, texture

    small = picture.copy()
    small.thumbnail((_CELLS * 8, _CELLS * 8))
    grid = (max(1, small.height // 8), max(1, small.width // 8))
    pixels = torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)[None].float() / 255
    values = texture(pixels, grid)[0].T.unflatten(-1, grid)
    for name, one in zip(CHANNELS, values, strict=True):
        yield Panel(group="texture", name=name.replace("_", " "), drawn=_looked.flat(one, shown))


def _batch(model: Any, processor: Any, picture: "Image", wish: Wish) -> Batch:
    device = next(model.parameters()).device
    return processor.prompt([([picture], wish.question)], plan=model.plan, room=wish.max_new_tokens).to(device)


def _boxes(seen: VisualTokens, found: Looked | None, size: Grid, processor: Any) -> list[list[float]]:
    """Where each token lies in the picture (y0 x0 y1 x1 in its pixels): what it stands for, or where it stands."""
    if found is not None and len(found.boxes) == seen.layout.total:
        return found.boxes.tolist()
    if seen.boxes.shape[-1] < 4 or (len(seen.boxes) > 1 and bool((seen.boxes == seen.boxes[0]).all())):
        return []  # latents lie nowhere: each stands for the whole of the picture
    place, (high, wide) = processor.transform.place(size), processor.transform.grid

    def brought(value: float, whole: int, shift: float, scale: float, most: int) -> float:
        return min(max((value * whole - shift) / scale, 0.0), float(most))

    boxes = []
    for x0, y0, x1, y1 in seen.boxes[:, :4].tolist():
        y = [brought(value, high, place.top, place.scale_y, size[0]) for value in (y0, y1)]
        x = [brought(value, wide, place.left, place.scale_x, size[1]) for value in (x0, x1)]
        boxes.append([y[0], x[0], y[1], x[1]])
    return boxes
