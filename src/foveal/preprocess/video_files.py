"""Files of videos, read by PyAV: when each frame is shown, and chosen frames as pictures."""

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from foveal.core.errors import InputError

_MAGIC = {4: (b"ftyp", b"moov", b"mdat"), 0: (b"RIFF", b"\x1a\x45\xdf\xa3")}  # by place
_BROKEN = (ValueError, OSError, EOFError)  # what PyAV raises for data that it cannot read


class Shown(NamedTuple):
    """When a frame is shown, in the file's own units and in seconds, and whether it stands for itself."""

    at: int
    seconds: float
    key: bool


def shown(path: Path) -> tuple[Shown, ...]:
    """Every frame in the order in which they are shown, without decoding one.

    Raises InputError for a file that is no video, is damaged, or holds fewer frames than its head tells.
    """
    try:
        known = os.stat(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check the path") from None
    return _shown(str(path), known.st_size, known.st_mtime_ns)


@lru_cache(maxsize=4096)
def _shown(path: str, size: int, changed: int) -> tuple[Shown, ...]:
    found: list[tuple[int | None, bool]] = []
    with _opened(path) as (container, stream):
        told, base, count = stream.frames, float(stream.time_base), 0
        try:
            for packet in container.demux(stream):
                count += packet.size > 0
                if packet.size > 0 and not packet.is_discard:
                    found.append((packet.pts, packet.is_keyframe))
        except _BROKEN:
            told = max(told, count + 1)
    if count < told:
        raise InputError(f"{path} is damaged or truncated: {count} of {told} frames are there; copy it again")
    if any(at is None for at, _ in found):  # some containers do not say: then the decoder does
        with _opened(path) as (container, stream):
            found = [(frame.pts, bool(frame.key_frame)) for frame in container.decode(stream)]
    times = sorted((at, key) for at, key in found if at is not None)
    if not times:
        raise InputError(f"{path} holds 0 frames; give a video that has some")
    return tuple(Shown(at=at, seconds=(at - times[0][0]) * base, key=key) for at, key in times)


def decoded(path: Path, wanted: Sequence[int]) -> list[Image.Image]:
    """The frames of these numbers (rising, from 0) as upright pictures; only what they need is decoded.

    Raises InputError where one does not decode.
    """
    every = shown(path)
    keys = [frame.at for frame in every if frame.key] or [every[0].at]
    found: list[Image.Image] = []
    with _opened(str(path)) as (container, stream):
        frames, last = iter(()), None
        for number in wanted:
            at = every[number].at
            key = keys[max(bisect_right(keys, at) - 1, 0)]
            if last is None or key > last:
                container.seek(key, stream=stream)
                frames = container.decode(stream)
            picture, last = _until(frames, at), at
            if picture is None:
                raise InputError(f"{path} is damaged: frame {number} of {len(every)} does not decode; copy it again")
            found.append(picture)
    return found


def _until(frames: Iterator[Any], at: int) -> Image.Image | None:
    """The frame that is shown at a time, out of those that follow; None where there is none."""
    try:
        for frame in frames:
            if frame.pts is not None and frame.pts >= at:
                return frame.to_image().rotate(frame.rotation, expand=True) if frame.pts == at else None
    except _BROKEN:
        return None
    return None


@contextmanager
def _opened(path: str) -> Iterator[tuple[Any, Any]]:
    """A file and its first stream of pictures."""
    try:
        import av
    except ImportError:
        raise InputError(
            f"{path}: video files want the package av; pip install 'foveal[video]', or give a directory of frames"
        ) from None
    try:
        container = av.open(path)
    except _BROKEN:
        raise InputError(_refusal(path)) from None
    with container:
        if not container.streams.video:
            raise InputError(f"{path} holds no pictures, only {len(container.streams)} other streams; give a video")
        yield container, container.streams.video[0]


def _refusal(path: str) -> str:
    """What to say of a file whose head does not read."""
    with open(path, "rb") as file:
        begin = file.read(12)
    if not begin:
        return f"{path} is empty (0 bytes); replace it by a video"
    if any(begin[place:].startswith(signs) for place, signs in _MAGIC.items()):
        return f"{path} is damaged or truncated (its head does not read); copy it again"
    return f"{path} is no video that PyAV reads (it begins with {begin!r}); give an MP4, MOV, MKV, WebM or AVI"
