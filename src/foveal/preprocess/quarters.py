"""Images that are looked at in quarters and then whole, each a picture of its own (IDEFICS-2, 2405.02246)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from foveal.core.example import Example
from foveal.preprocess.image import Part, parts
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.video import is_video


def quartered(example: Example, tiling: Tiling | None, marker: str) -> Example:
    """The example with four quarters and the whole, in place of each picture, where the tiling says so.

    Its boxes lie in the whole ones. One whose markers and images do not agree stays as it is, and so does one that is
    in parts already.
    """
    images = example.images
    if tiling is None or not tiling.quarters or any(isinstance(image, Part) for image in images):
        return example
    if sum(_markers(message.get("content"), marker) for message in example.messages) != len(images):
        return example  # whoever lays it out says both counts
    shown = [(image,) if is_video(image) else parts(image) for image in images]
    last = [sum(map(len, shown[: number + 1])) - 1 for number in range(len(shown))]
    counts = iter(map(len, shown))
    return replace(
        example,
        images=tuple(part for image in shown for part in image),
        messages=tuple(_repeated(message, counts, marker) for message in example.messages),
        boxes=tuple(replace(box, image=last[box.image]) if box.image < len(last) else box for box in example.boxes),
    )


def _shows(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in ("image", "video")


def _markers(content: Any, marker: str) -> int:
    """How many images a message's content places."""
    if isinstance(content, str):
        return content.count(marker)
    if not isinstance(content, Sequence):
        return 0
    words = (str(part.get("text", "")).count(marker) for part in content if isinstance(part, Mapping))
    return sum(map(_shows, content)) + sum(words)


def _repeated(message: Mapping[str, Any], counts: Iterator[int], marker: str) -> Mapping[str, Any]:
    """The message with as many markers for each image as it has parts."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": _written(content, counts, marker)}
    made: list[Any] = []
    for part in content if isinstance(content, Sequence) else ():
        if _shows(part):
            made += [part] * next(counts)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            made.append({**part, "text": _written(part["text"], counts, marker)})
        else:
            made.append(part)
    return {**message, "content": made}


def _written(text: str, counts: Iterator[int], marker: str) -> str:
    first, *rest = text.split(marker)
    return first + "".join(marker * next(counts) + more for more in rest)
