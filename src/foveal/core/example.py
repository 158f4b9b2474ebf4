"""One example of a data set: the chat format of the OpenAI and Hugging Face processors, with what is known besides."""

import hashlib
import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePath
from typing import Any

from foveal.core.errors import InputError

Keypoint = tuple[float, float, int]  # x, y, and 0 where it is not known, 1 where it is hidden, 2 where it is seen
FEATURES = (".npz", ".safetensors")  # how files of region features end
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")  # how files of videos end


def is_film(path: str | os.PathLike[str]) -> bool:
    """Whether what stands among images under this name is a video: a directory of frames, or a file of such a name."""
    return os.fspath(path).lower().endswith(VIDEOS) or os.path.isdir(path)


@dataclass(frozen=True, eq=False)
class Held:
    """A picture in memory as the bytes of its file, decoded anew at each look; it equals one of the same bytes."""

    data: bytes = field(repr=False)

    @cached_property
    def digest(self) -> bytes:
        """What stands for the bytes where pictures are told apart, and lets go of them."""
        return hashlib.sha256(self.data).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclass(frozen=True, kw_only=True)
class Box:
    """A named rectangle, `xyxy` in pixels of image number `image`; where a model has found it, how sure it is.

    It may hold the thing's outline, polygons of x y x y ..., its named points, and its `area` in pixels, which need not
    be that of either.
    """

    label: str
    xyxy: tuple[float, float, float, float]
    image: int = 0
    score: float | None = None
    segmentation: tuple[tuple[float, ...], ...] = ()
    keypoints: tuple[Keypoint, ...] = ()
    area: float | None = None


def marks(box: Box) -> dict[str, Any]:
    """A box's outline, points and area as COCO writes them, under its names; what is not there is left out."""
    row: dict[str, Any] = {"segmentation": [list(one) for one in box.segmentation]} if box.segmentation else {}
    row |= {} if box.area is None else {"area": box.area}
    return row | ({"keypoints": [value for point in box.keypoints for value in point]} if box.keypoints else {})


@dataclass(frozen=True, kw_only=True)
class Example:
    """Messages with their images (paths, or pictures held or opened, in the order of their markers).

    A directory of frames, or a file that ends as one of `VIDEOS`, is a video and stands among the images.
    `features` are files of region features of the same images, for models that read these; where there are no
    pictures at all, `images` names those files.

    A message is `{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "..."}]}`.
    """

    id: str
    messages: tuple[Mapping[str, Any], ...]
    images: tuple[Any, ...] = ()
    features: tuple[Any, ...] = ()
    boxes: tuple[Box, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers of which one is right (`meta["choices"]`); nothing where the answer is free."""
        return tuple(str(choice).strip() for choice in self.meta.get("choices") or ())

    @property
    def answer(self) -> str:
        """The words of the last assistant message; nothing where there is none."""
        given = [message["content"] for message in self.messages if message.get("role") == "assistant"]
        if not given or isinstance(given[-1], str):
            return str(given[-1]).strip() if given else ""
        return " ".join(part["text"].strip() for part in given[-1] if part["type"] == "text")


def answers_of(example: Example, where: str = "") -> tuple[str, ...]:
    """The answers in `meta["answers"]`, all of them right; InputError for what is no list of texts."""
    given = example.meta.get("answers")
    if given is not None and not (isinstance(given, list) and all(isinstance(answer, str) for answer in given)):
        at = where and f"{where}: "
        raise InputError(f"{at}example {example.id!r} has answers {given!r} in its meta; give a list of texts")
    return tuple(given or ())


def identity(picture: Any) -> Hashable:
    """What two mentions of one picture share: its path, what is in its bytes, or which object it is if it is opened.

    An opened picture is to be kept as long as this is, or another may take its place in memory.
    """
    if isinstance(picture, str | PurePath):
        return str(picture)
    held = Held(picture) if isinstance(picture, bytes) else picture
    return held.digest if isinstance(held, Held) else id(picture)


def pictures(example: Example) -> tuple[Hashable, ...]:
    """What tells an example's pictures from others: the `identity` of each, in order."""
    return tuple(map(identity, example.images))
