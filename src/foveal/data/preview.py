"""A contact sheet of a data set: pictures with their boxes, questions and answers, as one PNG or one HTML page."""

import base64
import html
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.data.format import said
from foveal.data.media import pictures

SIDE, LINE, WIDTH, COLUMNS, MARGIN = 320, 17, 44, 4, 16  # pixels, pixels a line of text, letters a line, and so on
HUES = ("#c81e1e", "#1d4ed8", "#047857", "#7e22ce", "#b45309", "#0e7490")
STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:24px;background:#f6f6f4;color:#1a1a1a}
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:20px}
article{background:#fff;border:1px solid #ddd;border-radius:8px;padding:12px}img{width:100%;border-radius:4px}
dl{display:grid;grid-template-columns:1fr auto;gap:2px 12px;margin:8px 0 0}dt{color:#444}
dd{margin:0;font-weight:600;text-align:right}h2{font-size:13px;margin:8px 0 0;color:#777;font-weight:500}"""


def write_preview(groups: Sequence[Sequence[Example]], out: Path, *, title: str, credit: str = "") -> None:
    """Write a sheet of scenes (examples that share their images) to a .png or .html file."""
    if not groups:
        raise InputError("no example to show; ask for another split or kind")
    if out.suffix not in (".png", ".html"):
        raise InputError(f"{out} has the ending {out.suffix or 'of no kind'}; a preview is a .png or an .html file")
    if not out.parent.is_dir():
        raise InputError(f"no folder {out.parent} for the preview; make it, or name another file")
    if out.suffix == ".html":
        out.write_text(page(groups, title=title, credit=credit), encoding="utf-8")
    else:
        sheet(groups, credit=credit).save(out)


def picture(group: Sequence[Example], side: int = SIDE) -> Image.Image:
    """What a scene shows (of videos, frames) side by side in a square of `side` pixels, with its first boxes."""
    opened = [(number, shown) for number, path in enumerate(group[0].images) for shown in pictures(path)]
    wide = side // max(1, len(opened))
    result = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(result)
    for place, (number, source) in enumerate(opened):
        scale = min(wide / source.width, side / source.height)
        shown = source.resize((max(1, round(source.width * scale)), max(1, round(source.height * scale))))
        left, top = place * wide + (wide - shown.width) // 2, (side - shown.height) // 2
        result.paste(shown, (left, top))
        for colour, box in enumerate(b for b in group[0].boxes if b.image == number):
            x, y, right, bottom = (scale * c for c in box.xyxy)
            corners = left + x, top + y, max(left + right, left + x + 1), max(top + bottom, top + y + 1)
            pen.rectangle(corners, outline=HUES[colour % len(HUES)])
    return result


def texts(group: Sequence[Example]) -> list[tuple[str, str]]:
    """Question and answer of each example of a scene, the caption first."""
    ordered = sorted(group, key=lambda e: e.meta.get("kind") != "caption")
    return [(" / ".join(said(e, "user")), " / ".join(said(e, "assistant"))) for e in ordered]


def page(groups: Sequence[Sequence[Example]], *, title: str, credit: str) -> str:
    """The sheet as an HTML page that needs no network."""
    cards = []
    for group in groups:
        stream = io.BytesIO()
        picture(group, 2 * SIDE).save(stream, "JPEG", quality=85)
        data = base64.b64encode(stream.getvalue()).decode()
        rows = "".join(f"<dt>{html.escape(q)}</dt><dd>{html.escape(a)}</dd>" for q, a in texts(group))
        name = html.escape(str(group[0].meta.get("scene", group[0].id)))
        cards.append(
            f'<article><img alt="{name}" src="data:image/jpeg;base64,{data}"><h2>{name}</h2><dl>{rows}</dl></article>'
        )
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
    body = f"<h1>{html.escape(title)}</h1><main>{''.join(cards)}</main><p>{html.escape(credit)}</p>"
    return f"{head}<style>{STYLE}</style>{body}</html>\n"


def sheet(groups: Sequence[Sequence[Example]], *, credit: str) -> Image.Image:
    """The sheet as one picture."""
    return tiled([card(group) for group in groups], columns=COLUMNS, credit=credit)


def tiled(cards: Sequence[Image.Image], *, columns: int, credit: str = "") -> Image.Image:
    """Cards of one width beside and below each other, and the credit under them."""
    columns, wide = min(columns, len(cards)), cards[0].width
    rows = [cards[i : i + columns] for i in range(0, len(cards), columns)]
    height = sum(max(c.height for c in row) + MARGIN for row in rows) + 2 * MARGIN
    result = Image.new("RGB", (columns * (wide + MARGIN) + MARGIN, height), "#f6f6f4")
    top = MARGIN
    for row in rows:
        for column, one in enumerate(row):
            result.paste(one, (MARGIN + column * (wide + MARGIN), top))
        top += max(c.height for c in row) + MARGIN
    ImageDraw.Draw(result).text((MARGIN, top - 4), credit, fill="#777777", font=ImageFont.load_default(11))
    return result


def labelled(shown: Image.Image, lines: Sequence[tuple[str, str]]) -> Image.Image:
    """A picture above lines of text, each with its colour."""
    result = Image.new("RGB", (shown.width, shown.height + 10 + LINE * len(lines)), "white")
    result.paste(shown, (0, 0))
    pen, letters = ImageDraw.Draw(result), ImageFont.load_default(13)
    for number, (text, ink) in enumerate(lines):
        pen.text((6, shown.height + 6 + LINE * number), text, fill=ink, font=letters)
    return result


def card(group: Sequence[Example]) -> Image.Image:
    """One scene: its picture above its questions and answers."""
    lines: list[tuple[str, str]] = []
    for question, answer in texts(group):
        lines += [(part, "#444444") for part in textwrap.wrap(question, WIDTH)]
        lines += [("    " + part, "#0b3d91") for part in textwrap.wrap(answer, WIDTH - 4)]
    return labelled(picture(group), lines)
