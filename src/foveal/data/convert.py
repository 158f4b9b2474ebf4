"""Published layouts become ours: `converters/` holds one file for each, found by its name."""

import difflib
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError, unknown
from foveal.core.example import Example
from foveal.core.lookup import module, names
from foveal.core.parsing import from_json
from foveal.data.copies import Copies
from foveal.data.format import Checker, encode, write

ID = (int, str)
WORDS = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "an object"}
Converter = Callable[[Path, Path | None, str], Iterator[Example]]


def layouts() -> list[str]:
    """The layouts that can be converted, as the command line names them: `llava`, `coco-captions` ..."""
    return [name.replace("_", "-") for name in names("data.converters")]


def converter(layout: str) -> Converter:
    """The function that reads a layout; InputError with the nearest name for an unknown one."""
    return _file(layout).examples


def _file(layout: str) -> Any:
    if layout not in layouts():
        raise unknown("layout", layout, layouts())
    return module("data.converters", layout.replace("-", "_"))


def files(source: Path, layout: str, split: str) -> list[Path]:
    """The published files of a split: the one that is named, or those that lie in a folder as they are published.

    Raises InputError for a split that the folder does not hold, and for a folder of another layout.
    """
    if not source.is_dir():
        return [source]
    patterns = getattr(_file(layout), "FILES", ())
    for either in patterns:
        found = [source / name.format(split=split) for name in either if (source / name.format(split=split)).is_file()]
        if found:
            return found
    if not patterns:
        raise InputError(f"{source} is a folder; name the {layout} file in it")
    there = sorted({split for either in patterns for name in either for split in _splits(source, name)})
    if there:
        raise unknown(f"split of {layout} in {source}", split, there)
    wanted = ", ".join(dict.fromkeys(either[0].format(split=split) for either in patterns))
    raise InputError(f"{source} holds no {layout} data; looked for {wanted}; name the file itself")


def _splits(folder: Path, name: str) -> list[str]:
    """The splits of which a folder holds such a file."""
    before, holds, after = name.partition("{split}")
    if not holds:
        return []
    pattern = re.escape(before) + r"(\w+?)" + re.escape(after).replace(r"\{split\}", r"\1")
    known = (path.relative_to(folder).as_posix() for path in folder.glob(name.replace("{split}", "*")))
    return [found[1] for path in known if (found := re.fullmatch(pattern, path))]


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
    """Write OUT/SPLIT.jsonl from a published file, or a folder of such, and return the number of examples.

    Images stay where they are, named relative to OUT, or are copied to OUT/images, where nothing that is there is
    replaced and an equal file is used again. Every example is checked as in `format.read`; one that is wrong, or none
    at all, raises InputError and nothing is written.
    """
    place, folder = Path(source), Path(out)
    read, target = converter(layout), folder / f"{split}.jsonl"
    if images is not None and not Path(images).is_dir():
        raise InputError(f"no folder of images at {images}; name one with --images")
    if target.exists() and not force:
        raise InputError(f"{target} exists; choose another place or split, or replace it with --force")
    pictures = Path(images) if images is not None else None
    rows = (example for file in files(place, layout, split) for example in read(file, pictures, split))
    found = _checked(rows, place, progress)
    if not copy:
        return write(target, found)
    copies = Copies(folder / "images")
    try:
        return write(target, copies(found))
    except BaseException:
        copies.undo()
        raise


def _checked(examples: Iterator[Example], source: Path, progress: Callable[[int], None]) -> Iterator[Example]:
    check, number = Checker(root=Path(), exists=os.path.isfile), 0
    for number, example in enumerate(examples, start=1):
        check(encode(example, Path()), f"{source}: example {example.id}")
        progress(number)
        yield example
    if not number:
        raise InputError(f"{source} holds no example to convert; name a file that does, or another --split")


def load(source: Path) -> Any:
    """The JSON of a file; InputError where there is none."""
    if not source.is_file():
        raise InputError(f"no file at {source}; name the annotation file of the data set")
    try:
        return from_json(source.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{source} is not JSON ({error}); name the annotation file of the data set") from None


def get(row: Any, name: str, where: str, *kinds: type) -> Any:
    """A field of a row; InputError where it is lacking, with the name that may have been meant, or of another kind."""
    if not isinstance(row, dict) or name not in row:
        near = difflib.get_close_matches(
            name, [key for key in row if isinstance(key, str)] if isinstance(row, dict) else [], n=1
        )
        hint = f"did you mean {near[0]!r}?" if near else "is this the layout that --from says?"
        raise InputError(f"{where}: lacks the field {name!r}; {hint}")
    given = row[name]
    # True and False are numbers to Python alone.
    if kinds and (isinstance(given, bool) or not isinstance(given, kinds)):
        wanted = " or ".join(WORDS[kind] for kind in kinds if kind is not int or float not in kinds)
        raise InputError(f"{where}: {name!r} is {short(given)}; it must be {wanted}")
    return given


def may(row: Mapping[str, Any], name: str, where: str, *kinds: type) -> Any:
    """A field that may be lacking or null, which is None; InputError for one of another kind."""
    return None if row.get(name) is None else get(row, name, where, *kinds)


def text(row: Any, name: str, where: str) -> str:
    """A field that is a text, or a number, as its text; InputError for anything else."""
    return str(get(row, name, where, str, int, float))


def question(row: Any, name: str, where: str) -> str:
    """A field that is asked; InputError for what is no text, and for nothing."""
    asked = text(row, name, where)
    if not asked.strip():
        raise InputError(f"{where}: {name!r} is empty; give it words, or leave the row out")
    return asked


def answered(row: Mapping[str, Any], name: str, where: str) -> None:
    """Raises InputError for a row without answers: those of test splits are not published."""
    if isinstance(row, dict) and name not in row and "question" in row:
        raise InputError(f"{where}: has no {name!r}, as in test splits, whose answers are not published; take another")


def warn_of(lost: Mapping[str, int], source: Path) -> None:
    """Warn of what was left out of a file, counted by the reason; nothing where that is nothing."""
    if lost:
        told = ", ".join(f"{count} {reason}" for reason, count in lost.items())
        warnings.warn(f"left out of {source}: {told}", stacklevel=3)


def short(given: Any) -> str:
    """A value as it is shown in an error: its beginning alone where it is long."""
    shown = repr(given)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def rows_of(data: Any, name: str | None, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file, or of its field `name`, each with where it stands.

    Raises InputError for what is no list of objects.
    """
    rows = data if name is None else get(data, name, where)
    if not isinstance(rows, list):
        raise InputError(f"{where}: {name or 'the file'} is a {type(rows).__name__}; it must be a list of objects")
    for number, row in enumerate(rows):
        at = f"{where}: {name or 'row'}[{number}]" if name else f"{where}: row {number}"
        if not isinstance(row, dict):
            raise InputError(f"{at} is a {type(row).__name__}; it must be an object")
        yield at, row


def texts(row: Any, name: str, where: str) -> list[str]:
    """A field that is a list of texts, one at least; InputError for anything else."""
    given = get(row, name, where)
    if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
        raise InputError(f"{where}: {name!r} is {given!r}; it must be a list of texts, one at least")
    return given


def bbox(row: Any, where: str) -> tuple[float, float, float, float]:
    """`bbox` of COCO's annotations: left, top, width and height in pixels; InputError for what is no such four."""
    given = get(row, "bbox", where)
    numbers = isinstance(given, list) and len(given) == 4 and all(type(one) in (int, float) for one in given)
    if not numbers or not all(map(math.isfinite, given)):
        raise InputError(f"{where} has bbox {short(given)}; give left, top, width, height")
    left, top, width, height = map(float, given)
    return left, top, width, height


def folder_of(source: Path, *names: str) -> Path:
    """The first folder of one of these names beside a file, or beside one of the two folders that it lies in.

    Raises InputError where there is none.
    """
    near = (source.parent, source.parent.parent, source.parent.parent.parent)
    found = next((place / name for place in near for name in names if (place / name).is_dir()), None)
    if found is None:
        raise InputError(f"no folder {' or '.join(names)} by {source}; say where the images are with --images")
    return found


def coco_folder(source: Path, data: Any = None) -> Path:
    """The folder of images that belongs to COCO's `annotations/captions_val2017.json`: `val2017` beside it.

    Where the file's own `data` name images beside it, that is its folder.
    """
    rows = data.get("images") if isinstance(data, dict) else None
    first = rows[0] if rows and isinstance(rows, list) else None
    if isinstance(first, dict) and (source.parent / str(first.get("file_name"))).is_file():
        return source.parent
    name = source.stem.rsplit("_", 1)[-1]
    for folder in (source.parent.parent / name, source.parent / name, source.parent.parent / "images" / name):
        if folder.is_dir():
            return folder
    raise InputError(f"no folder {name} beside {source.parent}; say where the images are with --images")


def coco_images(data: Any, source: Path) -> dict[Any, tuple[str, list[int | float]]]:
    """File name and size (width, height in pixels) of each image of a COCO file by its id.

    Raises InputError for fields of other kinds, and a size that is none.
    """
    made = {}
    for at, row in rows_of(data, "images", str(source)):
        size = [get(row, side, at, int, float) for side in ("width", "height")]
        if not all(0 < side < math.inf for side in size):
            raise InputError(f"{at} has 'width' and 'height' {size}; give those of the picture in pixels")
        made[get(row, "id", at, *ID)] = (get(row, "file_name", at, str), size)
    return made
