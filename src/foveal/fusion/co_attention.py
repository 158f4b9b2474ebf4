"""Two streams of different widths that look at each other between their layers (ViLBERT, 1908.02265)."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Stream, VisualTokens
from foveal.layers.attention import Gates
from foveal.layers.blocks import PostNormBlock
from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear
from foveal.layers.meeting import Meeting, at_all_places, itself, places_of, words_alone
from foveal.layers.mlp import FeedForward
from foveal.layers.numbers import Numbers
from foveal.layers.places import Places

EVERYWHERE = (0.0, 0.0, 1.0, 1.0, 1.0)  # the location of an image as a whole


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sight has `layers` of its own `width_of_sight` (None: that of the words), with `heads` and `inner`.

    `schedule` says for each meeting how many layers of words and of sight come before it. A meeting has `meet` numbers
    in all its `meet_heads` (None: as sight), and feeds the words through `words_inner`. With `whole` the mean of a
    row's visual tokens goes before them. `gated` scales sight's queries and keys by what the words say (12-in-1,
    1912.02315). The first `fixed` layers of words and of sight learn nothing. `places` octaves tell each token where
    its box lies, beside the map of its five numbers. The first `images` of a row are told apart (0: all look alike).
    """

    width_of_sight: int | None = None
    layers: int = 1
    heads: int = 4
    inner: int | None = None
    schedule: tuple[tuple[int, int], ...] = ((1, 0),)
    meet: int | None = None
    meet_heads: int | None = None
    words_inner: int | None = None
    whole: bool = True
    gated: bool = False
    fixed: tuple[int, int] = (0, 0)
    places: int = 0
    images: int = 0
    activation: str = "gelu"
    eps: float = 1e-12


class Look(Meeting):
    """A look at the other stream, and a feed-forward after it."""

    def __init__(
        self, *, width: int, heads: int, inner: int, memory_width: int, feed: int, activation: str, eps: float
    ) -> None:
        super().__init__(width=width, heads=heads, eps=eps, inner=inner, memory_width=memory_width)
        self.feed = FeedForward(width=width, inner=feed, activation=activation)
        self.feed_norm = nn.LayerNorm(width, eps=eps)

    def forward(
        self,
        hidden: Float[Tensor, "B L D"],
        other: Float[Tensor, "B M E"] | None,
        *,
        mask: Bool[Tensor, "B 1 1 M"] | None,
    ) -> Float[Tensor, "B L D"]:
        """Look, add, norm; feed, add, norm."""
        hidden = super().forward(hidden, other, mask=mask)
        return self.feed_norm(hidden + self.feed(hidden))


class Steering(nn.Module):
    """Gates of sight's queries and keys out of the mean of the words, `[B D]`."""

    def __init__(self, *, width: int, words: int) -> None:
        super().__init__()
        self.query, self.key = Linear(words, width), Linear(words, width)

    def forward(self, said: Float[Tensor, "B D"]) -> Gates:
        """From 1 to 2 for each number."""
        return 1 + torch.sigmoid(self.query(said)), 1 + torch.sigmoid(self.key(said))


class CoAttention(nn.Module):
    """Words keep their stream, `[B L D]`, and sight has its own, `[B M E]`, which heads read apart.

    Raises InputError for a schedule or fixed layers that the streams do not have, and for a language model that does
    not say which tokens are valid.
    """

    causal = False
    reads_valid = True  # of the stream

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        width_of_sight: int | None = None,
        layers: int = 1,
        heads: int = 4,
        inner: int | None = None,
        schedule: tuple[tuple[int, int], ...] = ((1, 0),),
        meet: int | None = None,
        meet_heads: int | None = None,
        words_inner: int | None = None,
        whole: bool = True,
        gated: bool = False,
        fixed: tuple[int, int] = (0, 0),
        places: int = 0,
        images: int = 0,
        activation: str = "gelu",
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.apart = seen = width_of_sight or width
        meet, meet_heads = meet or seen, meet_heads or heads
        _check(schedule, fixed, depth=depth, layers=layers)
        self.depth, self.schedule, self.fixed, self.whole = depth, schedule, fixed, whole
        shared = {"activation": activation, "eps": eps}
        self.location, self.norm = Linear(5, seen), nn.LayerNorm(seen, eps=eps)
        self.sight = nn.ModuleList(
            PostNormBlock(width=seen, heads=heads, inner=inner or 4 * seen, **shared) for _ in range(layers)
        )
        both = {"heads": meet_heads, "inner": meet, **shared}
        self.to_sight = nn.ModuleList(
            Look(width=width, memory_width=seen, feed=words_inner or 4 * width, **both) for _ in schedule
        )
        self.to_words = nn.ModuleList(
            Look(width=seen, memory_width=width, feed=inner or 4 * seen, **both) for _ in schedule
        )
        self.steering = nn.ModuleList(Steering(width=seen, words=width) for _ in range(layers if gated else 0))
        self.apply(small_normal)
        self.place = Places(width=seen, octaves=places) if places else None
        self.number = Numbers(images=images, width=seen) if images else None

    def at_input(self, stream: Stream, visual: VisualTokens | None) -> Stream:
        """The words alone, and beside them sight's embeddings."""
        if stream.valid is None:
            raise InputError("the language model does not say which tokens are valid; take 'encoder' with this fusion")
        if visual is None or visual.features.shape[0] == 0:
            return stream
        places = places_of(stream.slots >= 0)
        slots = stream.slots.gather(1, places)
        there = stream.valid.gather(1, places) & (slots >= 0)
        sight = (visual.features + self.location(located(visual.boxes).to(visual.features.dtype)))[slots.clamp(min=0)]
        if self.place is not None:
            sight = sight + self.place(visual)[slots.clamp(min=0)]
        if self.number is not None:
            sight = sight + self.number(stream, visual).take_along_dim(places[..., None], 1)
        if self.whole:
            sight, there = self._with_whole(visual.features[slots.clamp(min=0)], sight, there)
        words = words_alone(stream, stream.valid & (stream.slots < 0))
        return replace(words, memory=self.norm(sight).to(words.hidden.dtype), memory_mask=there[:, None, None])

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """The meetings that come before this layer, and sight's layers before them; the words' places after all."""
        if 0 < index == self.fixed[0]:
            stream = stream.with_hidden(stream.hidden.detach())
        for number, (words, _) in enumerate(self.schedule):
            stream = self._meet(number, stream) if words == index else stream
        return self._placed(stream) if index == self.depth else stream

    def states(self, stream: Stream) -> Float[Tensor, "B M E"]:
        """What sight's stream says at last of each row's visual tokens, in the order of their slots."""
        if stream.memory is None:
            return stream.hidden.new_zeros(len(stream.hidden), 0, self.apart)
        return stream.memory[:, 1:] if self.whole else stream.memory

    def first(self, stream: Stream) -> tuple[Float[Tensor, "B E"], Bool[Tensor, " B"]]:
        """What it says of each row's images as a whole, or of the first token; and which rows have images."""
        if stream.memory is None or stream.memory_mask is None:
            return stream.hidden.new_zeros(len(stream.hidden), self.apart), torch.zeros_like(stream.slots[:, 0]).bool()
        return stream.memory[:, 0], stream.memory_mask[:, 0, 0, 0]

    def at(self, where: Bool[Tensor, "B L"], stream: Stream) -> Bool[Tensor, "B M"]:
        """Places in the text as places among the `states`."""
        return where.gather(1, places_of(stream.slots >= 0))

    def _with_whole(self, features: Tensor, sight: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        count = there.sum(1, keepdim=True)
        mean = (features * there[..., None]).sum(1) / count.clamp(min=1)
        whole = mean + self.location(mean.new_tensor(EVERYWHERE))
        return torch.cat([whole[:, None], sight], dim=1), torch.cat([count > 0, there], dim=1)

    def _meet(self, number: int, stream: Stream) -> Stream:
        assert stream.valid is not None
        before, last = self.schedule[number][1], number + 1 == len(self.schedule)
        sight = self._alone(stream, self.schedule[number - 1][1] if number else 0, before)
        hidden = self.to_sight[number](stream.hidden, sight, mask=stream.memory_mask)
        if sight is not None:
            sight = self.to_words[number](sight, stream.hidden, mask=stream.valid[:, None, None])
        stream = replace(stream, hidden=hidden, memory=sight)
        return replace(stream, memory=self._alone(stream, before, len(self.sight))) if last else stream

    def _alone(self, stream: Stream, begin: int, end: int) -> Tensor | None:
        """Sight after its layers from `begin` to `end`."""
        sight = stream.memory
        if sight is None or stream.memory_mask is None or stream.valid is None:
            return sight
        weight = stream.valid[..., None].to(sight.dtype)
        said = (stream.hidden * weight).sum(1) / weight.sum(1).clamp(min=1)
        for layer in range(begin, end):
            gates = self.steering[layer](said) if len(self.steering) else None
            sight = self.sight[layer](sight, mask=itself(stream.memory_mask), gates=gates)
            sight = sight.detach() if layer + 1 == self.fixed[1] else sight
        return sight

    def _placed(self, stream: Stream) -> Stream:
        """All places again, with zeros where visual tokens and padding stand."""
        if stream.whole is None or stream.valid is None:
            return stream
        return at_all_places(stream.with_hidden(stream.hidden * stream.valid[..., None]))


def located(boxes: Float[Tensor, "S box"]) -> Float[Tensor, "S 5"]:
    """Corners and the share of the image that they enclose, where this is not given."""
    if boxes.shape[1] == 5:
        return boxes
    return torch.cat([boxes, (boxes[:, 2:] - boxes[:, :2]).prod(-1, keepdim=True)], dim=1)


def _check(schedule: tuple[tuple[int, int], ...], fixed: tuple[int, int], *, depth: int, layers: int) -> None:
    if not schedule:
        raise InputError("the streams of co_attention never meet; give a schedule of at least one pair")
    for name, most, own, place in (("words", depth, fixed[0], 0), ("sight", layers, fixed[1], 1)):
        given = [pair[place] for pair in schedule]
        if given != sorted(given) or given[0] < 0 or given[-1] > most:
            raise InputError(
                f"schedule has meetings after {given} layers of {name}; give a rising row from 0 to {most}"
            )
        if not 0 <= own <= given[0]:
            raise InputError(f"{own} fixed layers of {name}, and the streams meet after {given[0]}; fix at most these")
