"""Words that pictures are made of: the codes of a run's image tokenizer in the vocabulary of a recipe."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.core.errors import InputError

if TYPE_CHECKING:
    from foveal.cli._recipe import Recipe


def adopted(recipe: "Recipe") -> "Recipe":
    """The recipe with the image tokenizer of the run that `init.vision` names, as it was trained.

    Its settings and its image transform are the run's, and the vocabulary holds a word for each of its codes. Raises
    InputError for a run without an image tokenizer, and a recipe that makes words of the codes of an untrained one.
    """
    if not spells(recipe.model):
        return recipe
    from foveal.weights.directory import described

    folder = Path(recipe.init.get("vision", ""))
    if (run := described(folder)) is None:
        raise InputError(
            f"{recipe.name} makes words of an image tokenizer's codes, and there is no run {folder}; train one with "
            "foveal train vq, and name it with init.vision=RUN"
        )
    vision = run["model"].get("vision") or {}
    if vision.get("name") != "vq":
        raise InputError(f"{folder} holds no image tokenizer; name a run whose vision is vq")
    fusion = {**recipe.model["fusion"], "codes": vision["codes"]}
    words = {"vocabulary": fusion["first"] + vision["codes"]}
    model = {**recipe.model, "vision": vision, "fusion": fusion, "language": {**recipe.model["language"], **words}}
    own = (run.get("processor") or {}).get("image") or {"size": vision["resolution"]}
    return replace(recipe, model=model, processor={"image": own, **recipe.processor})


def spells(model: Mapping[str, Any]) -> bool:
    """Whether images are words of a recipe's model."""
    fusion = model.get("fusion")
    return isinstance(fusion, Mapping) and fusion.get("name") == "vocabulary" and "vision" in model


def check(model: Mapping[str, Any], words: int) -> None:
    """Raises InputError where the text has more words than stand before those of images."""
    if spells(model) and words > model["fusion"]["first"]:
        raise InputError(
            f"the data have {words} words and images begin at word {model['fusion']['first']}; raise model.fusion.first"
        )
