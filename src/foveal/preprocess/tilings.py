"""The tilings of Hugging Face's image processors, out of their preprocessor_config.json."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from foveal.core.errors import InputError
from foveal.core.types import Grid
from foveal.preprocess.tiling import Tiling

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_STANDARD = {"image_mean": 0.5, "image_std": 0.5}
_COMMON = {"do_resize": True, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
           "image_mean": CLIP_MEAN, "image_std": CLIP_STD, "do_pad": False}  # fmt: skip
_CROPPED = {**_COMMON, "size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224}
_SQUARE = {**_COMMON, "size": {"height": 224, "width": 224}, "do_center_crop": False, "crop_size": 224}
_EDGES = {**_SQUARE, "size": {"longest_edge": 4 * 364}, "resample": 1, **_STANDARD}
_AREA = {"shortest_edge": Tiling(kind="area").pixels[0], "longest_edge": Tiling(kind="area").pixels[1]}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {  # config files leave out what equals their processor's default
    "CLIP": _CROPPED,
    "Siglip": {**_SQUARE, **_STANDARD},
    "Llava": _CROPPED,
    "Bit": _CROPPED,
    "ChineseCLIP": _CROPPED,
    "LlavaNext": _CROPPED,
    "LlavaOnevision": {**_SQUARE, "size": {"height": 384, "width": 384}, "crop_size": None},
    "Idefics3": _EDGES,
    "SmolVLM": _EDGES,
    "Idefics2": {**_EDGES, "size": {"shortest_edge": 378, "longest_edge": 980}, "resample": 2},
    "Mllama": {**_SQUARE, "resample": 2, **_STANDARD},
    "Ovis2": {**_SQUARE, "size": {"height": 384, "width": 384}},
    "Qwen2VL": {**_SQUARE, "size": _AREA},
    "Siglip2": {**_SQUARE, "resample": 2, **_STANDARD},
    "Blip": {**_SQUARE, "size": {"height": 384, "width": 384}},
    "Idefics": _SQUARE,
    "Beit": {**_SQUARE, **_STANDARD},
    "Chameleon": {**_CROPPED, "size": {"shortest_edge": 512}, "crop_size": 512, "resample": 1,
                  "rescale_factor": 0.0078, "image_mean": 1.0, "image_std": 1.0},
    "DeiT": {**_SQUARE, "size": {"height": 256, "width": 256}, "do_center_crop": True, **_STANDARD},
    "Flava": {**_SQUARE, "do_center_crop": True},
    "Gemma3": {**_SQUARE, "resample": 2, **_STANDARD},
    "MobileNetV1": {**_CROPPED, "size": {"shortest_edge": 256}, "resample": 2, **_STANDARD},
    "MobileNetV2": {**_CROPPED, "size": {"shortest_edge": 256}, "resample": 2, **_STANDARD},
    "OwlViT": {**_SQUARE, "size": {"height": 768, "width": 768}, "crop_size": 768},
    "Pvt": {**_SQUARE, "image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)},
    "ViT": {**_SQUARE, "resample": 2, **_STANDARD},
    "VideoMAE": {**_CROPPED, "resample": 2, **_STANDARD},
}  # fmt: skip
_EARLIER = {"Qwen2_5_VL": "Qwen2VL"}  # names that transformers had for a time, for the same
_CROP_IS_TILE = ("LlavaNext", "LlavaOnevision")  # whether or not they say do_center_crop
_UNCROPPED = ("Gemma3",)  # whether or not they say it
_EVERY_384 = tuple((384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7))


def kind_of(config: Mapping[str, Any]) -> str:
    """The processor that a config names, as "CLIP" for a CLIPImageProcessorFast; CLIP's where it names none.

    Raises InputError for one that is not followed.
    """
    given = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "CLIPImageProcessor")
    named = re.fullmatch(r"(.+?)(Image|ImageProcessor|FeatureExtractor)(Fast|Pil)?", given)
    kind = "" if named is None else _EARLIER.get(named[1], named[1])
    if kind not in _DEFAULTS:
        raise InputError(
            f"the preprocessor config names {given!r}, which Foveal does not follow; it follows "
            f"{', '.join(f'{name}ImageProcessor' for name in _DEFAULTS)}: name the one that prepares images alike, or "
            "none"
        )
    return kind


def filled(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with what such a processor does by itself where nothing is said.

    Its `size` names its pixels, its `crop_size` is the height and width of a centre crop (of a tile, where it cuts
    such), or None without one, and `do_pad` says whether images are padded to a square first. Raises InputError for
    sizes that are neither pixels nor names with pixels.
    """
    usual = _DEFAULTS[kind]
    made = {**usual, **config}
    if kind == "Idefics" and made.get("image_size"):
        made["size"] = made["image_size"]
    if kind in _KINDS and made["size"] is None:
        made["size"] = usual["size"]
    for name in ("size", "rescale_factor"):
        if made[name] is None:
            raise InputError(f"{name} of the preprocessor config is null; give it a value, or leave it out")
    made["size"] = _sides(made["size"], whole=kind != "Siglip" and tuple(usual["size"]) != ("shortest_edge",))
    said = made["do_center_crop"] and kind not in _UNCROPPED
    cropped = made["crop_size"] is not None if kind in _CROP_IS_TILE else said
    made["crop_size"] = _crop(made["crop_size"], kind) if cropped else None
    if kind != "Llava":
        if made["do_pad"] and made.get("pad_size"):
            raise InputError(f"the preprocessor config ({kind}ImageProcessor) pads what it made; set do_pad to false")
        made["do_pad"] = False
    return made


def _sides(given: Any, *, whole: bool) -> dict[str, int]:
    """A size with names; one number is that of both sides, or of the shortest where it is not the `whole`."""
    if isinstance(given, int):
        return {"height": given, "width": given} if whole else {"shortest_edge": given}
    pair = isinstance(given, list | tuple) and len(given) == 2
    named = dict(zip(("height", "width"), given, strict=True)) if pair else given
    if not isinstance(named, Mapping) or not all(isinstance(side, int | float | None) for side in named.values()):
        raise InputError(f"size of the preprocessor config is {given!r}; give pixels, or names with pixels")
    return {name: int(side) for name, side in named.items() if side is not None}


def _crop(given: Any, kind: str) -> Grid:
    """Height and width of a centre crop. Raises InputError for what is neither these nor one number."""
    if isinstance(given, int):
        return given, given
    if not isinstance(given, Mapping):
        raise InputError(f"crop_size of the preprocessor config is {given!r}; give pixels, or names with pixels")
    if not given.get("height") or not given.get("width"):
        named = f"the preprocessor config ({kind}ImageProcessor)"
        raise InputError(f"{named} has crop_size {dict(given)!r}; give it a height and a width")
    return int(given["height"]), int(given["width"])


def tiling_of(kind: str, config: Mapping[str, Any]) -> Tiling | None:
    """The tiling of such a processor, by its `filled` config; None for one that makes one picture of each image.

    Raises InputError for settings that are not supported.
    """
    if kind in _KINDS:
        return _KINDS[kind](config)
    own_shape = "longest_edge" in config["size"]
    if own_shape or "max_image_tiles" in config:
        wanted = "images of their own shape" if own_shape else "tiles of an image"
        raise InputError(
            f"the preprocessor config ({kind}ImageProcessor) makes {wanted}, and its kind is not known; supported: "
            f"{', '.join(f'{name}ImageProcessor' for name in _KINDS)}"
        )
    return None


def _llava_next(config: Mapping[str, Any]) -> Tiling:
    size = _tile(config)
    return Tiling(kind="anyres", tile=size, pinpoints=_pinpoints(config) or Tiling().pinpoints)


def _llava_onevision(config: Mapping[str, Any]) -> Tiling:
    size = _tile(config)
    return Tiling(kind="anyres", tile=size, pinpoints=_pinpoints(config) or _EVERY_384, alone=True)


def _idefics3(config: Mapping[str, Any]) -> Tiling:
    tile = dict(config.get("max_image_size") or {"longest_edge": 364})["longest_edge"]
    size = config["size"]
    if "longest_edge" not in size:
        raise InputError(f"size {size} of {_name(config)}; give its longest_edge")
    most = Tiling().most if config.get("do_image_splitting", True) else 1
    return Tiling(kind="split", view="last", tile=int(tile), longest=size["longest_edge"], most=most)


def _idefics2(config: Mapping[str, Any]) -> Tiling:
    size = config["size"]
    if {"shortest_edge", "longest_edge"} - size.keys():
        raise InputError(f"size {size} of {_name(config)}; give its shortest_edge and longest_edge")
    split = bool(config.get("do_image_splitting", False))
    shortest, longest = size["shortest_edge"], size["longest_edge"]
    return Tiling(kind="native", tile=longest, shortest=shortest, longest=longest, quarters=split)


def _mllama(config: Mapping[str, Any]) -> Tiling:
    size = _side(config)
    return Tiling(kind="fitted", view="none", tile=size, most=int(config.get("max_image_tiles", 4)))


def _ovis2(config: Mapping[str, Any]) -> Tiling:
    size = _tile(config)
    if "shortest_edge" in config["size"]:
        raise InputError(f"size {config['size']} of {_name(config)}; give height and width")
    most = int(config.get("max_patches", 12)) if config.get("crop_to_patches", False) else 1
    if most > 1 and not config.get("use_covering_area_grid", True):
        raise InputError(f"{_name(config)} chooses tiles by shape alone; set use_covering_area_grid to true")
    return Tiling(kind="covering_turned", tile=size, most=most)


def _qwen(config: Mapping[str, Any]) -> Tiling:
    usual = Tiling(kind="area", tile=28)
    size, patch = config["size"], int(config.get("patch_size", usual.patch))
    if "height" in size:
        raise InputError(f"size {size} of {_name(config)}; give its shortest_edge and longest_edge, in pixels of areas")
    least = config.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels") or usual.pixels[0]
    most = config.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels") or usual.pixels[1]
    depth = int(config.get("temporal_patch_size", usual.depth))
    merge = int(config.get("merge_size", usual.tile // usual.patch))
    return Tiling(kind="area", tile=patch * merge, patch=patch, pixels=(int(least), int(most)), depth=depth)


def _siglip2(config: Mapping[str, Any]) -> Tiling:
    patch, most = int(config.get("patch_size", 16)), int(config.get("max_num_patches", 256))
    return Tiling(kind="naflex", tile=patch, patch=patch, most=most, depth=1)


def _tile(config: Mapping[str, Any]) -> int:
    """The side of the tiles of a processor that cuts them as large as its crop_size, where it has one."""
    size = _side(config)
    high, wide = config["crop_size"] or (size, size)
    if (high, wide) != (size, size):
        raise InputError(
            f"size {size} and crop_size {high} x {wide} of {_name(config)}; both are that of a tile: give one"
        )
    return size


def _side(config: Mapping[str, Any]) -> int:
    """The side of square tiles."""
    size = config["size"]
    sides = {size[name] for name in ("shortest_edge", "height", "width") if size.get(name)}
    if len(sides) != 1:
        raise InputError(f"size {size} of {_name(config)}; tiles are square: give height and width of one length")
    return sides.pop()


def _pinpoints(config: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    return tuple((int(height), int(width)) for height, width in config.get("image_grid_pinpoints") or ())


def _name(config: Mapping[str, Any]) -> str:
    return str(config.get("image_processor_type", "the preprocessor config"))


_KINDS: Mapping[str, Callable[[Mapping[str, Any]], Tiling]] = {
    "LlavaNext": _llava_next,
    "LlavaOnevision": _llava_onevision,
    "Idefics3": _idefics3,
    "SmolVLM": _idefics3,
    "Idefics2": _idefics2,
    "Mllama": _mllama,
    "Ovis2": _ovis2,
    "Qwen2VL": _qwen,
    "Siglip2": _siglip2,
}
