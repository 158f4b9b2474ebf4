"""The data format: JSON lines in the chat form of the OpenAI and Hugging Face processors, images beside them.

{"id", "images": ["a.png"], "messages": [{"role", "content"}], "boxes"?: [{"image", "label", "xyxy"}], "meta"?: {...}}

Where the answer is to be picked, `meta["choices"]` lists the answers to pick from, two or more different ones; the
example's one assistant message is among them.

A part {"type": "video"} shows a video as {"type": "image"} does an image: "videos" names these in order, each a
directory of frames or a video file, and "images" may then be left out. Boxes count images and videos together.
"""

import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError, unknown
from foveal.core.example import FEATURES, Box, Example, answers_of, is_film, marks, pictures
from foveal.core.parsing import from_json
from foveal.data import media
from foveal.data.halves import SPELLED, refuse
from foveal.data.marks import area, keypoints, polygons
from foveal.data.places import files

ROLES = ("system", "user", "assistant")
PARTS = (*media.KINDS, "text")
Sides = tuple[int | float, int | float]  # width and height in pixels
SLACK = 1.0  # pixels that a box may reach over the edge: published boxes are rounded


def chat(question: str, answer: str, images: int = 1, kind: str = "image") -> list[dict[str, Any]]:
    """The messages of one question on some images (or videos, by their kind) and its answer."""
    markers: list[dict[str, Any]] = [{"type": kind} for _ in range(images)]
    return [
        {"role": "user", "content": [*markers, {"type": "text", "text": question}]},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]


def said(example: Example, role: str) -> list[str]:
    """The texts of one role, one for each of its messages."""
    return [
        "".join(part.get("text", "") for part in message["content"])
        for message in example.messages
        if message["role"] == role
    ]


def read(path: str | os.PathLike[str], *, split: str = "train") -> list[Example]:
    """All examples of a .jsonl file, of a .tar or .parquet, or of one split of a data set's directory, each checked.

    Examples that follow each other on one image share their boxes. Raises InputError with file and line.
    """
    return list(iterate(path, split=split))


def iterate(path: str | os.PathLike[str], *, split: str = "train") -> Iterator[Example]:
    """The examples of `read`, one by one."""
    return (example for _, example in located(path, split=split))


def located(path: str | os.PathLike[str], *, split: str = "train") -> Iterator[tuple[str, Example]]:
    """The examples of `read` one by one, each with where it stands: file and line."""
    for file in files(path, split):
        yield from _located(file)


def _located(file: Path) -> Iterator[tuple[str, Example]]:
    if file.suffix == ".tar":
        from foveal.data.shards import read_shard

        yield from ((f"{file}:{number}", example) for number, example in enumerate(read_shard(file), start=1))
        return
    if file.suffix in (".parquet", ".arrow"):
        from foveal.data import tables

        yield from tables.read(file)
        return
    check = Checker(root=file.parent, exists=_cached(os.path.isfile), size=_cached(image_size))
    with open(file, encoding="utf-8-sig") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield f"{file}:{number}", check(line, f"{file}:{number}")
        except UnicodeDecodeError as error:
            raise InputError(f"{file} is not UTF-8 text ({error.reason}); a data file is JSON lines") from None


def _cached(function: Callable[[str], Any]) -> Callable[[str], Any]:
    known: dict[str, Any] = {}

    def ask(name: str) -> Any:
        if name not in known:
            known[name] = function(name)
        return known[name]

    return ask


def image_size(path: str) -> tuple[int, int]:
    """Width and height of an image in pixels, from its head (upright), its file of regions or its frames.

    Raises InputError for what is none.
    """
    if path.endswith(FEATURES):
        from foveal.preprocess import region_files

        return region_files.size(path)
    if is_film(path):
        return media.frame_size(path)
    from foveal.preprocess.image import begun, upright

    with begun(path, f"the image {path}") as picture:
        try:
            height, width = upright(picture)
        except Exception as error:  # Pillow's readers raise nearly anything on broken data
            raise InputError(f"cannot read the image {path} ({error}); replace it or remove its lines") from None
    return width, height


class Checker:
    """Turns a line of JSON into an Example, or raises InputError that says what is wrong with it, and where."""

    def __init__(
        self, *, root: Path, exists: Callable[[str], bool], size: Callable[[str], tuple[int, int]] | None = None
    ) -> None:
        self.root, self.exists, self.size = root, exists, size
        # What follows each other on one image shares its boxes and paths: a tenth of the memory.
        self.last: tuple[list[Any], tuple[Path, ...], Any, tuple[Box, ...]] = ([], (), None, ())
        self.films: tuple[list[Any], tuple[Path, ...]] = ([], ())

    def __call__(self, line: str, where: str) -> Example:
        try:
            row = from_json(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{where}: not JSON ({error.msg} at column {error.colno}); mend or remove it") from None
        except ValueError as error:
            raise InputError(f"{where}: not JSON that is read ({error}); mend or remove it") from None
        if SPELLED.search(line):
            refuse(row, where)
        return self.example(row, where)

    def example(self, row: Any, where: str) -> Example:
        """The Example of a parsed line."""
        if not isinstance(row, dict):
            raise InputError(f"{where}: a {type(row).__name__}, not an object; one line is one example")
        if row.get("features"):
            row = {"images": row["features"], **row}
        if row.get("videos"):
            row = {"images": [], **row}
        for name, kind in (("id", str), ("images", list), ("messages", list)):
            if name not in row:
                raise InputError(f"{where}: lacks the field {name!r}; an example has id, images and messages")
            if not isinstance(row[name], kind):
                raise InputError(f"{where}: {name!r} is a {type(row[name]).__name__}; it must be a {kind.__name__}")
        meta = row.get("meta") or {}
        if not isinstance(meta, dict):
            raise InputError(f"{where}: 'meta' is a {type(meta).__name__}; it must be an object")
        images, features = self.images(row["images"], where), self.features(row.get("features") or [], where)
        if features and len(features) != len(images):
            raise InputError(f"{where}: {len(features)} features but {len(images)} images; give each image its own")
        messages = self.messages(row["messages"], where)
        images = media.shown(messages, {"image": images, "video": self.videos(row.get("videos") or [], where)}, where)
        boxes = self.boxes(row.get("boxes") or [], images, meta, where)
        said = {"id": row["id"], "messages": tuple(messages), "boxes": boxes, "meta": meta}
        made = Example(images=images, features=features, **said)
        answers_of(made, where)
        if "choices" in meta:
            self.choices(made, where)
        return made

    def images(self, names: list[Any], where: str) -> tuple[Path, ...]:
        """The paths of the images, all of which exist."""
        if names != self.last[0]:
            self.last = (names, self.paths(names, "image", where), None, ())
        return self.last[1]

    def features(self, names: Any, where: str) -> tuple[Path, ...]:
        """The paths of the files of region features, all of which exist; none where the images are such files."""
        if not isinstance(names, list):
            raise InputError(f"{where}: 'features' is a {type(names).__name__}; it must be a list")
        return () if names == self.last[0] else self.paths(names, "feature", where)

    def videos(self, names: Any, where: str) -> tuple[Path, ...]:
        """The paths of the videos: directories of frames, or files of videos."""
        if not isinstance(names, list):
            raise InputError(f"{where}: 'videos' is a {type(names).__name__}; it must be a list")
        if names != self.films[0]:
            self.films, self.last = (names, self.paths(names, "video", where)), (*self.last[:2], None, ())
            for name in names:
                media.check_video(str(self.root / name), name, where)
        return self.films[1]

    def paths(self, names: list[Any], what: str, where: str) -> tuple[Path, ...]:
        """File names as paths."""
        for name in names:
            if not isinstance(name, str):
                raise InputError(f"{where}: '{what}s' holds a {type(name).__name__}; give file names")
            place = str(self.root / name)
            if not self.exists(place) and not (what == "video" and os.path.isdir(place)):
                within = "its place" if self.root == Path() else self.root
                raise InputError(
                    f"{where}: names the {what} {name!r}, which is not in {within}; add it or mend the name"
                )
        return tuple(self.root / name for name in names)

    @staticmethod
    def messages(messages: list[Any], where: str) -> list[dict[str, Any]]:
        """The messages, each a role and parts of known types."""
        for message in messages:
            if not isinstance(message, dict) or "role" not in message or "content" not in message:
                raise InputError(f"{where}: a message without role or content; give it both")
            if message["role"] not in ROLES:
                raise InputError(f"{where}: {unknown('role', str(message['role']), ROLES)}")
            if isinstance(message["content"], str):
                message["content"] = [{"type": "text", "text": message["content"]}]
            if not isinstance(message["content"], list):
                raise InputError(f"{where}: content is a {type(message['content']).__name__}; give a list or a text")
            for part in message["content"]:
                kind = part.get("type") if isinstance(part, dict) else None
                if kind not in PARTS:
                    raise InputError(f"{where}: {unknown('content type', str(kind), PARTS)}")
                if kind == "text" and not isinstance(part.get("text"), str):
                    raise InputError(f"{where}: a text part without 'text'; give it one")
        if not messages:
            raise InputError(f"{where}: no messages; an example has at least one")
        return messages

    @staticmethod
    def choices(example: Example, where: str) -> None:
        """Raises InputError for choices that are no two different texts, or without the answer among them."""
        given, where = example.meta["choices"], f"{where}: example {example.id!r}"
        if not isinstance(given, list) or not all(isinstance(choice, str) and choice.strip() for choice in given):
            raise InputError(f"{where} has choices {given!r}; give a list of texts, none of them empty")
        if len(given) < 2:
            raise InputError(f"{where} has {len(given)} choices; give 2 or more, or leave 'choices' out")
        choice, times = Counter(example.choices).most_common(1)[0]
        if times > 1:
            raise InputError(f"{where} has the choice {choice!r} {times} times; give each once")
        answers = sum(message["role"] == "assistant" for message in example.messages)
        if answers != 1:
            raise InputError(f"{where} has choices and {answers} assistant messages; give the one that is right")
        if example.answer not in example.choices:
            raise InputError(f"{where} is answered {example.answer!r}, and its choices are {given}; add the answer")

    def boxes(self, rows: Any, images: tuple[Path, ...], meta: dict[str, Any], where: str) -> tuple[Box, ...]:
        """The boxes, each within its image."""
        size = sides(meta.get("size"), where) if rows else None
        if rows == self.last[2]:
            return self.last[3]
        if not isinstance(rows, list):
            raise InputError(f"{where}: 'boxes' is a {type(rows).__name__}; it must be a list")
        boxes = tuple(self.box(row, images, size, where) for row in rows)
        self.last = (*self.last[:2], rows, boxes)
        return boxes

    def box(self, row: Any, images: tuple[Path, ...], size: Sides | None, where: str) -> Box:
        """One box, within its image."""
        if not isinstance(row, dict) or "label" not in row or "xyxy" not in row:
            raise InputError(f"{where}: a box without label or xyxy; give it both")
        corners, image = row["xyxy"], row.get("image", 0)
        if not isinstance(corners, list) or len(corners) != 4 or not all(isinstance(c, int | float) for c in corners):
            raise InputError(f"{where}: box {row['label']!r} has xyxy {corners!r}; give left, top, right, bottom")
        if not isinstance(image, int) or not 0 <= image < len(images):
            raise InputError(f"{where}: box {row['label']!r} is on image {image!r} of {len(images)}; count from 0")
        if is_film(images[image]):
            raise InputError(
                f"{where}: box {row['label']!r} is on a video, and boxes are those of images; leave it out"
            )
        left, top, right, bottom = corners
        if not (left < right and top < bottom):
            raise InputError(
                f"{where}: box {row['label']!r} is inverted or empty: {corners}; left < right, top < bottom"
            )
        if size is None and self.size is not None:
            size = self.size(str(images[image]))
        if size and not (min(left, top) >= -SLACK and right <= size[0] + SLACK and bottom <= size[1] + SLACK):
            raise InputError(
                f"{where}: box {row['label']!r} at {corners} leaves its image of {size[0]} x {size[1]} pixels; mend it"
            )
        named, bounds = f"{where}: box {row['label']!r}", (size[0], size[1]) if size else None
        return Box(
            label=str(row["label"]),
            xyxy=(float(left), float(top), float(right), float(bottom)),
            image=image,
            segmentation=polygons(row.get("segmentation") or [], bounds, slack=SLACK, where=named),
            keypoints=keypoints(row.get("keypoints") or [], bounds, slack=SLACK, where=named),
            area=area(row.get("area"), where=named),
        )


def sides(given: Any, where: str) -> Sides | None:
    """`meta["size"]`: width and height in pixels, None where it is not given; InputError for anything else."""
    if given is None or given == []:
        return None
    numbers = isinstance(given, list | tuple) and all(isinstance(one, int | float) for one in given)
    if not numbers or len(given) != 2 or not all(0 < one < math.inf for one in given):
        raise InputError(f"{where}: 'size' in 'meta' is {given!r}; give width and height in pixels, or leave it out")
    return given[0], given[1]


def encode(example: Example, root: Path) -> str:
    """An example as a line of JSON without its end of line; image names are relative to `root`."""
    row: dict[str, Any] = {"id": example.id, **media.named(example, root), "messages": example.messages}
    if example.features:
        row["features"] = [Path(os.path.relpath(file, root)).as_posix() for file in example.features]
    if example.boxes:
        row["boxes"] = [encode_box(box.label, box.xyxy, box.image) | marks(box) for box in example.boxes]
    if example.meta:
        row["meta"] = dict(example.meta)
    return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def encode_box(label: str, xyxy: Sequence[float | int], image: int = 0) -> dict[str, Any]:
    """A box as the object that a line holds; whole pixels are written as whole numbers."""
    return {"image": image, "label": label, "xyxy": [int(c) if c == int(c) else c for c in xyxy]}


def write(path: str | os.PathLike[str], examples: Iterable[Example]) -> int:
    """Write examples to a .jsonl file and return how many; the file appears whole or not at all."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".tmp")
    try:
        number = 0
        with open(handle, "w", encoding="utf-8") as lines:
            for example in examples:
                lines.write(encode(example, file.parent) + "\n")
                number += 1
        os.chmod(partial, 0o644)
        os.replace(partial, file)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise
    return number


def grouped(examples: Iterable[Example]) -> list[list[Example]]:
    """The examples of each scene together (those on the same images), in order of first appearance."""
    groups: dict[tuple[Any, ...], list[Example]] = {}
    for example in examples:
        groups.setdefault(pictures(example), []).append(example)
    return list(groups.values())
