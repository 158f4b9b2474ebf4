"""Videos to frames: which of them are looked at, and these as pixels.

A video is a directory of pictures in natural order (`frame2` before `frame10`), or a file that PyAV decodes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import torch

from foveal.core.config import later
from foveal.core.errors import InputError
from foveal.core.example import VIDEOS, is_film
from foveal.core.types import Cut, Grid, Layout, Patches, Pixels
from foveal.layers.axes import moments
from foveal.preprocess import video_files
from foveal.preprocess.films import Film, Rule, pace, taken
from foveal.preprocess.image import Whole, image_size, opened_once
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.transform import ImageTransform

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_SLACK = 1e-6  # of the time between two instants


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Which frames of a video are looked at: at most `count`, evenly from the first to the last.

    A video with fewer gives each of its own once. With `fps`, those shown at so many instants a second are chosen
    before. A directory holds `rate` frames a second. Another `rule` is that of a checkpoint's processor, which takes
    `least` frames or more and puts `depth` of them in a patch; `written` says how it tells of a video in words. On axes
    a patch is one place further in time than the last, or with `ticks` as many as its seconds have (Qwen2.5-VL). Raises
    InputError for numbers out of range.
    """

    count: int = 8
    fps: float | None = None
    rate: float = 1.0
    rule: Rule = later("even")
    least: int = later(1)
    depth: int = later(1)
    written: Film | None = later(None)
    ticks: int | None = later(None)

    def __post_init__(self) -> None:
        if min(self.count, self.least, self.depth) < 1:
            raise InputError(f"{min(self.count, self.least, self.depth)} frames of a video; give 1 or more")
        for name, value in (("fps", self.fps), ("rate", self.rate)):
            if value is not None and not 0 < value < float("inf"):
                raise InputError(f"video.{name} is {value}; give a number above 0")
        if self.ticks is not None and self.ticks < 0:
            raise InputError(f"video.ticks is {self.ticks}; give how many places in time a second takes, 0 or more")


@dataclass(frozen=True, kw_only=True)
class Video:
    """Frames (anything that `open_image` takes), and when each is shown in seconds; InputError where these differ."""

    frames: tuple[Any, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.frames or len(self.frames) != len(self.seconds):
            raise InputError(
                f"a video of {len(self.frames)} frames with {len(self.seconds)} times; give 1 or more of both"
            )


def uniform(total: int, count: int) -> tuple[int, ...]:
    """At most `count` of `total` frames by number, the first and last among them; one alone is the middle one."""
    if count >= total:
        return tuple(range(total))
    if count == 1:
        return ((total - 1) // 2,)
    return tuple((2 * i * (total - 1) + count - 1) // (2 * (count - 1)) for i in range(count))


def paced(seconds: Sequence[float], fps: float) -> tuple[int, ...]:
    """The frames that are shown at some of `fps` instants a second, by number; the last is shown as long as the others.

    Instants are counted from the time of the first frame.
    """
    if len(seconds) < 2:
        return (0,)
    begin = seconds[0]
    ends = [*seconds[1:], seconds[-1] + (seconds[-1] - begin) / (len(seconds) - 1)]
    return tuple(
        number
        for number, (start, end) in enumerate(zip(seconds, ends, strict=True))
        if ceil((start - begin) * fps - _SLACK) < (end - begin) * fps - _SLACK
    )


def chosen(seconds: Sequence[float], frames: Frames) -> tuple[int, ...]:
    """The frames that are looked at, by number, out of all of a video by their times."""
    if frames.rule != "even":
        way = {"most": frames.count, "least": frames.least, "fps": frames.fps, "depth": frames.depth}
        return tuple(taken(frames.rule, len(seconds), pace(seconds, frames.rate), **way))
    some = tuple(range(len(seconds))) if frames.fps is None else paced(seconds, frames.fps)
    return tuple(some[place] for place in uniform(len(some), frames.count))


def is_video(source: Any) -> bool:
    """Whether an image of an example is a video: one that is opened, a directory, or a file of such a name."""
    return is_film(source) if isinstance(source, str | Path) else isinstance(source, Video)


def among(images: Sequence[Any], tiling: Tiling | None) -> list[Any]:
    """The images of a conversation, pictures `Whole` where the tiling cuts those alone that stand beside no other."""
    shown = [not is_video(image) for image in images]
    if tiling is None or not tiling.alone or sum(shown) < 2:
        return list(images)
    return [Whole(image=image) if picture else image for image, picture in zip(images, shown, strict=True)]


def films(sources: Sequence[Any]) -> list[Any]:
    """The same, each of them a video; raises InputError for what is none."""
    for source in sources:
        if not is_video(source):
            raise InputError(f"{source} is no video; name a file, a directory of frames, or an opened Video")
    return list(sources)


def times(source: Any, rate: float = 1.0) -> tuple[float, ...]:
    """When each frame is shown, in seconds, before one is opened; takes the errors of `open_video`."""
    if isinstance(source, Video):
        return source.seconds
    path = Path(source)
    if path.is_dir():
        return tuple(number / rate for number in range(len(listed(path))))
    return tuple(frame.seconds for frame in video_files.shown(path))


def open_video(source: Any, frames: Frames | None = None) -> Video:
    """The chosen frames of a video: an opened one, a directory or a file.

    Raises InputError for a directory without pictures, and for a file that is no whole video.
    """
    frames = frames or Frames()
    seconds = times(source, frames.rate)
    wanted = chosen(seconds, frames)
    if isinstance(source, Video):
        shown: Sequence[Any] = [source.frames[number] for number in wanted]
    elif Path(source).is_dir():
        every = listed(Path(source))
        shown = [every[number] for number in wanted]
    else:
        shown = video_files.decoded(Path(source), wanted)
    return Video(frames=tuple(shown), seconds=tuple(seconds[number] for number in wanted))


def listed(folder: Path) -> list[Path]:
    """The pictures of a directory in natural order; InputError where it holds none."""
    every = list(folder.iterdir())
    found = [path for path in every if path.suffix.lower() in PICTURES and not path.name.startswith(".")]
    if not found:
        raise InputError(
            f"{folder} holds {len(every)} files and 0 pictures; a video is a directory of PNG or JPEG frames, "
            f"or a file that ends in {', '.join(VIDEOS[:4])} or the like"
        )
    return sorted(found, key=_natural)


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], path.name


def film_word(frames: Frames | None) -> str | None:
    """What stands for a video in the text of a checkpoint's chat template; None: what stands for an image."""
    return None if frames is None or frames.written is None else frames.written.word


def told(source: Any, frames: Frames, marker: str) -> str:
    """A video in the words of its checkpoint, with a marker for each place that its tokens take."""
    assert frames.written is not None
    seconds = times(source, frames.rate)
    shown = [seconds[number] for number in chosen(seconds, frames)]
    length = len(seconds) / pace(seconds, frames.rate)
    return frames.written(shown, length, depth=frames.depth, marker=marker)


def counts(images: Sequence[Any], frames: Frames | None = None) -> tuple[int, ...] | None:
    """How many frames of each image are looked at, before one is opened; None where no image is a video."""
    frames = frames or Frames()
    if not any(map(is_video, images)):
        return None
    return tuple(len(chosen(times(image, frames.rate), frames)) if is_video(image) else 1 for image in images)


def timed(layout: Layout, images: Sequence[Any], frames: Frames | None = None) -> Layout:
    """The layout of these images with the moments of their frames, where a second takes so many places in time."""
    if frames is None or frames.ticks is None or not any(map(is_video, images)):
        return layout
    steps = [_step(image, frames) if is_video(image) else 1.0 for image in images]
    numbers = layout.frames or (1,) * len(images)
    return replace(layout, moments=tuple(moments(*one) for one in zip(numbers, steps, strict=True)))


def _step(source: Any, frames: Frames) -> torch.Tensor:
    """Places in time from a patch of frames to the next, rounded as where the seconds come in a tensor."""
    assert frames.ticks is not None
    seconds = times(source, frames.rate)
    looked = len(chosen(seconds, frames)) / len(seconds) * pace(seconds, frames.rate)  # frames a second
    return frames.ticks * torch.tensor(frames.depth / looked, dtype=torch.float32)


def pixels(images: Sequence[Any], look: ImageTransform, frames: Frames | None = None) -> Pixels | Patches:
    """One tile a picture (or those that its tiling makes), and one a chosen frame of a video."""
    if look.tiling is not None:
        shown = opened_once(images)
        cut = [look.frames(open_video(one, frames).frames) if is_video(one) else look.cut(one) for one in shown]
        return look.joined(cut)
    opened = [open_video(image, frames).frames if is_video(image) else (image,) for image in images]
    values = [look(picture) for one in opened for picture in one]
    numbers = tuple(map(len, opened)) if any(map(is_video, images)) else None
    return Pixels.whole(torch.stack(values) if values else torch.zeros(0, 3, *look.grid), numbers)


def planned(images: Sequence[Any], look: ImageTransform, frames: Frames | None = None) -> list[Grid | Cut]:
    """What each image will be to an encoder, where the transform cuts: by sizes and numbers of frames alone."""
    assert look.tiling is not None
    numbers = counts(images, frames) or (1,) * len(images)
    return [
        look.tiling.frames(size(image), number) if is_video(image) else look.planned(image)
        for image, number in zip(images, numbers, strict=True)
    ]


def size(source: Any) -> Grid:
    """Height and width of a video's frames in pixels: those of one of them."""
    return image_size(open_video(source, Frames(count=1)).frames[0])


def extent(image: Any) -> Grid:
    """Height and width of a picture or of a video's frames in pixels; takes the errors of what opens it."""
    return size(image) if is_video(image) else image_size(image)


def refuse(images: Sequence[Any], what: str) -> None:
    """Raises InputError for a video where one cannot be."""
    for image in images:
        if is_video(image):
            name = "it" if isinstance(image, Video) else str(image)
            raise InputError(f"{what} of videos are not made here, and {name} is one; give pictures")
