"""Images and videos of an example: one list in memory, in the order in which messages show them, two in a data file."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import VIDEOS, Example, is_film

KINDS = ("image", "video")
T = TypeVar("T")


def shown(messages: Iterable[Mapping[str, Any]], media: Mapping[str, tuple[T, ...]], where: str) -> tuple[T, ...]:
    """The media of all kinds in the order of their markers.

    Raises InputError where a kind has more or fewer markers than media.
    """
    kinds = markers(messages)
    for kind, some in media.items():
        if kinds.count(kind) != len(some):
            raise InputError(
                f"{where}: {kinds.count(kind)} {kind} markers but {len(some)} {kind}s; give each {kind} one marker"
            )
    for some in media.values():
        if len(some) == len(kinds):
            return some
    left = {kind: iter(some) for kind, some in media.items()}
    return tuple(next(left[kind]) for kind in kinds)


def markers(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """The kinds of what messages show, in order."""
    parts = [part for message in messages if not isinstance(message["content"], str) for part in message["content"]]
    return [part["type"] for part in parts if part["type"] in KINDS]


def named(example: Example, root: Path) -> dict[str, list[str]]:
    """The fields of a line that name an example's images and videos, relative to `root`."""
    kinds = markers(example.messages)
    names = [Path(os.path.relpath(image, root)).as_posix() for image in example.images]
    if "video" not in kinds:
        return {"images": names}
    pairs = list(zip(names, kinds, strict=True))
    return {f"{kind}s": [name for name, its in pairs if its == kind] for kind in KINDS}


def check_video(path: str, name: str, where: str) -> None:
    """Raises InputError for a video that is neither a directory nor a file of such a name."""
    if not is_film(path):
        raise InputError(
            f"{where}: names the video {name!r}; a video is a directory of frames, or a file that ends in "
            f"{', '.join(VIDEOS)}"
        )


def frame_size(path: str) -> tuple[int, int]:
    """Width and height of a video's frames in pixels; takes the errors of what opens it."""
    from foveal.preprocess import video

    height, width = video.size(path)
    return width, height


def strip(path: Any) -> Image.Image:
    """The picture of an image file, or some frames of a video beside each other."""
    some = pictures(path)
    if len(some) == 1:
        return some[0]
    result = Image.new("RGB", (sum(one.width for one in some), max(one.height for one in some)), "white")
    for place, one in enumerate(some):
        result.paste(one, (sum(before.width for before in some[:place]), 0))
    return result


def pictures(path: Any, most: int = 4) -> list[Image.Image]:
    """What to show of an image file or a video: the picture, or some of its frames."""
    from foveal.preprocess.image import open_image
    from foveal.preprocess.video import Frames, is_video, open_video

    some: Sequence[Any] = open_video(path, Frames(count=most)).frames if is_video(path) else [path]
    return [open_image(one) for one in some]


def size(picture: Any) -> tuple[int, int]:
    """Width and height in pixels of a picture in memory, upright."""
    from foveal.preprocess.image import image_size

    height, width = image_size(picture)
    return width, height
