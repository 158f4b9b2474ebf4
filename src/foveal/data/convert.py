"""Published layouts become ours: `converters/` holds one file for each, found by its name."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError, unknown
from foveal.core.example import Example
from foveal.core.lookup import module, names
from foveal.data.format import Checker, encode, write

Converter = Callable[[Path, Path | None], Iterator[Example]]


def layouts() -> list[str]:
    """The layouts that can be converted, as the command line names them: `llava`, `coco-captions` ..."""
    return [name.replace("_", "-") for name in names("data.converters")]


def converter(layout: str) -> Converter:
    """The function that reads a layout; InputError with the nearest name for an unknown one."""
    if layout not in layouts():
        raise unknown("layout", layout, layouts())
    return module("data.converters", layout.replace("-", "_")).examples


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    layout: str,
    *,
    images: str | os.PathLike[str] | None = None,
    split: str = "train",
    copy: bool = False,
    force: bool = False,
    progress: Callable[[int], None] = lambda examples: None,
) -> int:
    """Write OUT/SPLIT.jsonl from a published file and return the number of examples.

    Images stay where they are, named relative to OUT, or are copied to OUT/images. Every example is checked as in
    `format.read`; one that is wrong raises InputError and nothing is written.
    """
    place, folder = Path(source), Path(out)
    read, target = converter(layout), folder / f"{split}.jsonl"
    if images is not None and not Path(images).is_dir():
        raise InputError(f"no folder of images at {images}; name one with --images")
    if target.exists() and not force:
        raise InputError(f"{target} exists; choose another place or split, or replace it with --force")
    found = _checked(read(place, Path(images) if images is not None else None), place, progress)
    return write(target, _copied(found, folder) if copy else found)


def _checked(examples: Iterator[Example], source: Path, progress: Callable[[int], None]) -> Iterator[Example]:
    check = Checker(root=Path(), exists=os.path.isfile)
    for number, example in enumerate(examples, start=1):
        check(encode(example, Path()), f"{source}: example {example.id}")
        progress(number)
        yield example


def _copied(examples: Iterator[Example], out: Path) -> Iterator[Example]:
    folder, known = out / "images", {}
    folder.mkdir(parents=True, exist_ok=True)
    for example in examples:
        for image in example.images:
            if image not in known:
                # Two folders may hold the same name.
                taken = (folder / image.name).exists() or image.name in known.values()
                known[image] = f"{len(known)}-{image.name}" if taken else image.name
                copy = shutil.copytree if image.is_dir() else shutil.copyfile
                copy(image, folder / known[image])
        yield replace(example, images=tuple(folder / known[image] for image in example.images))


def load(source: Path) -> Any:
    """The JSON of a file; InputError where there is none."""
    if not source.is_file():
        raise InputError(f"no file at {source}; name the annotation file of the data set")
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{source} is not JSON ({error}); name the annotation file of the data set") from None


def get(row: Any, name: str, where: str) -> Any:
    """A field of a row; InputError where it is lacking."""
    if not isinstance(row, dict) or name not in row:
        raise InputError(f"{where}: lacks the field {name!r}; is this the layout that --from says?")
    return row[name]


def coco_folder(source: Path, data: Any = None) -> Path:
    """The folder of images that belongs to COCO's `annotations/captions_val2017.json`: `val2017` beside it.

    Where the file's own `data` name images beside it, that is its folder.
    """
    rows = data.get("images") if isinstance(data, dict) else None
    if rows and (source.parent / str(rows[0].get("file_name"))).is_file():
        return source.parent
    name = source.stem.rsplit("_", 1)[-1]
    for folder in (source.parent.parent / name, source.parent / name, source.parent.parent / "images" / name):
        if folder.is_dir():
            return folder
    raise InputError(f"no folder {name} beside {source.parent}; say where the images are with --images")


def coco_images(data: Any, source: Path) -> dict[int, tuple[str, list[int]]]:
    """File name and size (width, height in pixels) of each image of a COCO file."""
    rows, where = get(data, "images", str(source)), str(source)
    return {
        get(row, "id", where): (get(row, "file_name", where), [get(row, "width", where), get(row, "height", where)])
        for row in rows
    }
