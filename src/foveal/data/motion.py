"""Starter videos: some drawings, of which one moves while the others stay, and questions on it, from a seed alone.

A question of each kind has the same answers for the same words about as often as another: without the frames it
cannot be answered better than by chance. One frame alone does not tell what moves in it.
"""

import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from foveal.core.config import dump
from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.data.backgrounds import Background, background, paint
from foveal.data.captions import listed
from foveal.data.drawings import article, aspect, names
from foveal.data.format import chat, encode
from foveal.data.generate import CHUNK, CODECS, Chunk, Summary, picture_bytes, write_set
from foveal.data.layout import Item, place, scheduled
from foveal.data.render import draw
from foveal.data.scenes import split_of

WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SIZE, FAR = (0.13, 0.24), (0.18, 0.4)  # of a drawing (square root of its area) and of its way, by the canvas's side
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class MotionConfig:
    """What the videos are made of: `frames` of `size` pixels, with the least and the most `things` out of `drawings`.

    Raises InputError for settings out of range.
    """

    seed: int = 0
    size: int = 256
    drawings: int = 60
    things: tuple[int, int] = (3, 5)
    frames: int = 2

    def __post_init__(self) -> None:
        if not 64 <= self.size <= 1024:
            raise InputError(f"videos of {self.size} pixels asked for; choose 64 to 1024")
        if self.seed < 0:
            raise InputError(f"seed {self.seed} is negative; give 0 or more")
        if not 2 <= self.things[0] <= self.things[1] <= 6:
            raise InputError(f"{self.things[0]} to {self.things[1]} things asked for; choose 2 to 6, the fewer first")
        if not 2 <= self.frames <= 64:
            raise InputError(f"{self.frames} frames asked for; choose 2 to 64")
        if self.drawings < self.things[1]:
            raise InputError(f"{self.drawings} drawings for {self.things[1]} things; give as many or more")
        names(self.drawings)


@dataclass(frozen=True, kw_only=True)
class Motion:
    """One video before it is drawn: what stays, and where the mover is in each frame."""

    background: Background
    size: int
    stay: tuple[Item, ...]
    way: str
    moves: tuple[Item, ...]

    @property
    def mover(self) -> str:
        """What moves, by name."""
        return self.moves[0].name

    @property
    def things(self) -> list[str]:
        """All that is there, by name."""
        return sorted(item.name for item in (*self.stay, self.moves[0]))

    def frames(self) -> list[Image.Image]:
        """The pictures in order."""
        still = paint(self.background, self.size, self.size)
        for item in self.stay:
            draw(still, item)
        pictures = [still.copy() for _ in self.moves]
        for picture, item in zip(pictures, self.moves, strict=True):
            draw(picture, item)
        return pictures


def motion(config: MotionConfig, index: int) -> Motion:
    """Video number `index`: every drawing moves as often as another, and every way is taken as often."""
    rng = np.random.default_rng((config.seed, 8, index))
    known = names(config.drawings)
    hero, _ = scheduled(config.seed, index, len(known))
    turns = np.random.default_rng((config.seed, 9, index // len(WAYS))).permutation(len(WAYS))
    way = list(WAYS)[turns[index % len(WAYS)]]
    count = int(rng.integers(config.things[0], config.things[1] + 1))
    others = [known[k] for k in rng.permutation(len(known)) if k != hero][: count - 1]
    back, taken = background(rng), []
    moves = _moving(rng, known[hero], way, config, taken)
    stay = [item for name in others if (item := _placed(rng, name, config.size, taken)) is not None]
    return Motion(background=back, size=config.size, stay=tuple(stay), way=way, moves=moves)


def _moving(
    rng: np.random.Generator, name: str, way: str, config: MotionConfig, taken: list[tuple[int, int, int, int]]
) -> tuple[Item, ...]:
    """The mover in each frame; all that it passes is kept free of others."""
    across, down = WAYS[way]
    far = round(config.size * rng.uniform(*FAR))
    first = _placed(rng, name, config.size, taken, more=(far * abs(across), far * abs(down)))
    assert first is not None  # the canvas is empty, and a drawing with its way is smaller
    left, top, right, bottom = first.xyxy
    start = (left + far * (across < 0), top + far * (down < 0))
    wide, high = right - left - far * abs(across), bottom - top - far * abs(down)
    steps = [round(far * step / (config.frames - 1)) for step in range(config.frames)]
    corners = [(start[0] + across * step, start[1] + down * step) for step in steps]
    return tuple(replace(first, xyxy=(x, y, x + wide, y + high)) for x, y in corners)


def _placed(
    rng: np.random.Generator,
    name: str,
    side: int,
    taken: list[tuple[int, int, int, int]],
    more: tuple[int, int] = (0, 0),
) -> Item | None:
    """A drawing in a place of its own, with `more` room around; what finds none is made smaller."""
    size, root = side * rng.uniform(*SIZE), np.sqrt(aspect(name))
    while size >= SIZE[0] * side / 2:
        box = place(rng, max(3, round(size * root)) + more[0], max(3, round(size / root)) + more[1], side, side, taken)
        if box is not None:
            taken.append(box)
            return Item(name=name, xyxy=box)
        size *= 0.85
    return None


def caption(shown: Motion) -> str:
    """One sentence that names all drawings, and which of them moves where."""
    return f"A video with {listed([article(name) for name in shown.things])}: the {shown.mover} moves {shown.way}."


def examples(config: MotionConfig, index: int, shown: Motion, video: Path) -> list[Example]:
    """Its caption, and what is asked: what moved and where to, and of the mover and of another thing whether it did."""
    rng = np.random.default_rng((config.seed, 10, index))
    other = shown.stay[rng.integers(len(shown.stay))].name
    pair = [(shown.mover, "yes"), (other, "no")]
    asked = [
        ("caption", "Describe the video.", caption(shown)),
        ("mover", "What moved?", shown.mover),
        ("way", f"Where did the {shown.mover} move?", shown.way),
        *(("moved", f"Did the {name} move?", answer) for name, answer in (pair if rng.random() < 0.5 else pair[::-1])),
    ]
    scene = f"m{config.seed}-{index:06d}"
    common = {"scene": scene, "split": split_of(index), "frames": config.frames, "mover": shown.mover, "way": shown.way}
    common["things"] = shown.things
    return [
        Example(
            id=f"{scene}-{number}",
            messages=tuple(chat(question, answer, kind="video")),
            images=(video,),
            meta={"kind": kind, **common},
        )
        for number, (kind, question, answer) in enumerate(asked)
    ]


def write_motion(
    out: str | os.PathLike[str],
    config: MotionConfig,
    *,
    count: int,
    workers: int = 1,
    codec: str = "jpeg",
    force: bool = False,
    progress: Callable[[int], None] = lambda videos: None,
) -> Summary:
    """Write `count` videos, directories of frames, to the directory `out`, as train, val and test.

    The bytes are the same for any number of `workers`. Raises InputError for bad arguments.
    """
    if count < 1:
        raise InputError(f"{count} videos asked for; give --count 1 or more")
    about = {"made_by": "foveal data motion", "count": count, "config": dump(config)}
    work = [(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]
    told = {"about": about, "splits": SPLITS, "workers": workers, "codec": codec, "force": force, "progress": progress}
    return write_set(out, functools.partial(make_chunk, config), work, **told)


def make_chunk(config: MotionConfig, folder: str, codec: str, task: tuple[int, int]) -> Chunk:
    """Write the frames of some videos; returns split, number of lines and lines of each, and processor seconds."""
    start, made = time.process_time(), []
    for index in range(*task):
        shown, place = motion(config, index), Path(folder, "videos", f"m{config.seed}-{index:06d}")
        place.mkdir(parents=True)
        for number, picture in enumerate(shown.frames()):
            (place / f"{number}{CODECS[codec]}").write_bytes(picture_bytes(picture, codec))
        lines = [encode(example, Path(folder)) for example in examples(config, index, shown, place)]
        made.append((split_of(index), len(lines), "".join(f"{line}\n" for line in lines)))
    return made, time.process_time() - start
