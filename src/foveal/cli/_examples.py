"""The examples that a recipe trains on: read from data sets, or made when they are first needed."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.cli import _detection
from foveal.core.config import dump, later
from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.data.motion import MotionConfig
from foveal.data.portraits import PortraitConfig
from foveal.data.scenes import SceneConfig

if TYPE_CHECKING:
    from foveal.cli._recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The examples: starter scenes, portraits or videos, made when first needed, or data sets by directory or file.

    Of several data sets, each is a source by the name of its directory or file, and stages may choose among them.
    """

    scenes: SceneConfig | None = None
    portraits: PortraitConfig | None = None
    count: int = 9000
    path: str | tuple[str, ...] | None = None
    split: str = "train"
    motion: MotionConfig | None = later(None)

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.scenes, self.portraits, self.motion, self.path)) != 1:
            raise InputError(
                "a recipe's data are 'scenes', 'portraits' or 'motion' (made here) or a 'path'; give one of them"
            )
        if self.count < 1:
            raise InputError(f"data.count is {self.count}; make 1 or more")
        places = Counter(Path(path) for path in paths(self))
        if self.path is not None and not places:
            raise InputError("data.path names no data set; give a directory or a file, or several of them")
        for place, count in places.items():
            if count > 1:
                raise InputError(f"data.path names {place} {count} times; name it once ('kinds' see it oftener)")


def paths(data: DataConfig) -> list[Path]:
    """Where the data sets are that a recipe names; none where they are made here."""
    given = (data.path,) if isinstance(data.path, str) else data.path or ()
    return [Path(path) for path in given]


def data_folder(recipe: "Recipe", *, say: Any, bar: Any) -> Path:
    """The directory of the recipe's data; starter scenes are made once and kept in the user's cache.

    `say(line)` tells what is done, `bar(what, total)` shows how far. Raises InputError for data that are not there.
    """
    if recipe.data.path is not None:
        return paths(recipe.data)[0]
    from foveal.data.generate import MARK
    from foveal.training.processes import processes
    from foveal.weights.smollm2 import user_cache

    kind = next(name for name in ("scenes", "portraits", "motion") if getattr(recipe.data, name) is not None)
    described = json.dumps({kind: dump(getattr(recipe.data, kind)), "count": recipe.data.count}, sort_keys=True)
    folder = user_cache() / kind / hashlib.sha256(described.encode()).hexdigest()[:16]
    with processes(recipe.training.device).main_process_first():
        if not (folder / MARK).is_file():
            say(f"making {recipe.data.count:,} {kind} in {folder}")
            try:
                _make(recipe.data, folder, bar)
            except InputError:
                if (folder / MARK).is_file():  # another training has made the same meanwhile, and may read it
                    return folder
                if any(folder.glob("*")):
                    raise InputError(f"{folder} holds something else than data made here; remove it") from None
                raise
    return folder


def _make(data: DataConfig, folder: Path, bar: Any) -> None:
    """Write what the recipe wants to a directory, by a process for each core where it is much work."""
    from foveal.core.machine import cores
    from foveal.data.generate import tasks, write_scenes
    from foveal.data.motion import write_motion
    from foveal.data.portraits import write_portraits

    if data.scenes is not None:
        with bar("scenes", sum(last - first for _, first, last in tasks(data.count, data.scenes))) as advance:
            write_scenes(folder, data.scenes, count=data.count, workers=cores(), progress=advance)
    if data.portraits is not None:
        with bar("portraits", data.count) as advance:
            write_portraits(folder, data.portraits, count=data.count, progress=advance)
    if data.motion is not None:
        with bar("videos", data.count) as advance:
            write_motion(folder, data.motion, count=data.count, workers=cores(), progress=advance)


def examples(recipe: "Recipe", folder: Path) -> list[Example]:
    """The training examples. Raises InputError with file and line for one that is wrong."""
    from foveal.data.format import read as read_examples

    found: list[Example] = []
    for path in paths(recipe.data) or [folder]:
        read = read_examples(path, split=recipe.data.split)
        if not read:
            raise InputError(f"{path} holds no examples in its split {recipe.data.split!r}; nothing to train on")
        read = _detection.shaped(recipe.processor, read, path)
        found += [replace(example, meta={**example.meta, "source": path.stem}) for example in read]
    return found
