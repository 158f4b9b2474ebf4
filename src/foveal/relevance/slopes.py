"""In which order the splits of a tree pay most, each for one token more (weakest-link pruning, CART 1984).

A split gains the fall in weighted variance. Its slope is the best gain a split among the subtrees that begin with it,
and its key the lesser of its slope and its parent's key: whoever takes splits by falling keys has the best tree of
every size on the hull, and never a split without its parent.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.relevance.tree import Tree

_SAFE = 40  # of two: squares and sums of numbers up to this power fit into float32, however many there are


def within(values: Float[Tensor, "I *rest"]) -> tuple[Float[Tensor, "I *rest"], Float[Tensor, " I"]]:
    """Values, in float32 or more, of which sums of squares fit, and the power of two by which each image's were
    multiplied for it: 1 for all that is ordinary, which does not change by a bit."""
    least = 16 * torch.finfo(values.dtype).tiny  # the inverse of a power beyond would not fit itself
    flat = values.detach().flatten(1)
    largest = torch.maximum(flat.amax(1), -flat.amin(1))  # a norm takes ten times as long
    part, exponent = largest.clamp(least, 1 / least).frexp()
    power = torch.where((exponent.abs() > _SAFE) & (largest > 0), part / largest.clamp(least, 1 / least), 1.0)
    if not torch.compiler.is_compiling() and bool((power == 1).all()):
        return values, power  # as a rule: this spares a pass over them
    return values * power.view(-1, *[1] * (values.ndim - 1)), power


@torch.no_grad()
def split_keys(tree: Tree, features: Float[Tensor, "I N D"], weight: Float[Tensor, "I N"]) -> Float[Tensor, "I H"]:
    """The key of every rectangle above the last level; minus infinity where there is nothing to split."""
    gains = split_gains(tree, features, weight)
    gains = torch.where(tree.splits, gains, -torch.inf).masked_fill(tree.forced, torch.inf)
    if not gains.shape[1]:
        return gains
    number = torch.arange(gains.shape[1], device=gains.device).expand_as(gains)
    first = 2 ** (tree.depth - 1) - 1
    keys, below, names = (part[:, first:, None] for part in (gains, gains, number))
    for level in reversed(range(tree.depth - 1)):
        own = slice(2**level - 1, 2 ** (level + 1) - 1)
        keys, below, names = (part.unflatten(1, (2**level, -1)).flatten(2) for part in (keys, below, names))
        keys, order = keys.sort(dim=-1, descending=True, stable=True)
        below, names = below.gather(-1, order), names.gather(-1, order)
        slope = _slope(gains[:, own], below)
        keys, below, names = (
            torch.cat(pair, dim=-1)
            for pair in (
                (slope[..., None], torch.minimum(keys, slope[..., None])),
                (gains[:, own, None], below),
                (number[:, own, None], names),
            )
        )
    return torch.empty_like(gains).scatter(1, names[:, 0], keys[:, 0])


def _slope(own: Float[Tensor, "I n"], below: Float[Tensor, "I n m"]) -> Float[Tensor, "I n"]:
    """The best mean of a split's own gain and those of the first few below it, in their order."""
    there = below > -torch.inf
    total = own[..., None] + torch.where(there, below, 0).cumsum(-1)
    count = torch.arange(2, below.shape[-1] + 2, device=own.device)
    means = torch.where(there, total / count, -torch.inf)
    return torch.maximum(own, means.amax(-1))


@torch.no_grad()
def split_gains(tree: Tree, features: Float[Tensor, "I N D"], weight: Float[Tensor, "I N"]) -> Float[Tensor, "I H"]:
    """How much the weighted variance falls with each split, in float64 sums; 0 where a half weighs nothing."""
    images, last = features.shape[0], 2**tree.depth
    slot = tree.place[-1] - (last - 1)
    mass = weight.double().new_zeros(images, last).index_copy(1, slot, weight.double())
    total = features.new_zeros(images, last, features.shape[-1])
    total = total.index_copy(1, slot, features * weight[..., None].to(features.dtype))
    gains = []
    for _ in range(tree.depth):
        pair, sums = mass.unflatten(1, (-1, 2)), total.unflatten(1, (-1, 2))
        mean = sums / pair.clamp(min=torch.finfo(torch.float32).tiny)[..., None].to(sums.dtype)
        apart = mean[:, :, 0].sub_(mean[:, :, 1]).square_().sum(-1).double()
        mass, total = pair.sum(2), sums.sum(2)
        gains.append(pair.prod(2) / mass.clamp(min=torch.finfo(torch.float32).tiny) * apart)
    return torch.cat(gains[::-1], dim=1) if gains else weight.double().new_zeros(images, 0)


def by_key(tree: Tree, keys: Float[Tensor, "I H"]) -> Int[Tensor, "I N1"]:
    """The splits by falling keys; of equal ones the coarser first, then from left to right."""
    return keys.sort(dim=1, descending=True, stable=True).indices[:, : tree.place.shape[1] - 1]
