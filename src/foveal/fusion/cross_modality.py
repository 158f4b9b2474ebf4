"""Two streams that look at each other by one shared attention between their layers (LXMERT, 1908.07490)."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Stream, VisualTokens
from foveal.layers.blocks import PostNormBlock
from foveal.layers.cross_attention import CrossAttention
from foveal.layers.initial import small_normal


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


class Meeting(nn.Module):
    """Words look at sight and sight at words, both as they came, with the same weights."""

    def __init__(self, *, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.attention, self.norm = CrossAttention(width=width, heads=heads), nn.LayerNorm(width, eps=eps)

    def forward(
        self, hidden: Float[Tensor, "B L D"], other: Float[Tensor, "B M D"], *, mask: Bool[Tensor, "B 1 1 M"]
    ) -> Float[Tensor, "B L D"]:
        """Look, add, norm; a row that has nothing to look at adds nothing."""
        some = mask.any(-1, keepdim=True)
        found = self.attention(hidden, self.attention.read(other), mask=mask | ~some)
        return self.norm(hidden + found * some[:, 0])


class CrossModality(nn.Module):
    """Sight is a stream of its own, `[B M D]`, hidden from the language layers, and at last stands in its slots.

    Raises InputError for more meetings than language layers, and for a language model that does not say which tokens
    are valid.
    """

    causal = False

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
        """Sight's stream after its own layers; words no longer see its slots."""
        if visual is None or visual.features.shape[0] == 0:
            return stream
        places = places_of(stream.slots)
        slots = stream.slots.gather(1, places)
        mask = (self._valid(stream).gather(1, places) & (slots >= 0))[:, None, None]
        sight = visual.features[slots.clamp(min=0)].to(stream.hidden.dtype)
        for block in self.alone:
            sight = block(sight, mask=_itself(mask, sight))
        words = _itself(self._words(stream), stream.hidden)
        return replace(stream, memory=sight, memory_mask=mask, mask=words)

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """Meet before the last layers; after them sight's states stand in their slots."""
        if index < self.first:
            return stream
        if index == self.depth:
            return self._placed(stream)
        hidden, sight, meeting = stream.hidden, stream.memory, self.meetings[index - self.first]
        if sight is None or stream.memory_mask is None:
            return stream.with_hidden(meeting.norm(hidden))  # type: ignore[operator,union-attr]
        words = meeting(hidden, sight, mask=stream.memory_mask)
        sight = meeting(sight, hidden, mask=self._words(stream))
        sight = self.sight[index - self.first](sight, mask=_itself(stream.memory_mask, sight))
        return replace(stream, hidden=words, memory=sight)

    def _words(self, stream: Stream) -> Bool[Tensor, "B 1 1 L"]:
        return (self._valid(stream) & (stream.slots < 0))[:, None, None]

    def _valid(self, stream: Stream) -> Bool[Tensor, "B L"]:
        if stream.valid is None:
            raise InputError("the language model does not say which tokens are valid; take 'encoder' with this fusion")
        return stream.valid

    def _placed(self, stream: Stream) -> Stream:
        if stream.memory is None or stream.memory_mask is None:
            return stream
        places = places_of(stream.slots)[..., None].expand_as(stream.memory)
        there = stream.memory_mask[:, 0, 0, :, None]
        kept = torch.where(there, stream.memory, stream.hidden.gather(1, places))
        return stream.with_hidden(stream.hidden.scatter(1, places, kept.to(stream.hidden.dtype)))


def places_of(slots: Int[Tensor, "B L"]) -> Int[Tensor, "B M"]:
    """The places of each row's visual tokens in order, and others after them where a row has fewer than most."""
    seen = slots >= 0
    most = slots.shape[1] if torch.compiler.is_compiling() else max(1, int(seen.sum(1).max()))
    return seen.int().argsort(dim=1, descending=True, stable=True)[:, :most]


def _itself(mask: Bool[Tensor, "B 1 1 M"], states: Float[Tensor, "B M D"]) -> Bool[Tensor, "B 1 M M"]:
    """Every token sees itself too, so that padding stays finite."""
    return mask | torch.eye(states.shape[1], dtype=torch.bool, device=states.device)
