"""How checkpoints look at videos: which frames their processors take, of what size, and the words around these."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from foveal.core.errors import InputError
from foveal.core.types import Grid

Rule = Literal["even", "qwen2_vl", "qwen3_vl", "llava_onevision", "smolvlm"]
_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_SKIPPED = 1  # seconds at either end of a long video that SmolVLM leaves out


@dataclass(frozen=True, kw_only=True)
class Film:
    """A video in a prompt: its chat template writes `word`, and `fill` is the token in the places of its visual tokens.

    They all stand in one place, or `apart`, those of each patch of frames in a place of its own between `each` and
    `after`; `intro` and `end` go around all. The intro may name the {count} of frames in words and the {length} as
    h:mm:ss; `each` the time of its frames as {seconds}, or {minutes} and {rest}.
    """

    word: str = "<video>"
    fill: str = "<video>"
    apart: bool = False
    intro: str = ""
    each: str = ""
    after: str = ""
    end: str = ""

    def places(self, count: int, depth: int) -> int:
        """How many places a video of so many frames takes, `depth` of them in a patch."""
        return math.ceil(count / depth) if self.apart else 1

    def __call__(self, seconds: Sequence[float], length: float, *, depth: int, marker: str) -> str:
        """The words of a video whose frames are shown at these times, with a marker for each place."""
        if not self.apart:
            return self.intro + marker + self.end
        minutes, rest = divmod(int(length), 60)
        hours, minutes = divmod(minutes, 60)
        told = {"count": in_words(len(seconds)), "length": f"{hours}:{minutes:02d}:{rest:02d}"}
        whole = [*seconds, *[seconds[-1]] * (-len(seconds) % depth)]
        text = self.intro.format(**told)
        for first, last in zip(whole[::depth], whole[depth - 1 :: depth], strict=True):
            time = (first + last) / 2
            shown = {"seconds": time, "minutes": int(time // 60), "rest": int(time % 60)}
            text += self.each.format(**shown) + marker + self.after
        return text + self.end


def in_words(number: int) -> str:
    """A number below a thousand in English words; InputError for others."""
    if not 0 <= number < 1000:
        raise InputError(f"{number} frames of a video to be told in words; look at fewer than 1000")
    hundreds, rest = divmod(number, 100)
    below = _ONES[rest] if rest < 20 else _TENS[rest // 10 - 2] + (f"-{_ONES[rest % 10]}" if rest % 10 else "")
    if not hundreds:
        return below
    return f"{_ONES[hundreds]} hundred" + (f" and {below}" if rest else "")


def pace(seconds: Sequence[float], usual: float) -> float:
    """Frames a second of a video, by the times of all of them; the `usual` number where one frame tells none."""
    return (len(seconds) - 1) / (seconds[-1] - seconds[0]) if len(seconds) > 1 and seconds[-1] > seconds[0] else usual


def taken(rule: Rule, total: int, rate: float, *, most: int, least: int, fps: float | None, depth: int) -> list[int]:
    """The frames by number that a processor takes of `total` at `rate` a second; `even` is none of these rules."""
    return _RULES[rule](total, rate, most, least, fps, depth)


def _qwen2(total: int, rate: float, most: int, least: int, fps: float | None, depth: int) -> list[int]:
    wanted = min(max(total / rate * fps, least) if fps else most, most // depth * depth, total // depth * depth)
    return _strided(total, max(1, math.floor(wanted / depth) * depth))


def _qwen3(total: int, rate: float, most: int, least: int, fps: float | None, depth: int) -> list[int]:
    wanted = int(total / rate * fps) if fps else most
    return [round(place) for place in _line(0, total - 1, min(max(wanted, least), most, total))]


def _onevision(total: int, rate: float, most: int, least: int, fps: float | None, depth: int) -> list[int]:
    wanted = int(total / rate * fps) if fps else most
    return _strided(total, min(max(wanted, least), most, total))


def _smolvlm(total: int, rate: float, most: int, least: int, fps: float | None, depth: int) -> list[int]:
    length, fps = total / rate, fps or 1.0
    begin, end = 0, total - 1
    if length - 2 * _SKIPPED > most * fps:
        begin, end = int(_SKIPPED * rate), min(int(total - _SKIPPED * rate), total - 1)
    begin, end = (begin, end) if begin < end else (0, total - 1)
    return sorted({int(place) for place in _line(begin, end, max(1, min(round(fps * length), most)))})


def _line(begin: int, end: int, count: int) -> list[float]:
    """Places at equal distances, the ends among them; one alone is the beginning."""
    step = (end - begin) / max(1, count - 1)
    return [begin + i * step for i in range(count - 1)] + [float(end if count > 1 else begin)]


def _strided(total: int, count: int) -> list[int]:
    return [int(np.float32(i * (total / count))) for i in range(count)]  # as torch counts in steps


_RULES: Mapping[Rule, Callable[[int, float, int, int, float | None, int], list[int]]] = {
    "qwen2_vl": _qwen2,
    "qwen3_vl": _qwen3,
    "llava_onevision": _onevision,
    "smolvlm": _smolvlm,
}


def together(size: Grid, count: int, *, multiple: int, pixels: tuple[int, int], depth: int) -> Grid:
    """The size of each of `count` frames, in multiples, that have so many pixels in all at least and at most."""
    height, width = size
    if min(size) < multiple:
        scale = max(multiple / height, multiple / width)
        height, width = int(height * scale), int(width * scale)
    rows, columns = round(height / multiple) * multiple, round(width / multiple) * multiple
    whole = max(1, round(count / depth)) * depth * rows * columns
    if whole > pixels[1]:
        shrunk = math.sqrt(count * height * width / pixels[1])
        sides = (max(multiple, math.floor(side / shrunk / multiple) * multiple) for side in (height, width))
    elif whole < pixels[0]:
        grown = math.sqrt(pixels[0] / (count * height * width))
        sides = (math.ceil(side * grown / multiple) * multiple for side in (height, width))
    else:
        sides = (rows, columns)
    rows, columns = sides
    return rows, columns
