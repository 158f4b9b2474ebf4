"""Patches gathered into tokens: sums and means by the token that holds each (-1: none does)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def means(
    values: Float[Tensor, "I N D"], token: Int[Tensor, "I N"], weight: Float[Tensor, "I N"], budget: int
) -> Float[Tensor, "I B D"]:
    """The mean of each token's patches by weight; without it where all of them weigh nothing."""
    there = (token >= 0).to(weight.dtype)
    slot = token.clamp(min=0)
    weight = weight * there
    whole, many = (sums(part[..., None], token, budget)[..., 0].gather(1, slot) for part in (weight, there))
    share = torch.where(whole > 0, weight / whole.clamp(min=torch.finfo(weight.dtype).tiny), there / many.clamp(min=1))
    return sums(values * share[..., None].to(values.dtype), token, budget)


def medoids(
    values: Float[Tensor, "I N D"], token: Int[Tensor, "I N"], weight: Float[Tensor, "I N"], budget: int
) -> Float[Tensor, "I N"]:
    """One for the patch of each token that is nearest to its mean by weight (the first of equals), 0 for the others."""
    count, slot = values.shape[1], token.clamp(min=0)
    middle = means(values, token, weight, budget).take_along_dim(slot[..., None], 1)
    apart = (values - middle).float().square().sum(-1)
    held = torch.where(token >= 0, token, budget)
    ends = apart.new_full((len(values), budget + 1), torch.inf)
    nearest = apart <= ends.scatter_reduce(1, held, apart, "amin").gather(1, held)
    here = torch.arange(count, device=values.device).expand_as(token)
    place = torch.where(nearest, here, count)
    first = place.new_full((len(values), budget + 1), count).scatter_reduce(1, held, place, "amin").gather(1, held)
    return ((here == first) & (token >= 0)).to(weight.dtype)


def sums(values: Float[Tensor, "I N D"], token: Int[Tensor, "I N"], budget: int) -> Float[Tensor, "I B D"]:
    """The sum of each token's patches."""
    slot = torch.where(token >= 0, token, budget)[..., None].expand_as(values)
    return values.new_zeros(len(values), budget + 1, values.shape[-1]).scatter_add(1, slot, values)[:, :budget]
