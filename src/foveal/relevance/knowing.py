"""Three ways of knowing, each a map over the patches of an image: what is there, what stands out, what is asked for.

Maps are numbers a patch, `[I N]` on a grid of N, of their own image alone. (ARR-COC's second stage.)
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from foveal.core.types import Grid


def information(
    features: Float[Tensor, "I N D"], grid: Grid, *, reach: int = 1, noise: float = 1.0
) -> Float[Tensor, "I N"]:
    """Propositional: nats that a patch's neighbourhood says beyond noise, half log det(1 + covariance / noise).

    The neighbourhood is the patch and those up to `reach` away; `noise` is in mean variances of the image's features.
    """
    features = features.float()  # determinants want it, also where the model runs in half precision
    windows, there = _around(features, grid, reach)
    count = there.sum(-1, keepdim=True)
    mean = windows.sum(2) / count
    apart = (windows - mean[:, :, None]) * there[..., None]
    scale = (features - features.mean(1, keepdim=True)).square().mean((1, 2)).clamp(min=1e-12) * noise
    gram = (apart @ apart.transpose(-1, -2)).float() / (count[..., None] * scale[:, None, None, None])
    return 0.5 * torch.linalg.slogdet(gram + torch.eye(gram.shape[-1], device=gram.device)).logabsdet


def entropy(chances: Float[Tensor, "I N K"]) -> Float[Tensor, "I N"]:
    """Propositional, where tokens are distributions over a visual vocabulary: their entropy in nats."""
    return torch.special.entr(chances.float()).sum(-1)


def surprise(features: Float[Tensor, "I N D"], grid: Grid, *, reach: int = 2) -> Float[Tensor, "I N"]:
    """Perspectival: how far a patch is from the mean of those up to `reach` around it, over the image's deviation."""
    windows, there = _around(features, grid, reach)
    middle = (2 * reach + 1) ** 2 // 2
    around = there.clone()
    around[..., middle] = 0
    mean = (windows * around[..., None]).sum(2) / around.sum(-1, keepdim=True).clamp(min=1)
    scale = (features - features.mean(1, keepdim=True)).square().sum(-1).mean(1).clamp(min=1e-12).sqrt()
    far = (features - mean).norm(dim=-1) / scale[:, None]
    return far * (around.sum(-1) > 0)


def received(attention: Float[Tensor, "I H N M"], *, sinks: float = 4.0) -> Float[Tensor, "I M"]:
    """Perspectival, where the encoder shows its attention: what each patch receives, over the mean.

    A patch that receives more than `sinks` times the median of its row is a sink, and gets the median.
    """
    got = attention.float().mean((1, 2))
    usual = got.median(dim=1, keepdim=True).values
    got = torch.where(got > sinks * usual, usual, got)
    return got / got.mean(1, keepdim=True).clamp(min=1e-12)


def coupling(
    features: Float[Tensor, "I N D"],
    query: Float[Tensor, "I L D"],
    valid: Bool[Tensor, "I L"],
    *,
    empty: Float[Tensor, " D"] | None = None,
    sign: float = 1.0,
) -> Float[Tensor, "I N"]:
    """Participatory: the best cosine of a patch with a word of the question, less that word's mean over the image.

    A word that couples to all patches alike so says nothing; with an `empty` question the cosine with that is taken off
    as well. `sign` is -1 where an encoder's similarity has been found to fall with relevance (raw CLIP); a question
    without words couples to nothing, and its map is 0.
    """
    patches, words = (F.normalize(part.float(), dim=-1) for part in (features, query))
    alike = patches @ words.transpose(1, 2)
    if empty is not None:
        alike = alike - (patches @ F.normalize(empty.float(), dim=-1))[..., None]
    apart = sign * (alike - alike.mean(1, keepdim=True))
    best = apart.masked_fill(~valid[:, None], -torch.inf).amax(-1)
    return torch.where(valid.any(1)[:, None], best, 0.0)


def _around(
    features: Float[Tensor, "I N D"], grid: Grid, reach: int
) -> tuple[Float[Tensor, "I N K D"], Float[Tensor, "I N K"]]:
    """The features of the square around each patch, zeros outside of the image, and which of them are inside."""
    side = 2 * reach + 1
    maps = features.transpose(1, 2).unflatten(2, grid)
    taken = F.unfold(maps, side, padding=reach).unflatten(1, (features.shape[-1], side * side)).permute(0, 3, 2, 1)
    inside = F.unfold(torch.ones_like(maps[:, :1]), side, padding=reach).transpose(1, 2)
    return taken, inside
