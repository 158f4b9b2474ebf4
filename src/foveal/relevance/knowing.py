"""Three ways of knowing, each a map over the patches of an image: what is there, what stands out, what is asked for.

Maps are numbers a patch, `[I N]` on a grid of N, of their own image alone. (ARR-COC's second stage.)
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.types import Grid
from foveal.layers.precision import own_dtype

FLAT = 1e-5  # of the size of features: deviations below it are rounding


def information(
    features: Float[Tensor, "I N D"], grid: Grid, *, reach: int = 1, noise: float = 1.0
) -> Float[Tensor, "I N"]:
    """Propositional: nats that a patch's neighbourhood says beyond noise, half log det(1 + covariance / noise).

    The neighbourhood is the patch and those up to `reach` away; `noise` is in mean variances of the image's features.
    """
    with own_dtype(features):  # determinants want more than half precision
        features, alike = _apart(features)
        scale = features.square().mean((1, 2)).masked_fill(alike, torch.inf) * noise
        gram, there = _products(features, grid, reach)
        count = there.sum(-1, keepdim=True)
        apart = (gram @ there[..., None]).transpose(-1, -2) / count[..., None]  # of each with the mean of all
        middle = (apart @ there[..., None]) / count[..., None]
        gram = (gram - apart - apart.transpose(-1, -2) + middle) * there[..., None] * there[..., None, :]
        gram = gram / (count[..., None] * scale[:, None, None, None])
        root = torch.linalg.cholesky_ex(gram + torch.eye(gram.shape[-1], device=gram.device)).L
        return root.diagonal(dim1=-2, dim2=-1).log().sum(-1)  # half of the determinant's logarithm


def entropy(chances: Float[Tensor, "I N K"]) -> Float[Tensor, "I N"]:
    """Propositional, where tokens are distributions over a visual vocabulary: their entropy in nats."""
    return torch.special.entr(chances.float()).sum(-1)


def surprise(features: Float[Tensor, "I N D"], grid: Grid, *, reach: int = 2) -> Float[Tensor, "I N"]:
    """Perspectival: how far a patch is from the mean of those up to `reach` around it, over the image's deviation."""
    features, alike = _apart(features)
    field = features.unflatten(1, grid).permute(0, 3, 1, 2)
    mean = F.avg_pool2d(field, 2 * reach + 1, 1, reach, count_include_pad=False).permute(0, 2, 3, 1).flatten(1, 2)
    number = _around(grid, reach).to(features)
    apart = (features - mean).norm(dim=-1) * (number / (number - 1).clamp(min=1))  # the mean holds the patch itself
    return apart / _deviation(features, alike)


def aloof(features: Float[Tensor, "I N D"]) -> Float[Tensor, "I N"]:
    """Perspectival, of tokens that lie on no grid: how far each is from the mean of all, over the image's deviation."""
    away, alike = _apart(features)
    return away.norm(dim=-1) / _deviation(away, alike)


def received(attention: Float[Tensor, "I N"], *, sinks: float = 4.0) -> Float[Tensor, "I N"]:
    """Perspectival, where the encoder shows its attention: what each patch receives of it, over the image's mean.

    A patch that receives more than `sinks` times the image's median is a sink (2309.16588), and gets the median.
    """
    got = attention.float()
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
    gain: Float[Tensor, "I L"] | None = None,
) -> Float[Tensor, "I N"]:
    """Participatory: the best cosine of a patch with a word of the question, less that word's mean over the image.

    A word that couples to all patches alike so says nothing; with an `empty` question the cosine with that is taken off
    as well. Words count by their `gain` (None: alike). `sign` is -1 where an encoder's similarity has been found to
    fall with relevance (raw CLIP); a question without words couples to nothing, and its map is 0.
    """
    patches, words = features.float(), F.normalize(query.float(), dim=-1)
    length = patches.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    with own_dtype(features):
        alike = patches @ words.transpose(1, 2) / length
        if empty is not None:
            alike = alike - patches @ F.normalize(empty.float(), dim=-1)[:, None] / length
    apart = sign * (alike - alike.mean(1, keepdim=True))
    apart = apart if gain is None else apart * gain[:, None]
    best = apart.masked_fill(~valid[:, None], -torch.inf).amax(-1)
    return torch.where(valid.any(1)[:, None], best, 0.0)


def _apart(features: Float[Tensor, "I N D"]) -> tuple[Float[Tensor, "I N D"], Bool[Tensor, " I"]]:
    """Features less their mean over the image, and of which images no more than rounding is left of them."""
    features = features.float()  # squares of half precision would overflow
    apart = features - features.mean(1, keepdim=True)
    found, whole = (part.square().sum(-1).mean(1) for part in (apart, features))
    return apart, found <= FLAT**2 * whole


def _deviation(apart: Float[Tensor, "I N D"], alike: Bool[Tensor, " I"]) -> Float[Tensor, "I 1"]:
    """The deviation of an image's features from their mean; without bound where they are `alike`: none stands out."""
    return apart.square().sum(-1).mean(1).masked_fill(alike, torch.inf).sqrt()[:, None]


def _around(grid: Grid, reach: int) -> Int[Tensor, " N"]:
    """How many patches are up to `reach` away from each, itself among them."""
    down, across = (
        (torch.arange(side) + reach).clamp(max=side - 1) - (torch.arange(side) - reach).clamp(min=0) + 1
        for side in grid
    )
    return (down[:, None] * across).flatten()


def _products(
    features: Float[Tensor, "I N D"], grid: Grid, reach: int
) -> tuple[Float[Tensor, "I N K K"], Float[Tensor, "1 N K"]]:
    """Inner products of all pairs in the square around each patch (0 outside of the image), and what is inside.

    A pair's product is found once, for the step that leads from one to the other, and read wherever both are near.
    """
    (rows, columns), far = grid, 2 * reach
    near = [(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)]
    steps = [(y, x) for y in range(far + 1) for x in range(-far, far + 1) if (y, x) >= (0, 0)]
    edge = far + reach
    field = F.pad(features.unflatten(1, grid), (0, 0, edge, edge, edge, edge))
    high, wide = rows + far, columns + far  # of what is near some patch; the rest is reached by steps alone
    here = field[:, far : far + high, far : far + wide]
    below = [here @ field[:, far + y : far + y + high].transpose(-1, -2) for y in range(far + 1)]  # of whole rows
    maps = torch.stack([below[y].diagonal(far + x, dim1=-2, dim2=-1) for y, x in steps], dim=1)
    place = torch.arange(rows * columns, device=features.device)
    row, column = place // columns, place % columns
    pairs = [(min(a, b), max(a, b)) for a in near for b in near]
    step = torch.tensor([steps.index((b[0] - a[0], b[1] - a[1])) for a, b in pairs], device=features.device)
    first = torch.tensor([a for a, _ in pairs], device=features.device) + reach
    y, x = row[:, None] + first[:, 0], column[:, None] + first[:, 1]
    gram = maps[:, step, y, x].unflatten(-1, (len(near), len(near)))
    beside = torch.tensor(near, device=features.device)
    inside = [
        (at[:, None] + beside[:, axis] >= 0) & (at[:, None] + beside[:, axis] < size)
        for axis, (at, size) in enumerate(((row, rows), (column, columns)))
    ]
    return gram, (inside[0] & inside[1]).to(gram.dtype)[None]
