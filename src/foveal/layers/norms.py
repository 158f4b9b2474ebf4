"""Norms that torch lacks or computes in another order than the reference."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foveal.layers.scratch import followed, times

NormKind = Literal["layer", "rms"]


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, in float32 and cast before the gain (Llama; 1910.07467)."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Norm each vector to a mean square of one, times the gain."""
        if hidden.dtype == self.weight.dtype == torch.float32:
            return F.rms_norm(hidden, self.weight.shape, self.weight, self.eps)
        if hidden.element_size() == 2 and not torch.is_grad_enabled() and not followed():  # the same bits, in one pass
            return times(F.rms_norm(hidden, self.weight.shape, None, self.eps), self.weight)
        exact = hidden.float()
        scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (exact * scale).to(hidden.dtype)


class HeadNorm(nn.Module):
    """A LayerNorm over each head's last axis, with a gain and a shift of each head's own (Chameleon, 2405.09818)."""

    def __init__(self, heads: int, width: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(heads, width))
        self.bias = nn.Parameter(torch.zeros(heads, width))

    def forward(self, states: Float[Tensor, "*batch H d"]) -> Float[Tensor, "*batch H d"]:
        """Norm each head to zero mean and a variance of one, then its gain and shift."""
        return F.layer_norm(states, states.shape[-1:], eps=self.eps) * self.weight + self.bias


def norms(kind: NormKind, *, eps: float) -> Callable[[int], nn.Module]:
    """What makes the norm of a width: a LayerNorm or an RMSNorm."""
    return partial(nn.LayerNorm if kind == "layer" else RMSNorm, eps=eps)
