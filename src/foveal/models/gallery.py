"""Pictures that are encoded once, whatever is asked of them and however little of them is read."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Cut, Patches, Pixels, VisualTokens
from foveal.layers.albums import taken, together
from foveal.models.parts import Sight, encoded
from foveal.preprocess.collate import identity
from foveal.preprocess.image import Part, Whole, in_memory, stamp
from foveal.preprocess.processor import Processor

ROOM = 2**30  # bytes


class Gallery:
    """What a model's encoder says of pictures, and what else it `needs` to, kept as far as there is `room` (bytes).

    A file or an array that changes is seen anew; any other picture in memory is held, and counts as what it first was.
    Videos, patches, and tiles that an encoder joins are given as they are, to be encoded by whoever asks. Raises
    InputError for a model without an encoder.
    """

    def __init__(self, model: Sight, processor: Processor, *, needs: tuple[str, ...] = (), room: int = ROOM) -> None:
        if model.vision is None:
            raise InputError(
                "this model reads features made elsewhere and sees no pictures; name a run with an encoder"
            )
        self.vision, self.processor, self.needs, self.room = model.vision, processor, needs, room
        self.device = next(model.parameters()).device
        self.kept: dict[Any, VisualTokens] = {}
        self.held: dict[Any, Any] = {}  # or a new picture might take the place in memory that one is known by

    def __call__(self, images: Sequence[Any]) -> VisualTokens | Pixels | Patches:
        """The tokens of these pictures, in order."""
        names = [_name(image) for image in images]
        new = {name: image for name, image in zip(names, images, strict=True) if name not in self.kept}
        found = dict(self.kept)
        if new:
            pixels = self.processor.pixels(list(new.values()))
            joins = getattr(self.vision, "reads_tiles", False)
            if isinstance(pixels, Patches) or pixels.frames is not None or (joins and pixels.cuts is not None):
                return self.processor.pixels(images)
            found |= self._seen(new, pixels)
        return together([found[name] for name in names])

    def fill(self, images: Iterable[Any], *, size: int) -> None:
        """See these pictures now, so many at a time, as far as there is room."""
        every = list({_name(image): image for image in images}.values())
        for start in range(0, len(every), size):
            if self.room <= 0:
                return
            self(every[start : start + size])

    @torch.no_grad()
    def _seen(self, images: dict[Any, Any], pixels: Pixels) -> dict[Any, VisualTokens]:
        seen = encoded(self.vision, pixels.to(self.device), self.needs)
        cuts: Sequence[Cut | None] = pixels.cuts or [None] * len(images)
        ends = accumulate((1 if cut is None else cut.tiles for cut in cuts), initial=0)
        parts = [taken(seen, range(begin, end)) for begin, end in pairwise(ends)]
        parts = [part if cut is None else replace(part, cuts=(cut,)) for part, cut in zip(parts, cuts, strict=True)]
        found = dict(zip(images, parts, strict=True))
        for name, one in found.items():
            if self.room > 0:
                self.kept[name], self.held[name] = one, images[name]
                self.room -= _bytes(one) + in_memory(images[name])
        return found


def _name(image: Any) -> Any:
    """What a picture is known by: as it is now, where it is a file or an array."""
    source = image.image if isinstance(image, Part | Whole) else image
    return identity(image), crc32(source.tobytes()) if isinstance(source, np.ndarray) else stamp(source)


def _bytes(visual: VisualTokens) -> int:
    parts = (visual.features, visual.attention, visual.keys, visual.classes, *visual.levels)
    return sum(part.numel() * part.element_size() for part in parts if isinstance(part, Tensor))
