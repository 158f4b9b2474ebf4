"""Feed-forward blocks and the activations that checkpoints name."""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.errors import unknown
from foveal.layers.linear import Linear, activated
from foveal.layers.scratch import times

Activation = Callable[[Tensor], Tensor]


def quick_gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The sigmoid approximation of GELU that CLIP was trained with (1606.08415)."""
    return times((1.702 * x).sigmoid_(), x)


_ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
}


def activation_of(name: str) -> Activation:
    """An activation by the name that configs and checkpoints use; raises InputError with the nearest name."""
    return _ACTIVATIONS[_known(name)]


def _known(name: str) -> str:
    if name not in _ACTIVATIONS:
        raise unknown("activation", name, _ACTIVATIONS)
    return name


def activate(part: nn.Module, hidden: Float[Tensor, "*batch D"], name: str) -> Float[Tensor, "*batch I"]:
    """What a linear map says, with the activation of this name behind it: in one pass where that is faster."""
    made = activated(part, hidden, name)
    return _ACTIVATIONS[name](part(hidden)) if made is None else made


_AT_ONCE = 512  # tokens: what is wide between the maps lives for so many on a CPU, where nothing learns
_AT_ONCE_IN_HALF = 1024  # of all rows: each product lays its weight out anew, which more of them share
_STEP = 64  # tokens: oneDNN is slower over odd numbers of them


def fed(feed: Activation, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch O"]:
    """What `feed` makes of each vector, at most 512 tokens at once (in half precision 1024, of all rows).

    So a long prompt needs no more memory for it.

    The pieces are about as long as each other: the few tokens that full ones leave over take longer than their share.

    All at once where gradients are kept, which hold all of it anyway, under `torch.compile` and `torch.export`, and on
    accelerators, which such pieces leave half idle.
    """
    whole = torch.is_grad_enabled() or torch.compiler.is_compiling() or hidden.device.type != "cpu"
    if whole or hidden.dim() < 2 or hidden.shape[-2] <= (most := _most(hidden)):
        return feed(hidden)
    pieces = hidden.split(_piece(hidden.shape[-2], most), dim=-2)
    return torch.cat([feed(_joined(piece)) for piece in pieces], dim=-2)


def _joined(piece: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
    """A piece without gaps, in its strides too: for one with gaps torch lays a bfloat16 weight out anew."""
    return piece.reshape(-1, piece.shape[-1]).view(piece.shape)


def _most(hidden: Float[Tensor, "*batch D"]) -> int:
    """How many tokens of each row go at once."""
    if hidden.element_size() > 2:
        return _AT_ONCE
    return max(_STEP, _AT_ONCE_IN_HALF // max(1, math.prod(hidden.shape[:-2])))


def _piece(tokens: int, most: int) -> int:
    """How many of so many tokens go at once: their share of as few pieces as can be, in whole steps."""
    share = math.ceil(tokens / math.ceil(tokens / most))
    return math.ceil(share / _STEP) * _STEP


class FeedForward(nn.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, *, width: int, inner: int, activation: str, bias: bool = True) -> None:
        super().__init__()
        self.up = Linear(width, inner, bias=bias)
        self.down = Linear(inner, width, bias=bias)
        self.activation = _known(activation)

    def forward(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch D"]:
        """Up, activate, down."""
        return fed(lambda part: self.down(activate(self.up, part, self.activation)), hidden)


class GatedFeedForward(nn.Module):
    """A linear map gated by an activated one (SwiGLU where the activation is silu, 2002.05202), to a width of `out`."""

    def __init__(
        self, *, width: int, inner: int, activation: str = "silu", bias: bool = False, out: int | None = None
    ) -> None:
        super().__init__()
        self.gate = Linear(width, inner, bias=bias)
        self.up = Linear(width, inner, bias=bias)
        self.down = Linear(inner, out or width, bias=bias)
        self.activation = _known(activation)

    def forward(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch O"]:
        """Gate, multiply, down."""
        return fed(lambda part: self.down(self._inner(part)), hidden)

    def _inner(self, hidden: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch I"]:
        return times(activate(self.gate, hidden, self.activation), self.up(hidden))
