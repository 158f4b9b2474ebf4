"""Hugging Face data sets on disk, as `save_to_disk` leaves them or in files of Parquet: rows in the columns of a line.

`messages` may also be `conversations` as LLaVA's authors write them, or `texts` of pairs (user, assistant); a single
picture may stand in `image`. Needs the package datasets.
"""

import glob
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError
from foveal.core.example import Example, Held
from foveal.data.converters.llava import MARKER, message
from foveal.data.format import Checker
from foveal.data.halves import refuse
from foveal.data.media import size
from foveal.data.shards import held

_AT_ONCE = 128  # rows; the library asks for as many as the first group of a file has, which may be none


def read(file: Path) -> Iterator[tuple[str, Example]]:
    """The examples of a file with where they stand, each checked as in `format.read`; images are held pictures, one
    and the same for rows that follow each other on it.

    Raises InputError with row and column.
    """
    known: dict[bytes, Held] = {}
    for number, row in enumerate(_rows(file)):
        where, given = f"{file}: row {number}", _bare(row)
        shown = _listed(given, "images", where) or ([given["image"]] if given.get("image") else [])
        files = [_bytes(picture, file.parent, where) for picture in shown]
        known = {data: known.get(data) or held(data, where) for data in files}
        yield where, example(given, [known[data] for data in files], f"{file.stem}:{number}", where)


def example(given: Mapping[str, Any], shown: Sequence[Held], name: str, where: str) -> Example:
    """The example of a row and its pictures, whose id is the `name` unless it has its own."""
    members = {str(place): picture for place, picture in enumerate(shown)}
    named = {"id": str(given.get("id", name)), "images": list(members), "messages": _messages(given, members, where)}
    told = {**{name: given[name] for name in ("boxes", "meta") if name in given}, **named}
    refuse(told, where)
    check = Checker(root=Path(), exists=members.__contains__, size=lambda name: size(members[name]))
    found = check.example(told, where)
    return replace(found, images=tuple(members[str(name)] for name in found.images))


def _messages(row: Mapping[str, Any], shown: Collection[str], where: str) -> list[Any]:
    if "messages" in row:
        return [_parted(one, where) for one in _listed(row, "messages", where)]
    if "conversations" in row:
        return [message(turn, where, {MARKER: "image"}) for turn in _listed(row, "conversations", where)]
    if "texts" not in row:
        told = f"the columns {', '.join(row)}" if row else "no column that is not null"
        raise InputError(
            f"{where}: has {told}; what is said is read from messages, conversations or texts: rename one, or leave "
            "out the row"
        )
    made: list[Any] = []
    for pair in _listed(row, "texts", where):
        if not isinstance(pair, Mapping):
            raise InputError(f"{where}: 'texts' holds a {type(pair).__name__}; give pairs of user and assistant")
        marks = [] if made else [{"type": "image"} for _ in shown]
        made.append({"role": "user", "content": [*marks, {"type": "text", "text": pair.get("user")}]})
        made.append({"role": "assistant", "content": [{"type": "text", "text": pair.get("assistant")}]})
    return made


def _listed(row: Mapping[str, Any], name: str, where: str) -> list[Any]:
    """A column of lists, none where the row has no such; raises InputError for one of anything else."""
    given = row.get(name, [])
    if not isinstance(given, list):
        way = "; a single picture stands in 'image'" if name == "images" else ""
        raise InputError(f"{where}: {name!r} is a {type(given).__name__}; it must be a list{way}")
    return given


def _parted(one: Any, where: str) -> Any:
    """A message whose text marks images, with parts in the places of the marks."""
    if not isinstance(one, Mapping) or not isinstance(one.get("content"), str) or MARKER not in one["content"]:
        return one
    told = message({"from": "human", "value": one["content"]}, where, {MARKER: "image"})
    return {**one, "content": told["content"]}


def _bare(value: Any) -> Any:
    """Without what is None: columns of structures hold every key in every row."""
    if isinstance(value, Mapping):
        return {key: _bare(inner) for key, inner in value.items() if inner is not None}
    return [_bare(inner) for inner in value] if isinstance(value, list) else value


def _bytes(picture: Any, folder: Path, where: str) -> bytes:
    """The file of a picture, undecoded; a relative path is one from the data's folder, or else from where we are."""
    if isinstance(picture, Mapping):
        picture = picture.get("bytes") or picture.get("path")
    if isinstance(picture, bytes):
        return picture
    for place in (folder / picture, Path(picture)) if isinstance(picture, str) else ():
        if place.is_file():
            return place.read_bytes()
    told = repr(picture) if isinstance(picture, str) else f"a {type(picture).__name__}"
    raise InputError(f"{where}: {told} is no picture; cast that column to datasets.Image()")


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        import datasets
        from datasets.exceptions import DatasetsError
        from pyarrow.parquet import read_metadata
    except ImportError:
        raise InputError(f"{file} is of a Hugging Face data set; pip install datasets, which reads it") from None
    try:
        if file.suffix == ".parquet":
            read_metadata(file)  # the library raises the same, and logs it before
            named = glob.escape(str(file))  # the library takes it for a pattern
            rows = datasets.load_dataset(
                "parquet", data_files=named, split="train", streaming=True, batch_size=_AT_ONCE
            )
            yield from rows.decode(False)
        elif len(saved := datasets.Dataset.from_file(str(file))):
            yield from saved.to_iterable_dataset().decode(False)
    except (OSError, ValueError, DatasetsError) as error:
        line = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"cannot read {file} of a Hugging Face data set ({line}); save it again") from None
