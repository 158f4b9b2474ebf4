"""A layout becomes a picture."""

from PIL import Image, ImageDraw

from foveal.data.backgrounds import INKS, PLATES, paint
from foveal.data.drawings import scaled
from foveal.data.layout import Item, Layout, font, stroke, text_box


def render(layout: Layout) -> Image.Image:
    """The scene as an RGB picture of its canvas's size."""
    picture = paint(layout.background, layout.width, layout.height)
    for item in layout.drawings:
        draw(picture, item)
    for item in layout.words:
        write(picture, item)
    return picture


def draw(picture: Image.Image, item: Item) -> None:
    """Lay a drawing into its box."""
    left, top, right, bottom = item.xyxy
    drawing = scaled(item.name, right - left, bottom - top)
    picture.paste(drawing, (left, top), drawing)


def write(picture: Image.Image, word: Item) -> None:
    """Write a word into its box, on its plate if it has one."""
    pen = ImageDraw.Draw(picture)
    left, top, right, bottom = word.xyxy
    if word.plate:
        pad = 2 + word.points // 6
        box = (left - pad, top - pad, right + pad - 1, bottom + pad - 1)
        pen.rounded_rectangle(box, radius=pad, fill=PLATES[word.plate])
    ink_left, ink_top, _, _ = text_box(word.name, word.points)
    start, weight = (left - ink_left, top - ink_top), stroke(word.points)
    pen.text(start, word.name, fill=INKS[word.ink], font=font(word.points), stroke_width=weight)
