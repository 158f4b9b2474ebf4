"""Words and regions are tokens of one stream from the first layer on (VisualBERT, 1908.03557)."""

from dataclasses import dataclass

import torch
from torch import nn

from foveal.core.types import Stream, VisualTokens
from foveal.layers.initial import small_normal
from foveal.layers.numbers import Numbers
from foveal.layers.places import Places


@dataclass(frozen=True, kw_only=True)
class Config:
    """`types` and `positions` are the sizes of sight's own tables, beside those of the words.

    `places` octaves tell each token where its box lies (0: features alone tell, as in VisualBERT). The first `images`
    of a row are told apart (0: all look alike).
    """

    types: int = 2
    positions: int = 512
    places: int = 0
    images: int = 0


class SingleStream(nn.Module):
    """Adds features, a visual type and a visual position to what the language says of each visual token's place."""

    causal = False
    early = True  # sight enters before the first layer and nowhere else

    def __init__(
        self, *, width: int, depth: int, types: int = 2, positions: int = 512, places: int = 0, images: int = 0
    ) -> None:
        super().__init__()
        self.types = nn.Embedding(types, width)
        self.positions = nn.Embedding(positions, width)
        self.apply(small_normal)
        self.place = Places(width=width, octaves=places) if places else None
        self.number = Numbers(images=images, width=width) if images else None

    def at_input(self, stream: Stream, visual: VisualTokens | None) -> Stream:
        """Fill the slots `[B L D]`; every visual token has position 0 of its own table."""
        if visual is None or visual.features.shape[0] == 0:
            return stream
        seen = stream.slots >= 0
        types = seen.long() if stream.types is None else stream.types
        features = visual.features if self.place is None else visual.features + self.place(visual)
        sight = features[stream.slots.clamp(min=0)] + (self.types(types) + self.positions.weight[0])
        if self.number is not None:
            sight = sight + self.number(stream, visual)
        return stream.with_hidden(stream.hidden + torch.where(seen[..., None], sight, 0.0).to(stream.hidden.dtype))

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """Nothing happens between the layers."""
        return stream
