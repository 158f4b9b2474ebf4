"""Transformer blocks, once for every room."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveal.layers.attention import Attention, Gates, Mask, weights
from foveal.layers.gates import Gate
from foveal.layers.mlp import FeedForward, GatedFeedForward
from foveal.layers.norms import NormKind, norms


class Block(nn.Module):
    """A pre-norm transformer block, `[T S E]` to `[T S E]`; with a `gate`, what it adds passes gates that begin there.

    `bias` is that of the attention's maps, `feed_bias` that of the feed-forward, which may be `gated` (SwiGLU).
    """

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        inner: int,
        activation: str,
        eps: float,
        bias: bool = True,
        feed_bias: bool = True,
        gate: float | None = None,
        norm: NormKind = "layer",
        gated: bool = False,
    ) -> None:
        super().__init__()
        make, feed = norms(norm, eps=eps), GatedFeedForward if gated else FeedForward
        self.attention_norm = make(width)
        self.attention = Attention(width=width, heads=heads, bias=bias, out_bias=bias)
        self.feed_norm = make(width)
        self.feed = feed(width=width, inner=inner, activation=activation, bias=feed_bias)
        self.attention_gate, self.feed_gate = (nn.Identity() if gate is None else Gate(start=gate) for _ in range(2))

    def forward(
        self,
        hidden: Float[Tensor, "T S E"],
        *,
        mask: Mask | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        lengths: tuple[int, ...] | None = None,
    ) -> Float[Tensor, "T S E"]:
        """Attend, then feed, each beside a residual."""
        attended = self.attention(self.attention_norm(hidden), mask=mask, rotary=rotary, lengths=lengths)
        hidden = hidden + self.attention_gate(attended)
        return hidden + self.feed_gate(self.feed(self.feed_norm(hidden)))


def attended(
    block: Block, hidden: Float[Tensor, "T S E"], *, first: bool
) -> tuple[Float[Tensor, "T S"], Float[Tensor, "T S H d"]]:
    """How much of each token a block takes that reads `hidden`, and each head's keys, by which it does.

    It is what the `first` token takes, or else what all of them take; the mean over them and over the heads.
    """
    at = torch.zeros(len(hidden), 1, dtype=torch.long, device=hidden.device) if first else None
    query, key, _ = block.attention.project(block.attention_norm(hidden), at=at)
    return weights(query, key).mean((1, 2)), key.transpose(1, 2)


class PostNormBlock(nn.Module):
    """A transformer block that norms each sum (BERT, 1810.04805), `[T S E]` to `[T S E]`."""

    def __init__(self, *, width: int, heads: int, inner: int, activation: str, eps: float) -> None:
        super().__init__()
        self.attention = Attention(width=width, heads=heads)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.feed = FeedForward(width=width, inner=inner, activation=activation)
        self.feed_norm = nn.LayerNorm(width, eps=eps)

    def forward(
        self,
        hidden: Float[Tensor, "T S E"],
        *,
        mask: Bool[Tensor, "T 1 #S S"] | None = None,
        gates: Gates | None = None,
    ) -> Float[Tensor, "T S E"]:
        """Attend, add, norm; feed, add, norm."""
        hidden = self.attention_norm(hidden + self.attention(hidden, mask=mask, gates=gates))
        return self.feed_norm(hidden + self.feed(hidden))
