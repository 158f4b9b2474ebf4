"""Where an answer looked, drawn: the three maps, what they come to, and the tokens over the picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.core.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from foveal.core.types import Relevance

_HIGH = 360  # pixels of a panel
_BAND = 22  # of the words over it
_HUES = ((13, 8, 60), (126, 30, 140), (222, 80, 90), (253, 190, 60), (252, 253, 190))  # from nothing to most


def draw(pictures: list[Any], looked: "tuple[Relevance | None, ...]", out: Path) -> None:
    """Write a row of panels for each picture that was cut.

    Raises InputError where none was by such maps, and where the file cannot be written.
    """
    from PIL import Image

    from foveal.preprocess.image import open_image

    rows = [_row(open_image(picture), one) for picture, one in zip(pictures, looked, strict=False) if one is not None]
    if not rows:
        raise InputError(
            "--map draws where a budget was spent, and no picture was cut by relevance; give a --budget below its "
            "visual tokens, with --strategy foveal"
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


def _row(picture: "Image", one: "Relevance") -> "Image":
    from PIL import Image, ImageDraw, ImageFont

    size = (max(1, round(picture.width * _HIGH / picture.height)), _HIGH)
    plain = picture.convert("RGB").resize(size)
    panels = [(f"{len(one.boxes)} tokens", _parted(plain, one, picture.size))]
    panels += [(name, _heat(plain, values)) for name, values in zip(one.names, one.maps, strict=True)]
    panels.append(("relevance", _heat(plain, one.shares)))
    sheet = Image.new("RGB", ((size[0] + 6) * len(panels), _HIGH + _BAND), "white")
    pen, letters = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for place, (name, panel) in enumerate(panels):
        left = place * (size[0] + 6)
        pen.text((left + 2, 2), name, fill="black", font=letters)
        sheet.paste(panel, (left, _BAND))
    return sheet


def _parted(plain: "Image", one: "Relevance", size: tuple[int, int]) -> "Image":
    from PIL import ImageDraw

    panel = plain.copy()
    pen = ImageDraw.Draw(panel)
    across, down = plain.width / size[0], plain.height / size[1]
    for top, left, bottom, right in one.boxes.tolist():
        pen.rectangle((left * across, top * down, right * across - 1, bottom * down - 1), outline=(255, 60, 60))
    return panel


def _heat(plain: "Image", values: Any) -> "Image":
    """The values as colours over the grey picture, from their least to their most."""
    import numpy as np
    from PIL import Image, ImageOps

    given = values.float().numpy()
    level = (given - given.min()) / max(float(given.max() - given.min()), 1e-12)
    stops = np.linspace(0, 1, len(_HUES))
    colours = np.stack([np.interp(level, stops, [hue[i] for hue in _HUES]) for i in range(3)], axis=-1)
    heat = Image.fromarray(colours.astype(np.uint8)).resize(plain.size, Image.Resampling.NEAREST)
    return Image.blend(ImageOps.grayscale(plain).convert("RGB"), heat, 0.65)
