"""Learned latents that gather what many tokens say (Perceiver, 2103.03206; Flamingo's resampler, 2204.14198)."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveal.layers.cross_attention import CrossAttention

DEVIATION = 0.02  # of fresh latents: what they gather soon outweighs what they are


class PerceiverLayer(nn.Module):
    """Latents `[I N E]` look at tokens `[I M E]` and at themselves, then feed; `norm` makes each of the norms."""

    def __init__(
        self, *, width: int, attention: CrossAttention, feed: nn.Module, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.token_norm, self.latent_norm, self.feed_norm = norm(width), norm(width), norm(width)
        self.attention, self.feed = attention, feed

    def forward(
        self,
        latents: Float[Tensor, "I N E"],
        tokens: Float[Tensor, "I M E"],
        *,
        mask: Bool[Tensor, "I 1 1 M+N"] | Float[Tensor, "I 1 N M+N"] | None = None,
    ) -> Float[Tensor, "I N E"]:
        """Look, then feed, each beside a residual."""
        asking = self.latent_norm(latents)
        seen = self.attention.read(torch.cat([self.token_norm(tokens), asking], dim=1))
        latents = latents + self.attention(asking, seen, mask=mask)
        return latents + self.feed(self.feed_norm(latents))


class Resampler(nn.Module):
    """Any number of tokens `[I M E]` to as many as there are `latents`, `[I N E]`."""

    def __init__(self, *, width: int, latents: int, layers: Iterable[PerceiverLayer], norm: nn.Module) -> None:
        super().__init__()
        self.latents = nn.Parameter(nn.init.normal_(torch.empty(latents, width), std=DEVIATION))
        self.layers, self.norm = nn.ModuleList(layers), norm

    def forward(
        self,
        tokens: Float[Tensor, "I M E"],
        *,
        mask: Bool[Tensor, "I 1 1 M"] | Float[Tensor, "I 1 N M"] | None = None,
        count: int | None = None,
    ) -> Float[Tensor, "I N E"]:
        """What the latents, the first `count` of them or all, have gathered where the mask shows tokens."""
        latents = self.latents[:count].expand(len(tokens), -1, -1)
        if mask is not None:
            mask = F.pad(mask, (0, latents.shape[1]), value=0.0 if mask.is_floating_point() else True)
        for layer in self.layers:
            latents = layer(latents, tokens, mask=mask)
        return self.norm(latents)

    def said(self, tokens: Float[Tensor, "*I M E"]) -> Float[Tensor, "*I M E"]:
        """What each token would tell a latent that looked at it alone, in the last layer."""
        last = self.layers[-1]
        assert isinstance(last, PerceiverLayer)
        return last.attention.alone(last.token_norm(tokens))
