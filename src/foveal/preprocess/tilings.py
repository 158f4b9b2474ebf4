"""The tilings of Hugging Face's image processors, out of their preprocessor_config.json."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from foveal.core.errors import InputError
from foveal.preprocess.tiling import Tiling

_STANDARD = {"image_mean": 0.5, "image_std": 0.5}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {  # config files leave out what equals their processor's default
    "Idefics3Image": {"resample": 1, **_STANDARD},
    "SmolVLMImage": {"resample": 1, **_STANDARD},
    "Idefics2Image": {"resample": 2, **_STANDARD},
    "MllamaImage": {"resample": 2, **_STANDARD},
    "Ovis2Image": {"do_center_crop": False},
    "BlipImage": {"do_center_crop": False, "size": {"height": 384, "width": 384}},
    "IdeficsImage": {"do_center_crop": False, "size": {"height": 224, "width": 224}},
    "Siglip2Image": {"resample": 2, **_STANDARD},
    "Qwen2VLImage": {"do_center_crop": False, "resample": 3},
    "BeitImage": {"do_center_crop": False, "size": {"height": 224, "width": 224}, **_STANDARD},
    "ChameleonImage": {"size": 512, "crop_size": 512, "resample": 1, "rescale_factor": 0.0078,
                       "image_mean": 1.0, "image_std": 1.0},
    "DeiTImage": {"size": {"height": 256, "width": 256}, **_STANDARD},
    "FlavaImage": {"size": {"height": 224, "width": 224}},
    "Gemma3Image": {"do_center_crop": False, "size": {"height": 224, "width": 224}, "resample": 2, **_STANDARD},
    "MobileNetV1Image": {"size": 256, "resample": 2, **_STANDARD},
    "MobileNetV2Image": {"size": 256, "resample": 2, **_STANDARD},
    "OwlViTImage": {"do_center_crop": False, "size": {"height": 768, "width": 768}},
    "PvtImage": {"do_center_crop": False, "size": {"height": 224, "width": 224}, "image_mean": (0.485, 0.456, 0.406),
                 "image_std": (0.229, 0.224, 0.225)},
    "ViTImage": {"do_center_crop": False, "size": {"height": 224, "width": 224}, "resample": 2, **_STANDARD},
    "VideoMAEImage": {"resample": 2, **_STANDARD},
}  # fmt: skip
_ALIKE = ("CLIP", "Siglip", "Llava", "Bit", "ChineseCLIP")  # whose defaults are those of a config that names no kind
_EVERY_384 = tuple((384 * rows, 384 * columns) for rows in range(1, 7) for columns in range(1, 7))


def kind_of(config: Mapping[str, Any]) -> str:
    """The processor that a config names, without what tells its making (Fast, Pil); CLIP's where it names none.

    Raises InputError for one that is not followed.
    """
    given = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "CLIPImageProcessor")
    kind = re.sub(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$", "Image", given)
    known = [*dict.fromkeys((*(f"{name}Image" for name in _ALIKE), *_DEFAULTS, *_KINDS))]
    if kind not in known:
        raise InputError(
            f"the preprocessor config names {given!r}, which Foveal does not follow; it follows "
            f"{', '.join(f'{name}Processor' for name in known)}: name the one that prepares images alike, or none"
        )
    return f"{kind}Processor"


def filled(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with what such a processor does by itself where nothing else is said."""
    usual = next((usual for name, usual in _DEFAULTS.items() if kind.startswith(name)), {})
    side = config.get("image_size")  # as IDEFICS-1 says it
    return {**usual, **({} if side is None else {"size": {"height": side, "width": side}}), **config}


def tiling_of(kind: str, config: Mapping[str, Any]) -> Tiling | None:
    """The tiling of such a processor; None for one that makes one picture of one size of each image.

    Raises InputError for settings that are not supported.
    """
    for name, read in _KINDS.items():
        if kind.startswith(name):
            return read(config)
    size = config.get("size")
    own_shape = isinstance(size, Mapping) and "longest_edge" in size
    if own_shape or "max_image_tiles" in config:
        wanted = "images of their own shape" if own_shape else "tiles of an image"
        raise InputError(
            f"the preprocessor config ({kind}) makes {wanted}, and its kind is not known; supported: "
            f"{', '.join(f'{name}Processor' for name in _KINDS)}"
        )
    return None


def _llava_next(config: Mapping[str, Any]) -> Tiling:
    size = _side(config, {"shortest_edge": 224})
    crop = config.get("crop_size", 224)
    crop = crop.get("height") if isinstance(crop, Mapping) else crop
    if config.get("do_center_crop", True) and crop != size:
        raise InputError(f"size {size} and crop_size {crop} of {_name(config)}; both are that of a tile: give one")
    return Tiling(kind="anyres", tile=size, pinpoints=_pinpoints(config) or Tiling().pinpoints)


def _llava_onevision(config: Mapping[str, Any]) -> Tiling:
    size = _side(config, {"height": 384, "width": 384})
    return Tiling(kind="anyres", tile=size, pinpoints=_pinpoints(config) or _EVERY_384, alone=True)


def _idefics3(config: Mapping[str, Any]) -> Tiling:
    tile = dict(config.get("max_image_size") or {"longest_edge": 364})["longest_edge"]
    size = dict(config.get("size") or {"longest_edge": 4 * 364})
    if "longest_edge" not in size:
        raise InputError(f"size {size} of {_name(config)}; give its longest_edge")
    most = Tiling().most if config.get("do_image_splitting", True) else 1
    return Tiling(kind="split", view="last", tile=int(tile), longest=int(size["longest_edge"]), most=most)


def _idefics2(config: Mapping[str, Any]) -> Tiling:
    size = dict(config.get("size") or {"shortest_edge": 378, "longest_edge": 980})
    if {"shortest_edge", "longest_edge"} - size.keys():
        raise InputError(f"size {size} of {_name(config)}; give its shortest_edge and longest_edge")
    split = bool(config.get("do_image_splitting", False))
    shortest, longest = int(size["shortest_edge"]), int(size["longest_edge"])
    return Tiling(kind="native", tile=longest, shortest=shortest, longest=longest, quarters=split)


def _mllama(config: Mapping[str, Any]) -> Tiling:
    size = _side(config, {"height": 224, "width": 224})
    return Tiling(kind="fitted", view="none", tile=size, most=int(config.get("max_image_tiles", 4)))


def _ovis2(config: Mapping[str, Any]) -> Tiling:
    size = _side(config, {"height": 384, "width": 384})
    most = int(config.get("max_patches", 12)) if config.get("crop_to_patches", False) else 1
    if most > 1 and not config.get("use_covering_area_grid", True):
        raise InputError(f"{_name(config)} chooses tiles by shape alone; set use_covering_area_grid to true")
    return Tiling(kind="covering_turned", tile=size, most=most)


def _qwen(config: Mapping[str, Any]) -> Tiling:
    usual = Tiling(kind="area", tile=28)
    size, patch = config.get("size") or {}, int(config.get("patch_size", usual.patch))
    least = config.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels") or usual.pixels[0]
    most = config.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels") or usual.pixels[1]
    depth = int(config.get("temporal_patch_size", usual.depth))
    merge = int(config.get("merge_size", usual.tile // usual.patch))
    return Tiling(kind="area", tile=patch * merge, patch=patch, pixels=(int(least), int(most)), depth=depth)


def _siglip2(config: Mapping[str, Any]) -> Tiling:
    patch, most = int(config.get("patch_size", 16)), int(config.get("max_num_patches", 256))
    return Tiling(kind="naflex", tile=patch, patch=patch, most=most, depth=1)


def _side(config: Mapping[str, Any], default: Mapping[str, int]) -> int:
    """The side of square tiles."""
    size = config.get("size") or default
    if isinstance(size, int):
        return size
    sides = {int(size[name]) for name in ("shortest_edge", "height", "width") if size.get(name)}
    if len(sides) != 1:
        raise InputError(f"size {dict(size)} of {_name(config)}; tiles are square: give height and width of one length")
    return sides.pop()


def _pinpoints(config: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    return tuple((int(height), int(width)) for height, width in config.get("image_grid_pinpoints") or ())


def _name(config: Mapping[str, Any]) -> str:
    return str(config.get("image_processor_type", "the preprocessor config"))


_KINDS: Mapping[str, Callable[[Mapping[str, Any]], Tiling]] = {
    "LlavaNextImage": _llava_next,
    "LlavaOnevisionImage": _llava_onevision,
    "Idefics3Image": _idefics3,
    "SmolVLMImage": _idefics3,
    "Idefics2Image": _idefics2,
    "MllamaImage": _mllama,
    "Ovis2Image": _ovis2,
    "Qwen2VLImage": _qwen,
    "Siglip2Image": _siglip2,
}
