"""Visual tokens stand in the text where their image is: before, between or after the words (LLaVA, 2304.08485)."""

from dataclasses import dataclass

import torch
from torch import nn

from foveal.core.types import Stream, VisualTokens
from foveal.layers.places import Places


@dataclass(frozen=True, kw_only=True)
class Config:
    """`places` octaves tell each token where its box lies in the image (0: order alone tells, as in LLaVA)."""

    places: int = 0


class Prefix(nn.Module):
    """One gather puts `features[S D]` into the stream's slots; the layers stay as they are."""

    causal = True

    def __init__(self, *, width: int, depth: int, places: int = 0) -> None:
        super().__init__()
        self.place = Places(width=width, octaves=places) if places else None

    def at_input(self, stream: Stream, visual: VisualTokens | None) -> Stream:
        """Replace the embedding of every slot by its visual token."""
        if visual is None or visual.features.shape[0] == 0:
            return stream
        features = visual.features
        if self.place is not None:
            features = features + self.place(visual)
        chosen = features[stream.slots.clamp(min=0)].to(stream.hidden.dtype)
        return stream.with_hidden(torch.where(stream.slots[..., None] >= 0, chosen, stream.hidden))

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """Nothing happens between the layers."""
        return stream
