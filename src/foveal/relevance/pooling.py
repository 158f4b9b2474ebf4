"""Patches gathered into tokens: sums and means by the token that holds each (-1: none does)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def means(
    values: Float[Tensor, "I N D"], token: Int[Tensor, "I N"], weight: Float[Tensor, "I N"], budget: int
) -> Float[Tensor, "I B D"]:
    """The mean of each token's patches by weight; without it where all of them weigh nothing."""
    wide, weight = full(values), full(weight)
    there = (token >= 0).to(weight.dtype)
    slot = token.clamp(min=0)
    weight = weight * there
    whole, many = (sums(part[..., None], token, budget)[..., 0].gather(1, slot) for part in (weight, there))
    share = torch.where(whole > 0, weight / whole.clamp(min=torch.finfo(weight.dtype).tiny), there / many.clamp(min=1))
    return sums(wide * share[..., None].to(wide.dtype), token, budget).to(values.dtype)


def medoids(
    values: Float[Tensor, "I N D"], token: Int[Tensor, "I N"], weight: Float[Tensor, "I N"], budget: int
) -> Float[Tensor, "I N"]:
    """One for the patch of each token that is nearest to its mean by weight (the first of equals), 0 for the others."""
    count, slot = values.shape[1], token.clamp(min=0)
    middle = means(values, token, weight, budget).take_along_dim(slot[..., None], 1)
    apart = (full(values) - full(middle)).float().square().sum(-1)
    held = torch.where(token >= 0, token, budget)
    ends = apart.new_full((len(values), budget + 1), torch.inf)
    nearest = apart <= ends.scatter_reduce(1, held, apart, "amin").gather(1, held)
    here = torch.arange(count, device=values.device).expand_as(token)
    place = torch.where(nearest, here, count)
    first = place.new_full((len(values), budget + 1), count).scatter_reduce(1, held, place, "amin").gather(1, held)
    return ((here == first) & (token >= 0)).to(weight.dtype)


def full(values: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """The same in float32 where they are in less: sums of many in half precision stop growing, or overflow."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def sums(values: Float[Tensor, "I N D"], token: Int[Tensor, "I N"], budget: int) -> Float[Tensor, "I B D"]:
    """The sum of each token's patches."""
    slot = torch.where(token >= 0, token, budget)[..., None].expand_as(values)
    return values.new_zeros(values.shape[0], budget + 1, values.shape[-1]).scatter_add(1, slot, values)[:, :budget]
