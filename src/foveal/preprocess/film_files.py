"""How a checkpoint looks at videos, out of its own files."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from foveal.core.errors import InputError
from foveal.preprocess.films import Film
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.video import Frames

_PAD, _FAKE = "<|video_pad|>", "<fake_token_around_image>"
_QWEN_2 = Film(word=_PAD, fill=_PAD)
_QWEN_3 = Film(word=_PAD, fill=_PAD, apart=True, each="<{seconds:.1f} seconds><|vision_start|>", after="<|vision_end|>")
_SMOL = Film(
    fill="<image>",
    apart=True,
    intro="You are provided the following series of {count} frames from a {length} [H:MM:SS] video.\n",
    each="\nFrame from {minutes:02d}:{rest:02d}:" + _FAKE + "<global-img>",
    after=_FAKE,
    end="\n\n",
)
# Where a checkpoint says nothing else: how many frames at most and least, and how many a second.
_FRAMES: Mapping[str, Frames] = {
    "qwen2_vl": Frames(rule="qwen2_vl", count=768, least=4, fps=2.0, depth=2, written=_QWEN_2),
    "qwen2_5_vl": Frames(rule="qwen2_vl", count=768, least=4, fps=2.0, depth=2, written=_QWEN_2, ticks=4),
    "qwen3_vl": Frames(rule="qwen3_vl", count=768, least=4, fps=2.0, depth=2, written=_QWEN_3),
    "llava_onevision": Frames(rule="llava_onevision", count=32, written=Film()),
    "smolvlm": Frames(rule="smolvlm", count=64, fps=1.0, written=_SMOL),
}
_PIXELS: Mapping[str, tuple[int, int]] = {
    "qwen2_vl": (128 * 28 * 28, 28 * 28 * 768),
    "qwen2_5_vl": (128 * 28 * 28, 28 * 28 * 768),
    "qwen3_vl": (128 * 32 * 32, 32 * 32 * 768),
}


def frames_of(kind: str, video: Mapping[str, Any], vision: Mapping[str, Any]) -> Frames | None:
    """Which frames a checkpoint of this kind looks at, and how they are told, by the settings of its `video` processor
    and of its `vision` encoder; None for one that sees no videos.

    Frames are always chosen by the processor's rule, as it does where `do_sample_frames` is set.
    """
    usual = _FRAMES.get(kind)
    if usual is None:
        return None
    given = video.get("video_sampling") or video
    most = given.get("max_frames") or usual.count
    changed: dict[str, Any] = {
        "count": int(given.get("num_frames") or most),
        "least": int(given.get("min_frames") or usual.least),
        "depth": int(given.get("temporal_patch_size") or usual.depth),
    }
    if usual.ticks is not None:
        changed["ticks"] = int(vision.get("tokens_per_second", usual.ticks))
    fps = given.get("fps") or usual.fps
    return replace(usual, **changed, fps=None if given.get("num_frames") or fps is None else float(fps))


def filmed(look: ImageTransform, kind: str, video: Mapping[str, Any]) -> ImageTransform:
    """The transform that brings frames to the size that the checkpoint's video processor does."""
    if look.tiling is None or kind not in _FRAMES:
        return look
    given = video.get("video_sampling") or {}
    size = given.get("video_size") or video.get("size") or {}
    tiling: Tiling = look.tiling
    if kind == "smolvlm" and tiling.kind == "split":
        longest = int(size.get("longest_edge") or tiling.longest) if isinstance(size, Mapping) else int(size)
        tiling = replace(tiling, film=(1, longest))
    elif tiling.kind == "area":
        if not isinstance(size, Mapping):
            raise InputError(f"a video size of {size}; give its shortest_edge and longest_edge")
        least = video.get("min_pixels") or size.get("shortest_edge") or _PIXELS[kind][0]
        most = video.get("max_pixels") or size.get("longest_edge") or _PIXELS[kind][1]
        tiling = replace(tiling, film=(int(least), int(most)), together=kind == "qwen3_vl")
    return replace(look, tiling=tiling)
