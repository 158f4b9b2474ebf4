"""Results in the memory of what they are made of, where nobody else reads it: new memory takes longer than the sum."""

import torch
from jaxtyping import Float
from torch import Tensor


def times(own: Float[Tensor, "*shape"], other: Float[Tensor, "*#shape"]) -> Float[Tensor, "*shape"]:
    """The product, in the place of `own`, which is of its dtype and nothing else reads, where no gradient wants it."""
    return own * other if torch.is_grad_enabled() or torch.compiler.is_compiling() else own.mul_(other)
