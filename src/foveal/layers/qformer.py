"""The Q-Former's stack: queries that look at an image, beside words that look at the queries (2301.12597)."""

from collections.abc import Iterator
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Cache
from foveal.layers.attention import Attention
from foveal.layers.cross_attention import CrossAttention, KeyValue
from foveal.layers.initial import small_normal
from foveal.layers.mlp import FeedForward

Memory = tuple[KeyValue, ...]  # keys and values of what is looked at, one pair for each layer that looks
Shown = Bool[Tensor, "B 1 #Q M"] | Float[Tensor, "B 1 #Q M"]  # what of it is seen, or what is added to the scores


class Feed(nn.Module):
    """Feed, add, norm."""

    def __init__(self, *, width: int, inner: int, activation: str, eps: float) -> None:
        super().__init__()
        self.feed = FeedForward(width=width, inner=inner, activation=activation)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, hidden: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Post-norm, as in BERT (1810.04805)."""
        return self.norm(hidden + self.feed(hidden))


class QformerLayer(nn.Module):
    """All attend to all that the mask shows, queries look at the memory, and each kind has a feed-forward of its own.

    Without `memory_width` the layer has no look; without `text` it takes queries alone.
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        inner: int,
        memory_width: int | None,
        text: bool,
        activation: str,
        eps: float,
    ) -> None:
        super().__init__()
        looks = memory_width is not None
        feed = partial(Feed, width=width, inner=inner, activation=activation, eps=eps)
        self.attention, self.attention_norm = Attention(width=width, heads=heads), nn.LayerNorm(width, eps=eps)
        self.look = CrossAttention(width=width, heads=heads, memory_width=memory_width) if looks else None
        self.look_norm = nn.LayerNorm(width, eps=eps) if looks else None
        self.query_feed, self.text_feed = feed(), feed() if text else None

    @property
    def read_ahead(self) -> bool:
        """Whether its weights are asked before its call: keys and values are made for all layers that look."""
        return self.look is not None

    def forward(
        self,
        hidden: Float[Tensor, "B N D"],
        *,
        queries: int,
        mask: Bool[Tensor, "B 1 #N K"] | None = None,
        memory: KeyValue | Float[Tensor, "B M E"] | None = None,
        memory_mask: Shown | None = None,
        cache: Cache | None = None,
        index: int = 0,
        alone: bool = False,
    ) -> Float[Tensor, "B R D"]:
        """One layer; the first `queries` places are queries, the rest is text, or they are asked `alone`."""
        at = torch.arange(queries, device=hidden.device).expand(len(hidden), -1) if alone else None
        mixed = self.attention(hidden, mask=mask, cache=cache, layer=index, at=at)
        hidden = self.attention_norm((hidden[:, :queries] if alone else hidden) + mixed)
        asking, text = hidden[:, :queries], hidden[:, queries:]
        parts = []
        if asking.shape[1]:
            if self.look is not None and self.look_norm is not None and memory is not None:
                if isinstance(memory, Tensor):
                    found = self.look.glance(asking, memory, mask=memory_mask)
                else:
                    found = self.look(asking, memory, mask=memory_mask)
                asking = self.look_norm(asking + found)
            parts.append(self.query_feed(asking))
        if text.shape[1]:
            assert self.text_feed is not None
            parts.append(self.text_feed(text))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


class Qformer(nn.Module):
    """Queries `[B Q D]` over a memory `[B M E]`, with or without text `[B L D]` behind them.

    Every `frequency`-th layer looks, the first one too. Text needs feed-forwards of its own (`text`), and may come
    alone; it never looks. Raises InputError where heads do not divide the width, for text without its feed-forwards,
    for queries without a memory, and for nothing at all.
    """

    def __init__(
        self,
        *,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        inner: int = 3072,
        memory_width: int = 1408,
        frequency: int = 2,
        text: bool = False,
        activation: str = "gelu",
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.width, self.depth, self.heads, self.text = width, depth, heads, text
        layer = partial(
            QformerLayer, width=width, heads=heads, inner=inner, text=text, activation=activation, eps=eps
        )  # fmt: skip
        self.norm = nn.LayerNorm(width, eps=eps)
        self.layers = nn.ModuleList(
            layer(memory_width=None if index % frequency else memory_width) for index in range(depth)
        )
        self.apply(small_normal)

    def read(self, memory: Float[Tensor, "B M E"]) -> Memory:
        """Keys and values of a memory for every layer that looks: made once, however often they are looked at."""
        return tuple(layer.look.read(memory) for layer in self._layers if layer.look is not None)

    def forward(
        self,
        queries: Float[Tensor, "B Q D"] | None = None,
        *,
        text: Float[Tensor, "B L D"] | None = None,
        mask: Bool[Tensor, "B 1 #N K"] | None = None,
        memory: Memory | Float[Tensor, "B M E"] | None = None,
        memory_mask: Shown | None = None,
        cache: Cache | None = None,
        alone: bool = False,
    ) -> Float[Tensor, "B R D"]:
        """The last state of the queries, then of the text, `[B Q+L D]`, or of the queries `alone`; see `states`."""
        last = None
        for state in self.states(
            queries, text=text, mask=mask, memory=memory, memory_mask=memory_mask, cache=cache, alone=alone
        ):
            last = state
        assert last is not None
        return last

    def states(
        self,
        queries: Float[Tensor, "B Q D"] | None = None,
        *,
        text: Float[Tensor, "B L D"] | None = None,
        mask: Bool[Tensor, "B 1 #N K"] | None = None,
        memory: Memory | Float[Tensor, "B M E"] | None = None,
        memory_mask: Shown | None = None,
        cache: Cache | None = None,
        alone: bool = False,
    ) -> Iterator[Float[Tensor, "B R D"]]:
        """The state before every layer and after the last.

        `mask` says who sees whom among queries and text (and what the `cache` holds of them); None: all see all.
        `memory` is what `read` made, or unread where it is looked at once; `memory_mask` says what of it is seen, or
        what is added to the scores. The last state may be that of the queries `alone`.
        """
        hidden = self.norm(self._beside(queries, text, memory))
        count = 0 if queries is None else queries.shape[1]
        yield hidden
        looks = sum(layer.look is not None for layer in self._layers)
        pairs = iter((memory,) * looks if isinstance(memory, Tensor) else memory or ())
        for index, layer in enumerate(self._layers):
            pair = next(pairs, None) if layer.look is not None else None
            last = alone and text is not None and index + 1 == self.depth
            hidden = layer(
                hidden, queries=count, mask=mask, memory=pair, memory_mask=memory_mask, cache=cache, index=index,
                alone=last,
            )  # fmt: skip
            yield hidden

    def said(self, memory: Float[Tensor, "*B M E"]) -> Float[Tensor, "*B M D"]:
        """What each of the memory would tell a query that looked at it alone, in the last layer that looks."""
        *_, last = (layer.look for layer in self._layers if layer.look is not None)
        return last.alone(memory)

    @property
    def last_text_feed(self) -> Feed | None:
        """What the last layer says of text alone: of no use to who asks the queries."""
        return list(self._layers)[-1].text_feed

    @property
    def _layers(self) -> Iterator[QformerLayer]:
        for layer in self.layers:
            assert isinstance(layer, QformerLayer)
            yield layer

    def _beside(self, queries: Tensor | None, text: Tensor | None, memory: Memory | Tensor | None) -> Tensor:
        if text is not None and not self.text:
            raise InputError("text for a Q-Former that has no feed-forward for it; build it with text=True")
        if queries is not None and memory is None:
            raise InputError("queries without a memory to look at; give read(features)")
        given = [part for part in (queries, text) if part is not None]
        if not given:
            raise InputError("neither queries nor text for a Q-Former; give at least one of them")
        return given[0] if len(given) == 1 else torch.cat(given, dim=1)


class Words(nn.Module):
    """Words with their places, `[B L]` to `[B L D]`, as text enters a Q-Former: the stack norms them.

    Raises InputError for a text longer than the `context`.
    """

    def __init__(self, *, vocabulary: int, context: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.apply(small_normal)

    def forward(self, ids: Int[Tensor, "B L"], *, past: int = 0) -> Float[Tensor, "B L D"]:
        """Places are counted from the left, padding and all, after `past` words that were read before."""
        last, most = past + ids.shape[1], self.positions.num_embeddings
        if last > most:
            raise InputError(f"{last} words for a Q-Former of {most} places; shorten the text")
        return self.embedding(ids) + self.positions.weight[past:last]
