"""So many learned queries look at each image and say what they found (BLIP-2, 2301.12597).

With a vocabulary they hear the question too, and look for what it asks (InstructBLIP, 2305.06500).
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.types import Batch, Gaze, Layout, Query, VisualTokens
from foveal.layers.gazing import led
from foveal.layers.images import lain, shares
from foveal.layers.initial import small_normal
from foveal.layers.linear import Linear
from foveal.layers.masks import beside_queries
from foveal.layers.meeting import places_of
from foveal.layers.qformer import Qformer as Stack
from foveal.layers.qformer import Words
from foveal.layers.shown import Shown

DEVIATION = 0.02  # of fresh queries


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the connector; the defaults are a small one to train from scratch.

    Every `frequency`-th layer looks at the image, whose tokens may be normed (`norm`) and told where they lie by
    `places` octaves (0: the encoder tells). A `vocabulary` is that of the questions it hears (0: it hears none), of at
    most `context` words.
    """

    queries: int = 32
    width: int = 256
    depth: int = 4
    heads: int = 4
    inner: int | None = None
    frequency: int = 2
    activation: str = "gelu"
    eps: float = 1e-12
    vocabulary: int = 0
    context: int = 512
    places: int = 0
    norm: bool = False


class Qformer(nn.Module):
    """`features[S E]` to `queries` features of width D for each image, whatever its size."""

    def __init__(
        self,
        *,
        width_in: int,
        width_out: int,
        queries: int = 32,
        width: int = 256,
        depth: int = 4,
        heads: int = 4,
        inner: int | None = None,
        frequency: int = 2,
        activation: str = "gelu",
        eps: float = 1e-12,
        vocabulary: int = 0,
        context: int = 512,
        places: int = 0,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.latents = queries  # of a process that holds none of them too
        self.shown = Shown(width=width_in, places=places, norm=norm)
        self.queries = nn.Parameter(nn.init.normal_(torch.empty(queries, width), std=DEVIATION))
        self.words = Words(vocabulary=vocabulary, context=context, width=width) if vocabulary else None
        self.stack = Stack(
            width=width, depth=depth, heads=heads, inner=inner or 4 * width, memory_width=width_in,
            frequency=frequency, text=bool(vocabulary), activation=activation, eps=eps,
        )  # fmt: skip
        self.map = Linear(width, width_out)
        small_normal(self.map)
        if self.stack.last_text_feed is not None:
            self.stack.last_text_feed.requires_grad_(False)  # nobody asks what the last layer says of words

    def plan(self, layout: Layout) -> Layout:
        """As many tokens an image as there are queries; they lie on no grid."""
        return lain(layout, self.latents)

    @property
    def steered(self) -> bool:
        """Whether its queries hear the question."""
        return self.words is not None

    def query(self, batch: Batch, *, per_image: int | None = None) -> Query | None:
        """What each image is asked, a row an image; None where no question is heard.

        The batch is laid out for `per_image` tokens of each (None: a token a query).
        """
        if self.words is None:
            return None
        ids = _asked(batch, per_image=per_image or self.latents)
        return Query(features=self.words(ids.clamp(min=0)), valid=ids >= 0)

    def forward(self, visual: VisualTokens, query: Query | None = None, gaze: Gaze | None = None) -> VisualTokens:
        """Look, and map what the queries found; a `gaze` names fewer of them and leads them."""
        return self.mapped(visual, self.look(visual, query, gaze, alone=True), None if gaze is None else len(gaze.led))

    def said(self, visual: VisualTokens) -> Float[Tensor, "S D"]:
        """What each token would tell a query that looked at it alone, in language width."""
        return self.map(self.stack.said(self.shown.tokens(visual)))

    def look(
        self, visual: VisualTokens, query: Query | None = None, gaze: Gaze | None = None, *, alone: bool = False
    ) -> Float[Tensor, "I N W"]:
        """The last state of each image's queries, and of the words behind them unless the queries `alone` are asked."""
        memory, seen = self.shown(visual)
        own = self.queries if gaze is None else self.queries[: len(gaze.led)]
        queries, seen = own.to(memory.dtype).expand(len(memory), -1, -1), led(gaze, visual.layout, seen)
        mask = None if query is None else beside_queries(query.valid, queries=len(own), sees="all")
        text = None if query is None else query.features.to(memory.dtype)
        return self.stack(queries, text=text, mask=mask, memory=memory, memory_mask=seen, alone=alone)

    def mapped(self, visual: VisualTokens, states: Float[Tensor, "I N W"], count: int | None = None) -> VisualTokens:
        """The states of so many queries (None: all) in language width, as tokens of the images that they looked at."""
        count = count or self.latents
        found = self.map(states[:, :count]).flatten(0, 1)
        made = VisualTokens.on_layout(found, lain(visual.layout, count))
        return replace(made, mass=shares(visual, count))


def _asked(batch: Batch, *, per_image: int) -> Int[Tensor, "I L"]:
    """The words of each image's question, -1 for none: those given, or the prompt of its own conversation."""
    if batch.question is not None:
        return batch.question
    words = batch.prompt & (batch.image_slot < 0)
    if batch.branch is not None:
        words &= batch.branch == 0  # an image that several questions share hears what they share
    words = words[batch.owner]
    if batch.segment is not None:
        first = torch.arange(len(batch.owner), device=batch.owner.device) * per_image
        begin = (batch.image_slot[batch.owner] == first[:, None]).int().argmax(1, keepdim=True)
        segment = batch.segment[batch.owner]
        words &= segment == segment.gather(1, begin)
    places = places_of(words)
    return torch.where(words.gather(1, places), batch.input_ids[batch.owner].gather(1, places), -1)
