"""An encoder that is trained already in the place of a recipe's own, by one setting."""

from collections.abc import Mapping
from typing import Any

from foveal.core.config import dump
from foveal.core.lookup import names


def adopted(given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe, as plain mappings, whose `model.vision` may name a source: a run, or a checkpoint's directory.

    The source brings weights, settings and how pictures are prepared, in the place of the recipe's; beside it
    (`from: SOURCE`) other settings may stand, such as the `layers` that are tapped, and `image` for those of pictures.
    Raises InputError for an unknown source.
    """
    model = given.get("model")
    vision = model.get("vision") if isinstance(model, Mapping) else None
    own = dict(vision) if isinstance(vision, Mapping) else {"from": vision}
    source = own.pop("from", None)
    if not isinstance(model, Mapping) or not isinstance(source, str) or source in names("vision"):
        return dict(given)
    from foveal.weights.pretrained import vision_parts

    settings, image = vision_parts(source)
    processor, mine = dict(given.get("processor") or {}), own.pop("image", None) or {}
    look = {**(processor.get("image") or {} if image is None else dump(image)), **mine}
    return {
        **given,
        "model": {**model, "vision": {**settings, **own}},
        "init": {**(given.get("init") or {}), "vision": source},
        "processor": {**processor, "image": look},
    }
