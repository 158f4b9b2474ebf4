"""What is written around the tiles of an image, so that words tell where each lies (Idefics3, LLaVA-UHD)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from foveal.core.example import Example
from foveal.core.types import Cut
from foveal.preprocess.chat import Span
from foveal.preprocess.tokens import Coder, Encoded, encoded
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.video import Frames, is_video, planned, told


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """Words around tiles: `begin`, then what stands before and between these, then `end`.

    `tile` goes before each tile, with its {row} and {column} counted from 1; `between` parts those of a row, `row` ends
    each row and `rows` parts them. `view` goes before the whole image and `viewed` after it; `beside` parts it from the
    tiles. With `once`, what ends an image and begins the next is written once where these are one word; `apart` parts
    the end from a letter.
    """

    tile: str = ""
    between: str = ""
    row: str = ""
    rows: str = ""
    view: str = ""
    viewed: str = ""
    beside: str = ""
    begin: str = ""
    end: str = ""
    once: bool = False
    apart: str = ""

    def __call__(self, cut: Cut, marker: str) -> str:
        """An image that is cut so, with a marker for each tile."""
        if not cut.grid[0]:
            return self.begin + (self.view + marker + self.viewed) * cut.tiles + self.end
        rows, columns = cut.grid
        lines = []
        for row in range(1, rows + 1):
            named = [self.tile.format(row=row, column=column) + marker for column in range(1, columns + 1)]
            lines.append(self.between.join(named) + self.row)
        own, view = self.rows.join(lines), self.view + marker + self.viewed
        both = {"first": view + self.beside + own, "last": own + self.beside + view, "none": own}
        return self.begin + both[cut.view] + self.end

    def neat(self, text: str) -> str:
        """A text with its images written out, as these stand beside each other and beside words."""
        if self.once and self.begin == self.end:
            text = text.replace(self.end + self.begin, self.end)
        if not self.apart:
            return text
        return re.sub(rf"{re.escape(self.end)}(?=[^\s<])", lambda found: found.group() + self.apart, text)


def spelled(
    example: Example,
    spans: Sequence[Span],
    coder: Coder,
    where: str,
    *,
    marker: str,
    look: ImageTransform,
    frames: Frames | None,
    spelling: Spelling | None,
) -> Encoded:
    """The conversation's tokens; where words stand around the tiles of its images, or tell of its videos, these are
    written out.

    Takes the errors of `encoded`.
    """
    film = None if frames is None or not any(map(is_video, example.images)) else frames.written
    cuts = planned(example.images, look, frames) if spelling is not None and look.tiling is not None else ()
    if not example.images or not (cuts or film):
        return encoded(example, spans, coder, where)
    every = [
        told(image, frames, marker)
        if film is not None and frames is not None and is_video(image)
        else spelling(cuts[number], marker)  # type: ignore[arg-type,misc]
        if cuts
        else marker
        for number, image in enumerate(example.images)
    ]
    numbers, made = count(), []
    for span in spans:
        text = span.text if film is None else span.text.replace(film.word, marker)
        text, *rest = text.split(marker)
        for more in rest:
            number = next(numbers)
            text += (every[number] if number < len(every) else marker) + more
        made.append(replace(span, text=text if spelling is None else spelling.neat(text)))
    found = encoded(example, made, coder, where, spelled=[text.count(marker) for text in every])
    if film is None:
        return found
    word = coder.backend.token_to_id(film.fill)
    fill = coder.fill_id if word is None else word
    return replace(found, fills=tuple(fill if is_video(image) else coder.fill_id for image in example.images))


# IDEFICS-2's: a whole image between two of the same word.
BETWEEN = Spelling(begin="<fake_token_around_image>", end="<fake_token_around_image>", once=True, apart=" ")
# Idefics3's and SmolVLM's: the tiles row by row, and the whole image after an empty line.
BY_NAME = Spelling(
    tile="<fake_token_around_image><row_{row}_col_{column}>",
    row="\n",
    view="<fake_token_around_image><global-img>",
    beside="\n",
    end="<fake_token_around_image>",
)
# LLaVA-UHD's: the whole image, then its slices with commas between them, a row a line (2403.11703).
BY_COMMA = Spelling(beside="\n", between=",", row="\n")
# Ovis 2's: marks of its visual embedding table around and between the whole image and its tiles.
BY_MARK = Spelling(begin="<IMG_START>", viewed="<IMG_GRID>", between="<IMG_COL>", rows="<IMG_ROW>", end="<IMG_END>")
