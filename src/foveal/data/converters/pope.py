"""POPE: `coco_pope_random.json`, `_popular` and `_adversarial`, JSON lines on COCO's `val2014` (Li et al. 2023)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.core.parsing import from_json
from foveal.data.convert import folder_of, get, question, text
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
    for where, row in _rows(source):
        name, label = get(row, "image", where, str), text(row, "label", where)
        if label not in ("yes", "no"):
            raise InputError(f"{where}: 'label' is {label!r}; it must be yes or no")
        yield Example(
            id=f"{kind}-{text(row, 'question_id', where)}",
            images=(folder / name,),
            messages=tuple(chat(question(row, "text", where), label)),
            meta={"kind": kind, "scene": Path(name).stem, "metric": "pope"},
        )


def _rows(source: Path) -> Iterator[tuple[str, Any]]:
    with open(source, encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{source}:{number}", from_json(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{source}:{number}: not JSON ({error.msg}); POPE's files are JSON lines") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{source} is not UTF-8 text ({error.reason}); POPE's files are JSON lines") from None
        except ValueError as error:
            raise InputError(f"{source}:{number}: {error}; POPE's files are JSON lines") from None
