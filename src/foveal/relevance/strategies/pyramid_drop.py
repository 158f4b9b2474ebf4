"""PyramidDrop (2410.17247): stage by stage of the language model, fewer of the tokens that its last token attends to.

In the language model; needs its attention in the first layer of each stage, for one token of each image's question. No
layer holds keys and values of tokens that have left before it.
"""

from dataclasses import dataclass

from torch import nn

from foveal.core.errors import InputError
from foveal.core.types import Layout, Query, Stream, VisualTokens
from foveal.relevance.leaving import by_layer, cut, weighed
from foveal.relevance.spending import checked


@dataclass(frozen=True, kw_only=True)
class Config:
    """`budget` patches an image in the last of so many `stages` of equal depth.

    The first reads all, each later one the same share of what the one before did: an eighth in 4 is the paper's half.
    """

    budget: int = 64
    stages: int = 4


class PyramidDrop(nn.Module):
    """Before each stage but the first, the tokens that the end of the prompt would attend to least in it leave."""

    steered = False

    def __init__(self, *, budget: int = 64, stages: int = 4) -> None:
        super().__init__()
        if stages < 2:
            raise InputError(f"{stages} stages for strategy 'pyramid_drop'; give 2 or more")
        self.budget, self.stages = checked(budget), stages

    def plan(self, layout: Layout) -> Layout:
        """The same layout: all tokens enter the language model."""
        return layout

    def between(self, visual: VisualTokens, query: Query) -> VisualTokens:
        """The same tokens."""
        return visual

    def cuts(self, depth: int) -> tuple[int, ...]:
        """Where stages begin; raises InputError where a language model has fewer layers than there are stages."""
        if depth < self.stages:
            raise InputError(
                f"strategy 'pyramid_drop' parts {depth} layers into {self.stages} stages; give it {depth} or fewer, "
                "and 2 at least"
            )
        return tuple(depth * stage // self.stages for stage in range(1, self.stages))

    def by_layer(self, layout: Layout, depth: int) -> tuple[tuple[int, ...], ...]:
        """All in the first stage, the budget of each image, or all it has, in the last."""
        steps = enumerate(self.cuts(depth), 1)
        left = {layer: tuple(self._of(count, stage) for count in layout.counts) for stage, layer in steps}
        return by_layer(layout, left, depth)

    def at_layer(self, index: int, stream: Stream, depth: int) -> Stream:
        """Where a stage begins, weigh and cut."""
        if index not in self.cuts(depth):
            return stream
        return cut(weighed(stream), self.by_layer, depth, layer=index)

    def _of(self, count: int, stage: int) -> int:
        if count <= self.budget:
            return count
        share = (self.budget / count) ** (stage / (self.stages - 1))
        return max(self.budget, int(count * share + 1e-6))
