"""POPE: `coco_pope_random.json`, `_popular` and `_adversarial`, JSON lines on COCO's `val2014` (Li et al. 2023)."""

import json
from collections.abc import Iterator
from pathlib import Path

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.data.convert import folder_of, get
from foveal.data.format import chat

FILES = tuple(
    tuple(f"{folder}coco_pope_{kind}.json" for kind in ("random", "popular", "adversarial"))
    for folder in ("", "output/coco/", "coco/")
)


def examples(source: Path, images: Path | None, split: str = "") -> Iterator[Example]:
    """One example a question, answered yes or no; its kind is how what is not there was drawn, as its file is named."""
    if not source.is_file():
        raise InputError(f"no file at {source}; name a question file of POPE, or the folder of all three")
    folder, kind = images or folder_of(source, "val2014"), source.stem.rpartition("_")[2]
    with open(source, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{source}:{number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{where}: not JSON ({error.msg}); POPE's files are JSON lines") from None
            name, label = str(get(row, "image", where)), str(get(row, "label", where))
            if label not in ("yes", "no"):
                raise InputError(f"{where}: 'label' is {label!r}; it must be yes or no")
            yield Example(
                id=f"{kind}-{get(row, 'question_id', where)}",
                images=(folder / name,),
                messages=tuple(chat(str(get(row, "text", where)), label)),
                meta={"kind": kind, "scene": Path(name).stem, "metric": "pope"},
            )
