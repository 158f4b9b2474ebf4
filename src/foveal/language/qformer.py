"""A Q-Former that reads and writes words beside its queries: what learns in BLIP-2's first stage (2301.12597)."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.core.types import VisualTokens
from foveal.layers.initial import small_normal
from foveal.layers.masks import Sees, beside_queries
from foveal.layers.qformer import Memory, Words
from foveal.layers.qformer import Qformer as Stack
from foveal.layers.shown import Shown

Seen = tuple[Memory, Bool[Tensor, "I 1 1 M"] | None]  # keys and values of images, and where there are any


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of the Q-Former; the defaults are a small one to train from scratch.

    Every `frequency`-th layer looks at visual tokens of `memory_width` (None: the vision encoder's). These are normed
    (`norm`) and told where they lie by `places` octaves (0: the encoder tells). `deviation` is that of fresh maps: a
    narrow stack wants more than BERT's, or all texts begin alike.
    """

    vocabulary: int
    width: int = 192
    depth: int = 4
    heads: int = 3
    inner: int | None = None
    queries: int = 16
    context: int = 160
    memory_width: int | None = None
    frequency: int = 2
    places: int = 0
    norm: bool = False
    activation: str = "gelu"
    eps: float = 1e-12
    deviation: float = 0.02


class Qformer(nn.Module):
    """Queries and words in one stack; who sees whom is asked for at every call, and the heads are apart.

    Raises InputError where heads do not divide the width, and for a text longer than the context.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int = 192,
        depth: int = 4,
        heads: int = 3,
        inner: int | None = None,
        queries: int = 16,
        context: int = 160,
        memory_width: int | None = None,
        frequency: int = 2,
        places: int = 0,
        norm: bool = False,
        activation: str = "gelu",
        eps: float = 1e-12,
        deviation: float = 0.02,
    ) -> None:
        super().__init__()
        memory_width = memory_width or width
        self.vocabulary, self.width, self.depth, self.context = vocabulary, width, depth, context
        self.queries = nn.Parameter(nn.init.normal_(torch.empty(queries, width), std=0.02))
        self.shown = Shown(width=memory_width, places=places, norm=norm)
        self.words = Words(vocabulary=vocabulary, context=context, width=width)
        self.stack = Stack(
            width=width, depth=depth, heads=heads, inner=inner or 4 * width, memory_width=memory_width,
            frequency=frequency, text=True, activation=activation, eps=eps,
        )  # fmt: skip
        self.stack.apply(partial(small_normal, deviation=deviation))

    @property
    def embedding(self) -> nn.Embedding:
        """The table of the words."""
        return self.words.embedding

    @property
    def layers(self) -> Iterable[nn.Module]:
        """The layers of the stack."""
        return self.stack.layers

    def read(self, visual: VisualTokens) -> Seen:
        """Keys and values of every image, for all that will look at them."""
        rows, there = self.shown(visual)
        return self.stack.read(rows), there

    def forward(
        self, seen: Seen, ids: Int[Tensor, "B L"], valid: Bool[Tensor, "B L"], *, sees: Sees, alone: bool = False
    ) -> tuple[Float[Tensor, "B Q D"], Float[Tensor, "B N D"]]:
        """The last states of the queries over one image a row, and of the words, which stand at the left.

        Where the queries are asked `alone`, there are no states of words.
        """
        count = len(self.queries)
        whole = sees == "all" and not torch.compiler.is_compiling() and bool(valid.all())
        hidden = self.stack(
            self.queries.expand(len(ids), -1, -1),
            text=self.words(ids),
            mask=None if whole else beside_queries(valid, queries=count, sees=sees),
            memory=seen[0],
            memory_mask=seen[1],
            alone=alone,
        )
        return hidden[:, :count], hidden[:, count:]
