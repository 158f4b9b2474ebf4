"""Blocks between the language layers in which text looks at the images before it (Flamingo, 2204.14198)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Layout, Stream, VisualTokens
from foveal.layers.cross_attention import CrossAttention, KeyValue
from foveal.layers.gates import Gate
from foveal.layers.looking import View, as_told, by_markers
from foveal.layers.mlp import FeedForward, GatedFeedForward
from foveal.layers.norms import NormKind, norms

Gating = Literal["scalar", "vector", "none"]
Looks = Literal["last", "group", "all"]
Blind = Literal["nothing", "mean", "all"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Blocks stand before every `every`-th layer, or before the `layers` named (the depth: after the last). Each has
    `heads` of `head_width` with `kv_heads` key heads (None: as many), and a feed-forward of `inner` (None: 4 times the
    width, 0: none), gated with `feed_gated`.

    A `gate` scales what a block adds by the tangens hyperbolicus of one number, of one for each channel, or not at
    all; it begins at `start`. Text `looks` at the last image before it, at the `group` of those that no word parts
    from it, or at all of them. Text that is `blind`, before any image, finds nothing, the mean of all its row's
    tokens, or looks at all; `feed_blind` feeds it too. `width_of_sight` is that of the images' tokens (None: that of
    the words). With `counted`, blocks are layers among the others where states are kept (Llama 3.2 Vision).
    """

    every: int = 1
    layers: tuple[int, ...] | None = None
    width_of_sight: int | None = None
    heads: int = 8
    head_width: int = 64
    kv_heads: int | None = None
    inner: int | None = None
    feed_gated: bool = False
    activation: str = "gelu"
    norm: NormKind = "layer"
    qk_norm: bool = False
    eps: float = 1e-5
    gate: Gating = "scalar"
    start: float = 0.0
    looks: Looks = "last"
    blind: Blind = "nothing"
    feed_blind: bool = True
    counted: bool = False


class GatedBlock(nn.Module):
    """Look, then feed, each through its gate and beside a residual, `[B L D]` to `[B L D]`."""

    def __init__(
        self,
        *,
        attention: CrossAttention,
        attention_norm: nn.Module,
        feed: nn.Module | None,
        feed_norm: nn.Module | None,
        attention_gate: nn.Module,
        feed_gate: nn.Module | None,
    ) -> None:
        super().__init__()
        self.attention_norm, self.attention, self.attention_gate = attention_norm, attention, attention_gate
        self.feed_norm, self.feed, self.feed_gate = feed_norm, feed, feed_gate

    def look(
        self,
        hidden: Float[Tensor, "B L D"],
        memory: KeyValue,
        *,
        mask: Bool[Tensor, "B 1 #L M"],
        lost: Bool[Tensor, "B #L 1"],
        deaf: Bool[Tensor, "B #L 1"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """Add what is found; `lost` tokens find nothing, and `deaf` ones take all that the mask shows alike."""
        asking = self.attention_norm(hidden)
        asking = asking if deaf is None else asking.masked_fill(deaf, 0)
        found = self.attention(asking, memory, mask=mask).masked_fill(lost, 0)
        return hidden + self.attention_gate(found)

    def fed(
        self, hidden: Float[Tensor, "B L D"], *, unfed: Bool[Tensor, "B #L 1"] | None = None
    ) -> Float[Tensor, "B L D"]:
        """Add what the feed-forward says, but to the `unfed`."""
        if self.feed is None or self.feed_norm is None or self.feed_gate is None:
            return hidden
        said = self.feed(self.feed_norm(hidden))
        return hidden + self.feed_gate(said if unfed is None else said.masked_fill(unfed, 0))


class GatedCrossAttention(nn.Module):
    """An image takes one place in the text; words see it through the blocks, whose cost alone grows with its tokens.

    With gates that begin at zero, a fresh model equals its language model bit for bit.
    """

    causal = True

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        every: int = 1,
        layers: tuple[int, ...] | None = None,
        width_of_sight: int | None = None,
        heads: int = 8,
        head_width: int = 64,
        kv_heads: int | None = None,
        inner: int | None = None,
        feed_gated: bool = False,
        activation: str = "gelu",
        norm: NormKind = "layer",
        qk_norm: bool = False,
        eps: float = 1e-5,
        gate: Gating = "scalar",
        start: float = 0.0,
        looks: Looks = "last",
        blind: Blind = "nothing",
        feed_blind: bool = True,
        counted: bool = False,
    ) -> None:
        super().__init__()
        self.counted = counted
        self.apart, self.looks, self.blind, self.feed_blind = width_of_sight or width, looks, blind, feed_blind
        make, feed = norms(norm, eps=eps), GatedFeedForward if feed_gated else FeedForward
        inner = 4 * width if inner is None else inner
        heading = {"heads": heads, "inner": heads * head_width, "kv_heads": kv_heads, "memory_width": self.apart}

        def gated() -> nn.Module:
            return nn.Identity() if gate == "none" else Gate(width=width if gate == "vector" else 1, start=start)

        def block() -> GatedBlock:
            return GatedBlock(
                attention_norm=make(width),
                attention=CrossAttention(width=width, bias=False, qk_norm=make if qk_norm else None, **heading),
                attention_gate=gated(),
                feed_norm=make(width) if inner else None,
                feed=feed(width=width, inner=inner, activation=activation, bias=False) if inner else None,
                feed_gate=gated() if inner else None,
            )

        places = layers if layers is not None else range(every - 1, depth, every)
        _check(places, depth=depth, every=every)
        self.blocks = nn.ModuleDict({str(layer): block() for layer in places})

    def placed(self, layout: Layout) -> Layout:
        """One place in the text for each image."""
        return replace(layout, slots=(1,) * len(layout.counts))

    def at_input(self, stream: Stream, visual: VisualTokens | None) -> Stream:
        """Lay each row's images out for the blocks, and say what of them each token sees."""
        if visual is None or visual.features.shape[0] == 0:
            return stream
        view = self.view(stream, visual)
        memory = visual.features[view.index].to(stream.hidden.dtype)
        return replace(stream, memory=memory, memory_mask=view.there, memory_seen=view.seen)

    def view(self, stream: Stream, visual: VisualTokens) -> View:
        """Which visual tokens lie side by side in the memory of each row, and who sees them."""
        if stream.looks is None:
            return by_markers(stream, visual, last=self.looks == "last", together=self.looks == "group")
        assert stream.owner is not None
        return as_told(stream.looks, stream.owner, visual)

    def opened(
        self, seen: Bool[Tensor, "B 1 L M"], there: Bool[Tensor, "B 1 1 M"]
    ) -> tuple[Bool[Tensor, "B 1 L M"], Bool[Tensor, "B 1 L 1"]]:
        """Where each token looks at last, and which see no image."""
        blind = ~seen.any(-1, keepdim=True)
        return seen if self.blind == "nothing" else seen | (blind & there), blind

    def block(self, index: int) -> GatedBlock | None:
        """The block that stands before this layer, if one does."""
        return self.blocks[str(index)] if str(index) in self.blocks else None  # type: ignore[return-value]  # noqa: SIM401

    def at_layer(self, index: int, stream: Stream) -> Stream:
        """Look by the block that stands before this layer, if one does."""
        if (block := self.block(index)) is None:
            return stream
        found = self._memory(index, block, stream)
        if found is None:
            return stream.with_hidden(block.fed(stream.hidden)) if self.feed_blind else stream
        memory, seen, there = found
        mask, blind = self.opened(seen, there)
        lost = ~mask.any(-1, keepdim=True)
        deaf, unfed = blind[:, 0] if self.blind == "mean" else None, None if self.feed_blind else blind[:, 0]
        hidden = block.look(stream.hidden, memory, mask=mask | lost, lost=lost[:, 0], deaf=deaf)
        return stream.with_hidden(block.fed(hidden, unfed=unfed))

    def _memory(self, index: int, block: GatedBlock, stream: Stream) -> tuple[KeyValue, Tensor, Tensor] | None:
        """Keys and values of all images so far, what each token sees of them, and where there are any.

        A cache keeps them, with what its last token saw: later text sees that too, until an image of its own.
        """
        kept = None if stream.cache is None else stream.cache.memory.get(index)
        before = None if kept is None or kept[2] is None else kept[2].split(1, dim=2)
        if stream.memory is None or stream.memory_seen is None or stream.memory_mask is None:
            return None if kept is None or before is None else ((kept[0], kept[1]), before[0], before[1])
        memory, seen, there = block.attention.read(stream.memory), stream.memory_seen, stream.memory_mask
        if kept is not None and before is not None:
            old = before[0].expand(-1, -1, seen.shape[2], -1)
            old = old & ~seen.any(-1, keepdim=True) if self.looks != "all" else old
            memory = torch.cat([kept[0], memory[0]], dim=2), torch.cat([kept[1], memory[1]], dim=2)
            seen, there = torch.cat([old, seen], dim=-1), torch.cat([before[1], there], dim=-1)
        if stream.cache is not None:
            stream.cache.memory[index] = (*memory, torch.cat([seen[:, :, -1:], there], dim=2))
        return memory, seen, there


def _check(layers: Sequence[int], *, depth: int, every: int) -> None:
    if not layers:
        raise InputError(
            f"a block before every {every}th layer, but the language model has {depth}; lower fusion.every"
        )
    if strange := [layer for layer in layers if not 0 <= layer <= depth]:
        raise InputError(
            f"a block before layer {strange[0]}, but the language model has {depth}; name layers from 0 to {depth}"
        )
