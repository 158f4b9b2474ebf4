"""Two streams that look at each other by one shared attention between their layers (LXMERT, 1908.07490)."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Stream, VisualTokens
from foveal.layers.blocks import PostNormBlock
from foveal.layers.initial import small_normal
from foveal.layers.meeting import Meeting, at_all_places, itself, places_of, words_alone


@dataclass(frozen=True, kw_only=True)
class Config:
    """Before each of the last `cross` language layers both streams meet; `alone` layers of sight come before that.

    `inner` is the width of sight's feed-forward (None: four times the width).
    """

    cross: int = 1
    alone: int = 1
    heads: int = 4
    inner: int | None = None
    activation: str = "gelu"
    eps: float = 1e-12


class CrossModality(nn.Module):
    """Sight is a stream of its own, `[B M D]`, which the language layers do not read, and at last stands in its slots.

    Raises InputError for more meetings than language layers, and for a language model that does not say which tokens
    are valid.
    """

    causal = False
    reads_valid = True  # of the stream

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        cross: int = 1,
        alone: int = 1,
        heads: int = 4,
        inner: int | None = None,
        activation: str = "gelu",
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        if not 0 < cross <= depth:
            raise InputError(f"{cross} meetings of words and sight in {depth} language layers; give 1 to {depth}")
        self.depth, self.first = depth, depth - cross
        block = partial(
            PostNormBlock, width=width, heads=heads, inner=inner or 4 * width, activation=activation, eps=eps
        )  # fmt: skip
        self.alone = nn.ModuleList(block() for _ in range(alone))
        self.sight = nn.ModuleList(block() for _ in range(cross))
        self.meetings = nn.ModuleList(Meeting(width=width, heads=heads, eps=eps) for _ in range(cross))
        self.apply(small_normal)

    def at_input(self, stream: Stream, visual: VisualTokens | None) -> Stream:
        """The words alone, and beside them sight's stream after its own layers."""
        if visual is None or visual.features.shape[0] == 0:
            return stream
        places = places_of(stream.slots >= 0)
        slots = stream.slots.gather(1, places)
        mask = (self._valid(stream).gather(1, places) & (slots >= 0))[:, None, None]
        sight = visual.features[slots.clamp(min=0)].to(stream.hidden.dtype)
        for block in self.alone:
            sight = block(sight, mask=itself(mask))
        words = words_alone(stream, stream.slots < 0)
        return replace(words, memory=sight, memory_mask=mask)

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """Meet before the last layers; after them sight's states stand in their slots."""
        if index < self.first:
            return stream
        if index == self.depth:
            return self._placed(stream)
        hidden, sight, meeting = stream.hidden, stream.memory, self.meetings[index - self.first]
        if sight is None or stream.memory_mask is None:
            return stream.with_hidden(meeting(hidden, None, mask=None))
        words = meeting(hidden, sight, mask=stream.memory_mask)
        sight = meeting(sight, hidden, mask=self._words(stream))
        sight = self.sight[index - self.first](sight, mask=itself(stream.memory_mask))
        return replace(stream, hidden=words, memory=sight)

    def _words(self, stream: Stream) -> Bool[Tensor, "B 1 1 L"]:
        return (self._valid(stream) & (stream.slots < 0))[:, None, None]

    def _valid(self, stream: Stream) -> Bool[Tensor, "B L"]:
        if stream.valid is None:
            raise InputError("the language model does not say which tokens are valid; take 'encoder' with this fusion")
        return stream.valid

    def _placed(self, stream: Stream) -> Stream:
        if stream.whole is None or stream.memory is None or stream.memory_mask is None:
            return stream
        told = at_all_places(stream)
        places = places_of(told.slots >= 0)[..., None].expand_as(stream.memory)
        there = stream.memory_mask[:, 0, 0, :, None]
        kept = torch.where(there, stream.memory, told.hidden.gather(1, places))
        return told.with_hidden(told.hidden.scatter(1, places, kept.to(told.hidden.dtype)))
