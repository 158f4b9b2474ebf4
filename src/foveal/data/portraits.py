"""Starter portraits: one drawing on a plain ground, wished for in words, named and asked about, from a seed alone."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from foveal.core.errors import InputError, unknown
from foveal.core.example import Box, Example
from foveal.data.drawings import ATTRIBUTION, CLDR, article, aspect, scaled
from foveal.data.format import chat, encode
from foveal.data.generate import MARK, Summary, picture_bytes, whole_directory
from foveal.data.scenes import split_of

KINDS = ("fox", "frog", "penguin", "owl", "butterfly", "apple", "sunflower", "car", "sailboat", "house")
GROUNDS = {
    "white": (250, 250, 248),
    "yellow": (250, 232, 150),
    "green": (186, 226, 176),
    "blue": (176, 210, 242),
    "pink": (248, 202, 214),
}
SHARE = (0.68, 0.88)  # of the canvas that the drawing's longer side takes
SHADE = 5  # levels of 255 by which a ground differs from its colour
WISHES = ("Draw {it}.", "A drawing of {it}.", "Show me {it}.")
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class PortraitConfig:
    """What portraits are made of: a side in pixels, and the drawings by name."""

    seed: int = 0
    size: int = 128
    kinds: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 1024:
            raise InputError(f"portraits of {self.size} pixels asked for; choose 16 to 1024")
        if self.seed < 0:
            raise InputError(f"seed {self.seed} is negative; give 0 or more")
        if len(set(self.kinds)) < max(2, len(self.kinds)):
            raise InputError(
                f"kinds are {len(set(self.kinds))} different of {len(self.kinds)}; name 2 or more, each once"
            )
        for name in self.kinds:
            if name not in CLDR:
                raise unknown("drawing", name, CLDR)


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """One portrait: which drawing, on which ground, where (left, top, right, bottom), and the picture."""

    name: str
    ground: str
    xyxy: tuple[float, float, float, float]
    image: Image.Image


def portrait(config: PortraitConfig, index: int) -> Portrait:
    """Portrait number `index`; of as many in a row as there are kinds, each drawing is in one."""
    rng = np.random.default_rng((config.seed, 5, index))
    block, place = divmod(index, len(config.kinds))
    name = config.kinds[np.random.default_rng((config.seed, 6, block)).permutation(len(config.kinds))[place]]
    ground = list(GROUNDS)[rng.integers(len(GROUNDS))]
    shade = np.clip(np.array(GROUNDS[ground]) + rng.integers(-SHADE, SHADE + 1, 3), 0, 255)
    picture = Image.new("RGB", (config.size, config.size), tuple(int(level) for level in shade))
    long, ratio = config.size * rng.uniform(*SHARE), aspect(name)
    wide, high = max(1, round(long * min(1, ratio))), max(1, round(long / max(1, ratio)))
    left, top = int(rng.integers(config.size - wide + 1)), int(rng.integers(config.size - high + 1))
    drawing = scaled(name, wide, high)
    picture.paste(drawing, (left, top), drawing)
    corners = (float(left), float(top), float(left + wide), float(top + high))
    return Portrait(name=name, ground=ground, xyxy=corners, image=picture)


def examples(config: PortraitConfig, index: int, shown: Portrait, image: Path) -> list[Example]:
    """What is said about a portrait: a wish for it (every other one names its ground), its name and its colour."""
    rng = np.random.default_rng((config.seed, 7, index))
    it = article(shown.name) + (f" on {shown.ground}" if rng.random() < 0.5 else "")
    others = [name for name in config.kinds if name != shown.name]
    there = rng.random() < 0.5
    asked = shown.name if there else others[rng.integers(len(others))]
    wish = WISHES[rng.integers(len(WISHES))].format(it=it)
    told = {
        "draw": [
            {"role": "user", "content": [{"type": "text", "text": wish}]},
            {"role": "assistant", "content": [{"type": "image"}]},
        ],
        "name": chat("Which drawing is this?", shown.name),
        "present": chat(f"Is this {article(asked)}?", "yes" if there else "no"),
        "colour": chat("Which colour is the ground?", shown.ground),
    }
    common = {"scene": f"d{config.seed}-{index:06d}", "split": split_of(index), "drawing": shown.name}
    boxes = (Box(label=shown.name, xyxy=shown.xyxy),)
    size = [config.size, config.size]
    return [
        Example(
            id=f"{common['scene']}-{kind}",
            messages=tuple(messages),
            images=(image,),
            boxes=boxes,
            meta={"kind": kind, **common, "size": size},
        )
        for kind, messages in told.items()
    ]


def write_portraits(
    out: str | os.PathLike[str],
    config: PortraitConfig,
    *,
    count: int,
    force: bool = False,
    progress: Callable[[int], None] = lambda portraits: None,
) -> Summary:
    """Write `count` portraits to the directory `out`, as train, val and test; InputError for bad arguments."""
    if count < 1:
        raise InputError(f"{count} portraits asked for; give --count 1 or more")
    clock, spent = time.perf_counter(), time.process_time()
    scenes, told = Counter[str](), Counter[str]()
    with whole_directory(Path(out), force=force) as folder:
        (folder / "images").mkdir()
        lines: dict[str, list[str]] = {split: [] for split in SPLITS}
        for index in range(count):
            shown, image = portrait(config, index), folder / "images" / f"d{config.seed}-{index:06d}.png"
            image.write_bytes(picture_bytes(shown.image, "png"))
            made = [encode(example, folder) for example in examples(config, index, shown, image)]
            lines[split_of(index)] += made
            scenes[split_of(index)] += 1
            told[split_of(index)] += len(made)
            progress(1)
        for split, rows in lines.items():
            (folder / f"{split}.jsonl").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        (folder / "ATTRIBUTION.txt").write_text(ATTRIBUTION + "\n")
        about = {"made_by": "foveal data portraits", "count": count, "config": asdict(config)}
        (folder / MARK).write_text(json.dumps(about | {"attribution": ATTRIBUTION}, indent=1) + "\n")
    return Summary(
        scenes={split: scenes[split] for split in SPLITS},
        examples={split: told[split] for split in SPLITS},
        seconds=time.perf_counter() - clock,
        cpu_seconds=time.process_time() - spent,
    )
