"""Results in the memory of what they are made of, where nobody else reads it: new memory takes longer than the sum."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

# no public name says whether torch.func is at work
_transforming = getattr(getattr(torch._C, "_functorch", None), "maybe_current_level", lambda: None)


def times(own: Float[Tensor, "*shape"], other: Float[Tensor, "*#shape"]) -> Float[Tensor, "*shape"]:
    """The product, in the place of `own`, which nothing else reads, where that is of its dtype and nobody follows."""
    free = not (torch.is_grad_enabled() or followed()) and torch.promote_types(own.dtype, other.dtype) == own.dtype
    return own.mul_(other) if free else own * other


def followed() -> bool:
    """Whether someone follows each operation who knows none in place and none of oneDNN's: a compiler, an exporter, a
    transform of torch.func, or a forward derivative."""
    forward = getattr(forward_ad, "_current_level", -1) >= 0
    return forward or torch.compiler.is_compiling() or torch.jit.is_tracing() or _transforming() is not None
