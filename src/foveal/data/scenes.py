"""Starter scenes: pictures composed from drawings and words, with caption, boxes and questions, from a seed alone."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from foveal.core.config import later
from foveal.core.errors import InputError
from foveal.data.captions import caption
from foveal.data.choices import Pool, choices
from foveal.data.drawings import names
from foveal.data.layout import Layout, compose
from foveal.data.questions import Question, questions
from foveal.data.render import render
from foveal.data.words import words

SPLITS = ("train", "val", "test", "pairs")


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """What the scenes are made of.

    `size`: a fixed square in pixels, or the least and the most that a side of a varied canvas may have. `drawings` and
    `words`: how many of each vocabulary are in use. `max_drawings`: a scene holds 1 to this many, equally often.
    `per_kind`: the most questions of one kind on a scene (of `present`: the most pairs of a yes and a no).
    `choices`: so many answers to pick from beside each question whose kind has as many (0: none). `detail`: how large
    the tiny drawings and the words are, beside the usual 1; below it they ask for more pixels than a small picture has.
    """

    seed: int = 0
    size: int | tuple[int, int] = (224, 1024)
    drawings: int = 200
    words: int = 100
    max_drawings: int = 12
    per_kind: int = 2
    choices: int = later(0)
    detail: float = later(1.0)

    def __post_init__(self) -> None:
        least, most = (self.size, self.size) if isinstance(self.size, int) else self.size
        if not 64 <= least <= most <= 4096:
            raise InputError(f"size {least}-{most} pixels; both must be 64 to 4096, the smaller first")
        if self.seed < 0:
            raise InputError(f"seed {self.seed} is negative; give 0 or more")
        if not 1 <= self.max_drawings <= 12:
            raise InputError(f"{self.max_drawings} drawings a scene asked for; choose 1 to 12")
        if self.drawings < 20:
            raise InputError(f"{self.drawings} drawings asked for; scenes need 20 or more to choose from")
        if self.per_kind < 1:
            raise InputError(f"{self.per_kind} questions of a kind asked for; give 1 or more")
        if self.choices == 1 or not 0 <= self.choices <= 12:
            raise InputError(f"{self.choices} choices a question asked for; give 0 for none, or 2 to 12")
        if not 0.1 <= self.detail <= 1:
            raise InputError(f"a detail of {self.detail:g}; give 1 for drawings and words as usual, or down to 0.1")
        for choose, number in ((names, self.drawings), (words, self.words)):
            choose(number)


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A drawing or a rendered word (`word` is true) in pixels: left, top, right and bottom, the last two exclusive."""

    label: str
    xyxy: tuple[int, int, int, int]
    word: bool = False


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One scene: `image` is RGB; `boxes` are all drawings, then all words; `split` is train, val, test or pairs."""

    id: str
    split: str
    image: Image.Image
    caption: str
    boxes: tuple[Thing, ...]
    questions: tuple[Question, ...]


def split_of(index: int) -> str:
    """The split of a scene by its index: of every hundred 80 train, 10 val and 10 test, evenly mixed."""
    place = index * 37 % 100
    return "train" if place < 80 else "val" if place < 90 else "test"


class Scenes:
    """An endless list of scenes: `Scenes(config)[index]` depends on the configuration and the index alone.

    With `pairs=True` every scene holds a held-out pair of drawings; without it none does (`layout.held_out`).
    """

    def __init__(self, config: SceneConfig, *, pairs: bool = False) -> None:
        if pairs and config.max_drawings < 2:
            raise InputError("a scene with a pair needs max_drawings of 2 or more, not 1")
        self.config, self.pairs = config, pairs
        self.drawings, self.words = names(config.drawings), words(config.words)

    def layout(self, index: int) -> Layout:
        """Where everything stands in scene `index`, not drawn yet."""
        if index < 0:
            raise IndexError(f"scene {index}: scenes are counted from 0")
        config = self.config
        return compose(
            seed=config.seed, index=index, size=config.size, drawings=self.drawings, words=self.words,
            max_drawings=config.max_drawings, pairs=self.pairs, detail=config.detail,
        )  # fmt: skip

    def questions(self, layout: Layout, index: int) -> tuple[Question, ...]:
        """The questions on the layout of scene `index`."""
        rng = np.random.default_rng((self.config.seed, 4 + self.pairs, index))
        asked = questions(layout, rng, self.config.per_kind)
        if not self.config.choices:
            return asked
        chance = np.random.default_rng((self.config.seed, 8 + self.pairs, index))
        pool = Pool(drawings=self.drawings, words=self.words, max_drawings=self.config.max_drawings)
        return tuple(replace(q, choices=choices(q, layout, pool, self.config.choices, chance)) for q in asked)

    def __getitem__(self, index: int) -> Scene:
        layout = self.layout(index)
        boxes = [Thing(label=i.name, xyxy=i.xyxy) for i in layout.drawings]
        boxes += [Thing(label=i.name, xyxy=i.xyxy, word=True) for i in layout.words]
        return Scene(
            id=f"{'p' if self.pairs else 's'}{self.config.seed}-{index:06d}",
            split="pairs" if self.pairs else split_of(index),
            image=render(layout),
            caption=caption(layout),
            boxes=tuple(boxes),
            questions=self.questions(layout, index),
        )

    def __iter__(self) -> Iterator[Scene]:
        index = 0
        while True:
            yield self[index]
            index += 1
