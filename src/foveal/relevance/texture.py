"""What a patch looks like before any encoder: thirteen distinct numbers of its pixels (ARR-COC's first stage).

Every one is antialiased, a mean over the patch, and belongs to its own picture: nothing is normed across a batch.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Grid
from foveal.layers.precision import own_dtype

CHANNELS = (
    *("red", "green", "blue", "lightness", "green_red", "blue_yellow"),
    *("edge_x", "edge_y", "edge", "y", "x", "eccentricity", "contrast"),
)
_WHITE = (0.95047, 1.0, 1.08883)  # of daylight D65
_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))


def texture(pixels: Float[Tensor, "I 3 H W"], grid: Grid) -> Float[Tensor, "I N 13"]:
    """The channels of each patch of a grid (rows, columns), in raster order; `pixels` are RGB from 0 to 1.

    Lightness and colour are L*a*b* over 100; edges are Sobel's, in lightness a pixel; y and x go from -1 to 1 between
    the picture's sides, and eccentricity is the distance from its middle; contrast is the deviation of lightness.
    Raises InputError for pixels out of range and for a grid finer than the picture.
    """
    if not torch.compiler.is_compiling() and not bool(((pixels >= 0) & (pixels <= 1)).all()):
        raise InputError(
            f"pixels from {float(pixels.min()):.3g} to {float(pixels.max()):.3g}; give RGB from 0 to 1, not yet normed"
        )
    if any(not 1 <= cells <= side for cells, side in zip(grid, pixels.shape[-2:], strict=True)):
        raise InputError(
            f"a grid of {grid[0]} x {grid[1]} on a picture of {pixels.shape[-2]} x {pixels.shape[-1]} pixels; "
            "give 1 or more patches a side, and no more than pixels"
        )
    lab = colours(pixels)
    light = lab[:, :1]
    across, down = edges(light)
    shown = torch.cat([pixels, lab, across, down, (across.square() + down.square()).sqrt(), light.square()], dim=1)
    means = F.adaptive_avg_pool2d(shown, grid).flatten(2).transpose(1, 2)
    spread = (means[..., 9:] - means[..., 3:4].square()).clamp(min=0).sqrt()
    where = _places(grid).to(means).expand(len(means), -1, -1)
    return torch.cat([means[..., :9], where, spread], dim=-1)


def colours(pixels: Float[Tensor, "I 3 H W"]) -> Float[Tensor, "I 3 H W"]:
    """CIE L*a*b* over 100 of sRGB from 0 to 1, under daylight (D65)."""
    linear = torch.where(pixels <= 0.04045, pixels / 12.92, ((pixels.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)
    to = torch.tensor(_XYZ, device=pixels.device, dtype=pixels.dtype) / pixels.new_tensor(_WHITE)[:, None]
    with own_dtype(pixels):
        xyz = torch.einsum("kc,ichw->ikhw", to, linear)
    least = 6 / 29
    root = torch.where(xyz > least**3, xyz.clamp(min=least**3) ** (1 / 3), xyz / (3 * least**2) + 4 / 29)
    x, y, z = root.unbind(1)
    return torch.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], dim=1)


def edges(light: Float[Tensor, "I 1 H W"]) -> tuple[Float[Tensor, "I 1 H W"], Float[Tensor, "I 1 H W"]]:
    """Sobel's slopes to the right and downwards, a pixel; outside the picture is as at its edge."""
    kernel = light.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 8
    padded = F.pad(light, (1, 1, 1, 1), mode="replicate")
    with own_dtype(light):
        return F.conv2d(padded, kernel[None, None]), F.conv2d(padded, kernel.T[None, None])


def _places(grid: Grid) -> Float[Tensor, "N 3"]:
    y, x = ((2 * torch.arange(side) + 1) / side - 1 for side in grid)
    y, x = (part.flatten() for part in torch.meshgrid(y, x, indexing="ij"))
    return torch.stack([y, x, (y.square() + x.square()).sqrt()], dim=1)
