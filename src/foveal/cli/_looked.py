"""Where an answer looked, drawn: the three maps, what they come to, and the tokens over the picture."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.core.errors import InputError

if TYPE_CHECKING:
    from numpy import uint8
    from numpy.typing import NDArray
    from PIL.Image import Image

    from foveal.core.types import Answer, Looked

_HIGH, _WIDE = 360, 1440  # pixels of a panel, at most
_BAND = 22  # of the words over it
_HUES = ((13, 8, 60), (126, 30, 140), (222, 80, 90), (253, 190, 60), (252, 253, 190))  # from nothing to most


def draw(pictures: list[Any], answer: "Answer", out: Path) -> None:
    """Write a row of panels for each picture that was cut for the answer.

    Raises InputError where none was by such maps, and where the file cannot be written.
    """
    from PIL import Image

    from foveal.preprocess.image import open_image

    pairs = [(picture, one) for picture, one in zip(pictures, answer.relevance, strict=False) if one is not None]
    rows = [_row(open_image(picture), one, counted(one, answer)) for picture, one in pairs]
    if not rows:
        raise InputError(
            "--map draws what a budget was spent by, and no picture was cut by relevance, as strategy foveal alone "
            "does: ask with that and a --budget below the picture's visual tokens, or without --map"
        )
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    try:
        sheet.save(out)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {out} ({error}); name a picture file, such as looked.png") from None


def counted(one: "Looked", answer: "Answer") -> str:
    """How many tokens a picture became, in words; of queries, which lie nowhere in it, as many as were read."""
    if len(one.boxes):
        return f"{len(one.boxes)} tokens"
    return f"{answer.visual_tokens} tokens{' in all' if len(answer.relevance) > 1 else ''}"


def _row(picture: "Image", one: "Looked", tokens: str) -> "Image":
    from PIL import Image, ImageDraw, ImageFont

    scale = min(_HIGH / picture.height, _WIDE / picture.width)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    plain = picture.convert("RGB").resize(size)
    panels = [(tokens, parted(plain, one.boxes.tolist(), picture.size))]
    panels += [(name, heat(plain, values)) for name, values in zip(one.names, one.maps, strict=True)]
    panels.append(("relevance", heat(plain, one.shares)))
    sheet = Image.new("RGB", ((size[0] + 6) * len(panels), size[1] + _BAND), "white")
    pen, letters = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for place, (name, panel) in enumerate(panels):
        left = place * (size[0] + 6)
        pen.text((left + 2, 2), name, fill="black", font=letters)
        sheet.paste(panel, (left, _BAND))
    return sheet


def parted(plain: "Image", boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> "Image":
    """The tokens' boxes (y0 x0 y1 x1 in pixels of a picture of this width and height) drawn over `plain`."""
    from PIL import ImageDraw

    panel = plain.copy()
    pen = ImageDraw.Draw(panel)
    for box in _scaled(boxes, plain.size, size):
        pen.rectangle(box, outline=(255, 60, 60))
    return panel


def detailed(plain: "Image", boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> "Image":
    """The same boxes, each in the colour of its level of detail: the finest bright, and darker by each doubling."""
    from math import log2

    areas = areas_of(boxes)
    doublings = [log2(area / min(areas)) for area in areas]
    levels = [1 - each / max(1.0, *doublings) for each in doublings]
    return parted(painted(plain, boxes, levels, size), boxes, size)


def areas_of(boxes: Sequence[Sequence[float]]) -> list[float]:
    """How large each box is, and never nothing."""
    return [max((bottom - top) * (right - left), 1e-6) for top, left, bottom, right in boxes]


def painted(
    plain: "Image", boxes: Sequence[Sequence[float]], levels: Sequence[float], size: tuple[int, int]
) -> "Image":
    """Each box filled with the colour of its level, from 0 to 1, over the grey picture."""
    from PIL import Image, ImageDraw

    sheet = Image.new("RGB", plain.size, _HUES[0])
    pen = ImageDraw.Draw(sheet)
    for box, hue in zip(_scaled(boxes, plain.size, size), _coloured(levels).tolist(), strict=True):
        pen.rectangle(box, fill=tuple(hue))
    return _over(plain, sheet)


def heat(plain: "Image", values: Any) -> "Image":
    """The values as colours over the grey picture, from their least to their most."""
    return _over(plain, flat(values, plain.size))


def flat(values: Any, size: tuple[int, int]) -> "Image":
    """The values `[R C]` as colours alone, on a picture of this width and height."""
    from PIL import Image
    from torch.nn.functional import interpolate

    least, most = map(float, values.float().aminmax())
    shown = interpolate(values.float()[None, None], size=size[::-1], mode="nearest-exact")[0, 0]
    return Image.fromarray(_coloured(((shown - least) / max(most - least, 1e-12)).numpy()))


def _coloured(levels: Any) -> "NDArray[uint8]":
    """The colours of levels from 0 to 1."""
    import numpy as np

    stops = np.linspace(0, 1, len(_HUES))
    colours = np.stack([np.interp(levels, stops, [hue[i] for hue in _HUES]) for i in range(3)], axis=-1)
    return colours.astype(np.uint8)


def _over(plain: "Image", colours: "Image") -> "Image":
    from PIL import Image, ImageOps

    return Image.blend(ImageOps.grayscale(plain).convert("RGB"), colours, 0.65)


def _scaled(
    boxes: Sequence[Sequence[float]], shown: tuple[int, int], size: tuple[int, int]
) -> Iterator[tuple[float, float, float, float]]:
    """Boxes of a picture of one size on one of another, x before y, with at least a pixel each."""
    across, down = shown[0] / size[0], shown[1] / size[1]
    for top, left, bottom, right in boxes:
        x, y = left * across, top * down
        yield x, y, max(x, right * across - 1), max(y, bottom * down - 1)
