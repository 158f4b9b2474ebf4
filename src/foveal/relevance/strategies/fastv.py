"""FastV (2403.06764): after a few layers of the language model only what its last token attends to goes on.

In the language model; needs its attention in one layer, for one token of each image's question. The layers before the
cut read all tokens; those after it hold no keys and values of the others.
"""

from dataclasses import dataclass

from torch import nn

from foveal.core.types import Layout, Query, Stream, VisualTokens
from foveal.relevance.leaving import by_layer, checked_layer, cut, weighed
from foveal.relevance.spending import checked


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image from `layer` on, by the attention of the layer before it."""

    budget: int = 64
    layer: int = 2


class Fastv(nn.Module):
    """The tokens that the end of the prompt attends to most in one layer are those that the next ones read."""

    steered = False

    def __init__(self, *, budget: int = 64, layer: int = 2) -> None:
        super().__init__()
        self.budget, self.layer = checked(budget), layer

    def plan(self, layout: Layout) -> Layout:
        """The same layout: all tokens enter the language model."""
        return layout

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """The same tokens."""
        return visual

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The one layer; raises InputError where a language model of this depth has none."""
        checked_layer(self.layer, depth, name="fastv")
        return (self.layer,)

    def by_layer(self, layout: Layout, depth: int) -> tuple[tuple[int, ...], ...]:
        """All up to the layer, then the budget of each image, or all it has."""
        left = tuple(min(count, self.budget) for count in layout.counts)
        return by_layer(layout, {self.layer: left}, depth)

    def at_layer(self, index: int, stream: Stream, depth: int) -> Stream:
        """Weigh before the layer whose attention counts, cut before the next."""
        if index == self.layer - 1:
            return weighed(stream)
        if index != self.layer:
            return stream
        return cut(stream, self.by_layer, depth, layer=index)
