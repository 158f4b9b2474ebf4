"""What two streams that look at each other share: the look itself, and where the tokens of each stand."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.layers.cross_attention import CrossAttention


class Meeting(nn.Module):
    """One stream, `[B L D]`, looks at the other, `[B M E]`; of equal widths, one meeting may serve both ways."""

    def __init__(
        self, *, width: int, heads: int, eps: float, inner: int | None = None, memory_width: int | None = None
    ) -> None:
        super().__init__()
        self.attention = CrossAttention(width=width, heads=heads, inner=inner, memory_width=memory_width)
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(
        self,
        hidden: Float[Tensor, "B L D"],
        other: Float[Tensor, "B M E"] | None,
        *,
        mask: Bool[Tensor, "B 1 1 M"] | None,
    ) -> Float[Tensor, "B L D"]:
        """Look, add, norm; a row that has nothing to look at adds nothing."""
        if other is None or mask is None:
            return self.norm(hidden)
        some = mask.any(-1, keepdim=True)
        found = self.attention(hidden, self.attention.read(other), mask=mask | ~some)
        return self.norm(hidden + found * some[:, 0])


def places_of(wanted: Bool[Tensor, "B L"], *, limit: int | None = None) -> Int[Tensor, "B M"]:
    """The places of each row's wanted tokens in order, and others after them where a row has fewer than most.

    Compiled, they are as many as the `limit` that no row is above (None: its length).
    """
    most = (limit or wanted.shape[1]) if torch.compiler.is_compiling() else max(1, int(wanted.sum(1).max()))
    return wanted.int().argsort(dim=1, descending=True, stable=True)[:, :most]


def itself(mask: Bool[Tensor, "B 1 1 M"]) -> Bool[Tensor, "B 1 M M"]:
    """Where a row shows no token at all, each sees itself, so that padding stays finite."""
    return mask | (torch.eye(mask.shape[-1], dtype=torch.bool, device=mask.device) & ~mask.any(-1, keepdim=True))
