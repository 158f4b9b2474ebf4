"""Sight at several encoder depths enters at several decoder depths, where its image stands (DeepStack of Qwen3-VL)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from foveal.core.errors import InputError
from foveal.core.types import Stream, VisualTokens
from foveal.fusion.prefix import Prefix


@dataclass(frozen=True, kw_only=True)
class Config:
    """`after` names the decoder layers, counted from 0, behind which the encoder's levels are added, in its order.

    Qwen3-VL of 27 encoder layers has its levels 9, 17, 25 (counted from 1) after 0, 1, 2. `places` octaves tell each
    token that enters at the input where its box lies, as in `prefix`.
    """

    after: tuple[int, ...] = (0, 1, 2)
    places: int = 0


class Deepstack(nn.Module):
    """`features[S D]` stand in the stream's slots as in `prefix`; each of `levels[S D]` is added there after its layer.

    Raises InputError for a layer that the decoder lacks or that is named twice, and for another number of levels.
    """

    causal = True

    def __init__(self, *, width: int, depth: int, after: Sequence[int] = (0, 1, 2), places: int = 0) -> None:
        super().__init__()
        if not after or len(set(after)) < len(after) or not all(0 <= layer < depth for layer in after):
            raise InputError(
                f"deepstack adds levels after layers {tuple(after)} of a decoder of {depth}; "
                f"give each level another layer, 0 to {depth - 1}"
            )
        self.prefix = Prefix(width=width, depth=depth, places=places)
        self.level = {layer + 1: number for number, layer in enumerate(after)}

    @property
    def levels(self) -> int:
        """How many of the encoder's levels it reads."""
        return len(self.level)

    def at_input(self, stream: Stream, visual: VisualTokens | None) -> Stream:
        """Fill the slots and keep the levels for later."""
        stream = self.prefix.at_input(stream, visual)
        if visual is None or visual.features.shape[0] == 0:
            return stream
        if len(visual.levels) != self.levels:
            raise InputError(
                f"visual tokens of {len(visual.levels)} levels for a deepstack of {self.levels}; "
                "name as many in vision.levels as in fusion.after"
            )
        return replace(stream, levels=visual.levels)

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """Add the level that follows the layer before this one."""
        if index not in self.level or not stream.levels:
            return stream
        added = stream.levels[self.level[index]][stream.slots.clamp(min=0)].to(stream.hidden.dtype)
        return stream.with_hidden(torch.where(stream.slots[..., None] >= 0, stream.hidden + added, stream.hidden))
