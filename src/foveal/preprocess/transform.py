"""An image as a vision encoder wants it: resized, cropped or padded, and normalised."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from foveal.core.config import later
from foveal.core.errors import InputError, unknown
from foveal.core.types import Cut, Grid, Patches, Pixels
from foveal.layers.patching import patched
from foveal.preprocess.image import LIMIT, Whole, image_size, open_image, opened_once
from foveal.preprocess.tiling import Sliced, Tiling
from foveal.preprocess.tilings import filled, kind_of, tiling_of

Triple = tuple[float, float, float]
Mode = Literal["square", "square_crop", "shortest_crop", "letterbox", "pad_square"]
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
Resample = Literal["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where an image lies in its transformed self: x' = scale_x * x + left, y' = scale_y * y + top, in pixels."""

    scale_x: float
    scale_y: float
    left: float
    top: float


@dataclass(frozen=True, kw_only=True)
class ImageTransform:
    """Every image to `Float[C H W]` of one size.

    Modes: `square` stretches to the size; `shortest_crop` brings the shortest edge to `shortest` (default: the size's
    smaller edge) and crops the centre (CLIP); `square_crop` brings both edges there first (DeiT); `letterbox` fits the
    image in and pads with the mean colour; `pad_square` pads to a square first and then resizes (LLaVA-1.5,
    2310.03744). Values are 0..255 times `rescale`, less `mean`, over `std`. Equal bit for bit to the Pillow-backed
    CLIPImageProcessor, SiglipImageProcessor and LlavaImageProcessor of transformers on RGB images. With a `tiling`
    images are cut into tiles of `size` instead, as the processors of the models that it names cut them.
    """

    size: int | tuple[int, int] = 224  # height and width of the result
    mode: Mode = "square"
    resample: Resample = "bicubic"
    shortest: int | None = None
    rescale: float = 1 / 255
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.5, 0.5, 0.5)
    tiling: Tiling | None = later(None)

    def __post_init__(self) -> None:
        if self.tiling is not None and self.grid != (self.tiling.tile, self.tiling.tile):
            raise InputError(f"tiles of {self.tiling.tile} pixels in an image size of {self.size}; give both one size")
        if min(self.grid) < 1:
            raise InputError(f"an image size of {self.size}; give at least one pixel")
        if min(self.std) <= 0:
            raise InputError(f"std {self.std} of an image transform; give three numbers above 0")

    @property
    def grid(self) -> Grid:
        """Height and width of every transformed image, in pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @classmethod
    def from_huggingface(cls, config: Mapping[str, Any]) -> "ImageTransform":
        """The transform of a `preprocessor_config.json`; raises InputError for what it cannot do exactly."""
        return _from_huggingface(config)

    def __call__(self, image: Any) -> Float[Tensor, "C H W"]:
        """The values of one image (anything that `open_image` takes)."""
        return torch.from_numpy(self._values(image))

    def pixels(self, images: Iterable[Any]) -> Pixels | Patches:
        """One tile an image, or those that the tiling makes of it; patches where it packs them."""
        if self.tiling is not None:
            return self.joined([self.cut(image) for image in opened_once(images)])
        values = [self(image) for image in images]
        return Pixels.whole(torch.stack(values) if values else torch.zeros(0, 3, *self.grid))

    def planned(self, image: Any) -> Grid | Cut:
        """What an image will be to an encoder, by its header alone: of one size, or cut into tiles."""
        if isinstance(image, Whole):
            return Cut(tile=self.grid, size=image_size(image.image))
        return self.grid if self.tiling is None else self.tiling(image_size(image)).cut

    def cut(self, image: Any) -> tuple[Cut, Float[Tensor, "T C H W"]]:
        """The tiles of an image, and how it was cut; raises InputError for a transform without a tiling."""
        if self.tiling is None:
            raise InputError("this transform makes one picture of an image; give it a tiling")
        if isinstance(image, Whole):
            opened = open_image(image.image)
            one = replace(self, mode="pad_square", tiling=None)(opened)
            return Cut(tile=self.grid, size=(opened.height, opened.width)), one[None]
        opened = open_image(image)
        sliced = self.tiling((opened.height, opened.width))
        return sliced.cut, torch.stack([torch.from_numpy(self._normal(tile)) for tile in self._tiles(opened, sliced)])

    def frames(self, pictures: Sequence[Any]) -> tuple[Cut, Float[Tensor, "T C H W"]]:
        """The frames of a video, each stretched to one tile."""
        assert self.tiling is not None
        cut = self.tiling.frames(image_size(pictures[0]), len(pictures))
        if self.tiling.kind == "split" and self.tiling.film is not None:
            alone = replace(self.tiling, most=1, longest=self.tiling.film[1])
            return cut, torch.cat([replace(self, tiling=alone).cut(picture)[1] for picture in pictures])
        square = replace(self, size=cut.tile, mode="square", tiling=None)
        return cut, torch.stack([square(picture) for picture in pictures])

    def joined(self, images: Sequence[tuple[Cut, Tensor]]) -> Pixels | Patches:
        """The tiles of several images; those that are smaller than others are filled up with zeros.

        What is packed is cut into patches, and nothing is filled up.
        """
        if self.tiling is not None and self.tiling.packed:
            return _patches([values for _, values in images], self.tiling)
        high, wide = (max((cut.tile[axis] for cut, _ in images), default=self.grid[axis]) for axis in (0, 1))
        filled = [F.pad(tiles, (0, wide - tiles.shape[-1], 0, high - tiles.shape[-2])) for _, tiles in images]
        return Pixels.cut(torch.cat(filled) if filled else torch.zeros(0, 3, high, wide), tuple(c for c, _ in images))

    def picture(self, values: Float[Tensor, "C H W"]) -> Image.Image:
        """The picture whose values these are, as far as 256 levels hold them."""
        levels = self.levels(values.detach().cpu().float())
        return Image.fromarray(levels.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())

    def levels(self, values: Float[Tensor, "*I C H W"]) -> Float[Tensor, "*I C H W"]:
        """The levels, 0 to 255 in a picture, that values stand for."""
        mean, std = (values.new_tensor(part)[:, None, None] for part in (self.mean, self.std))
        return (values * std + mean) / self.rescale

    def place(self, size: Grid) -> Placement:
        """Where an image of this height and width comes to lie; one in tiles fills what its tokens tell of it."""
        height, width = self.grid
        tall, wide = size
        if self.mode == "square" or self.tiling is not None:
            return Placement(scale_x=width / wide, scale_y=height / tall, left=0.0, top=0.0)
        if self.mode == "pad_square":
            edge = max(size)
            scale_x, scale_y = width / edge, height / edge
            left, top = (edge - wide) // 2, (edge - tall) // 2
            return Placement(scale_x=scale_x, scale_y=scale_y, left=left * scale_x, top=top * scale_y)
        (new_tall, new_wide), left, top = self._fitted(size)
        return Placement(scale_x=new_wide / wide, scale_y=new_tall / tall, left=float(left), top=float(top))

    def _fitted(self, size: Grid) -> tuple[Grid, int, int]:
        """The resized height and width, and where its left top corner stands (crop: at or below 0)."""
        height, width = self.grid
        tall, wide = size
        if self.mode == "letterbox":
            ratio = min(height / tall, width / wide)
            new = (max(1, min(height, round(tall * ratio))), max(1, min(width, round(wide * ratio))))
            return new, (width - new[1]) // 2, (height - new[0]) // 2
        short = self.shortest or min(self.grid)
        long = short if self.mode == "square_crop" else int(short * max(size) / min(size))
        new = (long, short) if wide <= tall else (short, long)
        return new, -((new[1] - width) // 2), -((new[0] - height) // 2)

    def _tiles(self, image: Image.Image, sliced: Sliced) -> Iterator[Image.Image]:
        """The pictures of the tiles in order."""
        cut, how = sliced.cut, _FILTERS[self.resample]

        def brought(picture: Image.Image, size: Grid) -> Image.Image:
            _check_room(picture, size[0] * size[1])
            return picture if picture.size == _wide(size) else picture.resize(_wide(size), how)

        whole = image
        for size in sliced.sizes:
            whole = brought(whole, size)
        view = brought(whole if sliced.late else image, cut.tile)
        if whole.size != _wide(sliced.canvas):
            canvas = Image.new("RGB", _wide(sliced.canvas))
            canvas.paste(whole, _wide(sliced.corner))
            whole = canvas
        own = [brought(whole.crop(box), cut.tile) for box in sliced.boxes]
        yield from {"first": (view, *own), "last": (*own, view), "none": own}[cut.view]

    def _values(self, image: Any) -> np.ndarray:
        return self._normal(self._shaped(open_image(image)))

    def _normal(self, image: Image.Image) -> np.ndarray:
        array = np.asarray(image)
        tables = _tables(self.rescale, self.mean, self.std)
        values = np.empty((3, *array.shape[:2]), np.float32)
        for channel, table in enumerate(tables):
            np.take(
                table, array[:, :, channel], out=values[channel], mode="clip"
            )  # clip: no buffer, and no index is outside
        return values

    def _shaped(self, image: Image.Image) -> Image.Image:
        height, width = self.grid
        how = _FILTERS[self.resample]
        if self.mode == "square":
            return image.resize((width, height), how)
        if self.mode == "pad_square":
            edge = max(image.size)
            _check_room(image, edge * edge)
            corner = ((edge - image.width) // 2, (edge - image.height) // 2)
            return self._on_canvas(image, (edge, edge), corner).resize((width, height), how)
        (new_tall, new_wide), left, top = self._fitted((image.height, image.width))
        _check_room(image, new_tall * new_wide)
        resized = image.resize((new_wide, new_tall), how)
        if self.mode == "letterbox":
            return self._on_canvas(resized, (width, height), (left, top))
        return resized.crop((-left, -top, width - left, height - top))

    def _on_canvas(self, image: Image.Image, size: tuple[int, int], corner: tuple[int, int]) -> Image.Image:
        if image.size == size:
            return image
        canvas = Image.new("RGB", size, tuple(int(value * 255) for value in self.mean))
        canvas.paste(image, corner)
        return canvas


def _patches(images: Sequence[Tensor], tiling: Tiling) -> Patches:
    """The patches of pictures and films, each `[T C H W]`, in the blocks that a tile holds."""
    block = tiling.tile // tiling.patch
    cut = [patched(values, patch=tiling.patch, frames=tiling.depth, block=block) for values in images]
    empty = torch.zeros(0, 3 * tiling.depth * tiling.patch**2)
    values = torch.cat([part for part, _ in cut]) if cut else empty
    return Patches(values=values, grids=tuple(grid for _, grid in cut), block=block)


def _wide(size: Grid) -> tuple[int, int]:
    """Width before height, as Pillow wants sizes."""
    return size[1], size[0]


def _check_room(image: Image.Image, pixels: int) -> None:
    if pixels > LIMIT:
        raise InputError(
            f"an image of {image.width} x {image.height} pixels is too long and thin: on its way it would have "
            f"{pixels} pixels, over the limit of {LIMIT}; crop it, or use the mode letterbox or square"
        )


@lru_cache(maxsize=16)
def _tables(rescale: float, mean: Triple, std: Triple) -> np.ndarray:
    """What each of the 256 levels becomes, a row a channel; rounded where the references round."""
    levels = (np.arange(256, dtype=np.float64) * rescale).astype(np.float32)
    return np.stack([(levels - np.float32(m)) / np.float32(s) for m, s in zip(mean, std, strict=True)])


def _from_huggingface(config: Mapping[str, Any]) -> ImageTransform:
    kind = kind_of(config)
    said = filled(kind, config)
    size, crop, pads, normal = said["size"], said["crop_size"], said["do_pad"], said["do_normalize"]
    common: dict[str, Any] = {
        "resample": _filter(said["resample"]),
        "rescale": float(said["rescale_factor"]) if said["do_rescale"] else 1.0,
        "mean": _triple(said["image_mean"]) if normal else (0.0, 0.0, 0.0),
        "std": _triple(said["image_std"]) if normal else (1.0, 1.0, 1.0),
    }
    named = f"the preprocessor config ({kind}ImageProcessor)"
    if not said["do_resize"]:
        raise InputError(f"{named} does not resize; Foveal needs images of one size: set do_resize")
    if (tiling := tiling_of(kind, said)) is not None:
        return ImageTransform(size=tiling.tile, tiling=tiling, **common)
    if said.get("do_pan_and_scan"):
        raise InputError(f"{named} cuts pictures besides; set do_pan_and_scan to false")
    if pads and not normal:
        raise InputError(f"{named} pads with image_mean and does not subtract it; set do_normalize, or do_pad to false")
    match size:
        case {"shortest_edge": edge} if pads and crop in (None, (edge, edge)):
            return ImageTransform(size=edge, mode="pad_square", **common)
        case {"shortest_edge": edge} if crop and not pads:
            return ImageTransform(size=crop, mode="shortest_crop", shortest=edge, **common)
        case {"height": high, "width": wide} if crop in (None, (high, wide)):
            return ImageTransform(size=(high, wide), mode="pad_square" if pads else "square", **common)
        case {"height": high, "width": wide} if high == wide and not pads:
            return ImageTransform(size=crop, mode="square_crop", shortest=high, **common)
    raise InputError(
        f"{named} asks for size {size}{' with' if crop else ' without'} a centre crop"
        f"{' of what it pads' if pads else ''}; "
        "Foveal makes images of one size: give height and width, or shortest_edge and crop_size"
    )


def _filter(code: Any) -> str:
    for name, known in _FILTERS.items():
        if code in (int(known), name):
            return name
    raise unknown("resample filter", str(code), (f"{int(known)} ({name})" for name, known in _FILTERS.items()))


def _triple(value: Any) -> Triple:
    numbers = [value] * 3 if isinstance(value, int | float) else list(value or ())
    if len(numbers) != 3:
        raise InputError(f"image_mean and image_std hold {len(numbers)} numbers; give three, one a colour")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])
