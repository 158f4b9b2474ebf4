"""What enters a vision encoder: tiles of one size, or patches of images of any shape."""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils import _pytree as pytree

from foveal.core.errors import InputError
from foveal.core.layout import Cut, Grid, Layout

T = TypeVar("T")


class Movable:
    """Tensors of a dataclass move together: `to` maps every tensor inside, and nothing else."""

    def to(self: T, *args: Any, **kwargs: Any) -> T:
        """A copy with every tensor moved (and floating ones cast) as by `Tensor.to`."""

        def move(leaf: object) -> object:
            if not isinstance(leaf, Tensor):
                return leaf
            moved = leaf.to(*args, **kwargs)
            return moved if leaf.is_floating_point() else moved.to(leaf.dtype)

        return pytree.tree_map(move, self)


@dataclass(frozen=True, kw_only=True)
class Pixels(Movable):
    """Tiles that enter a vision encoder, all of one size, normalised as the encoder wants them.

    Where smaller ones have been filled up, `sizes` are their own (height, width), from the upper left corner. `frames`
    says how many images in a row are the frames of one video (None: there is none): an encoder takes each for an image,
    and the model joins what it says of them; `cuts` say the same of images in tiles (None: each is one).
    """

    values: Float[Tensor, "T C H W"]
    image: Int[Tensor, " T"]  # the image that each tile belongs to
    tile: Int[Tensor, "T 2"]  # row and column in its image's grid; -1 -1 is the global view, -2 -2 stands for none
    sizes: tuple[Grid, ...] | None = None
    frames: tuple[int, ...] | None = None
    cuts: tuple[Cut, ...] | None = None

    @classmethod
    def cut(cls, values: Float[Tensor, "T C H W"], cuts: tuple[Cut, ...]) -> "Pixels":
        """The tiles of images that are cut so, one image after the other; smaller ones are filled up."""
        owners = [image for image, cut in enumerate(cuts) for _ in range(cut.tiles)]
        spots = [spot for cut in cuts for spot in cut.spots]
        sizes = tuple(cut.tile for cut in cuts for _ in range(cut.tiles))
        return cls(
            values=values,
            image=torch.tensor(owners, dtype=torch.long, device=values.device),
            tile=torch.tensor(spots, dtype=torch.long, device=values.device).view(-1, 2),
            sizes=sizes if any(size != tuple(values.shape[-2:]) for size in sizes) else None,
            cuts=cuts,
        )

    @classmethod
    def whole(cls, values: Float[Tensor, "T C H W"], frames: tuple[int, ...] | None = None) -> "Pixels":
        """One tile an image, the whole picture, or one a frame."""
        count = values.shape[0]
        image = torch.arange(count, device=values.device)
        return cls(values=values, image=image, tile=torch.full((count, 2), -1, device=values.device), frames=frames)


@dataclass(frozen=True, kw_only=True)
class Patches(Movable):
    """Patches of images and videos of any shape, end to end, for an encoder that joins the frames of a video itself.

    `values` hold channels, frames, rows and columns of each patch in turn. `grids` are times, rows and columns of
    patches of each image; the patches of a time follow each other in blocks of `block` x `block`, row by row.
    """

    values: Float[Tensor, "N F"]
    grids: tuple[tuple[int, int, int], ...]
    block: int = 1

    @property
    def layout(self) -> Layout:
        """A token a patch; raises InputError where the grids have others than there are patches, or none."""
        for image, (times, rows, columns) in enumerate(self.grids):
            if min(times, rows, columns) < 1:
                raise InputError(
                    f"image {image} has a grid of {times} x {rows} x {columns} patches (times x rows x columns); give "
                    "each image at least one"
                )
        wanted = sum(times * rows * columns for times, rows, columns in self.grids)
        if wanted != len(self.values):
            raise InputError(f"{len(self.values)} patches for grids of {wanted}; give each image its own grid")
        spread = [(rows, columns) for times, rows, columns in self.grids for _ in range(times)]
        return Layout.of_grids(spread).filmed(tuple(times for times, _, _ in self.grids))
