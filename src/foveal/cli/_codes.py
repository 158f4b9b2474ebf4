"""What an image tokenizer spells: codes that masked patches are told by, and words that pictures are made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.cli._objectives import objective_of
from foveal.core.errors import InputError
from foveal.training.config import Stage

if TYPE_CHECKING:
    from torch import Tensor

    from foveal.cli._recipe import Recipe
    from foveal.core.types import Batch, Grid, Layout, Pixels, VisualTokens
    from foveal.preprocess.processor import Processor


def wanted(stage: Stage) -> bool:
    """Whether a stage's objective tells classes of visual tokens, which a tokenizer may give."""
    name, settings = objective_of(stage)
    hides = name == "masked_regions" or (name == "pretrain" and settings.get("regions", 1.0))
    return bool(hides and settings.get("target") == "classes")


class Tokenizer:
    """The image tokenizer of a run: how many codes it has, and the pixels that it wants.

    Raises InputError for a run that holds none, and for one that crops or pads images otherwise than `processor`.
    """

    def __init__(self, path: str, processor: "Processor") -> None:
        import foveal

        loaded = foveal.load(path)
        found = [part for part in loaded.modules() if hasattr(part, "encode") and hasattr(part, "codebook")]
        if not found:
            raise InputError(f"{path} holds no image tokenizer; name a run whose vision is vq")
        self.part: Any = found[0].eval()
        own = getattr(loaded, "processor", None)
        self.codes = len(self.part.codebook.weight)
        self.transform = replace(processor.transform, size=self.part.resolution) if own is None else own.transform
        if self.transform.mode != processor.transform.mode:
            raise InputError(
                f"{path} sees images in mode {self.transform.mode}, and this model in {processor.transform.mode}; "
                "their cells would not lie on each other: give both one mode"
            )

    def __call__(self, pixels: "Pixels") -> "VisualTokens":
        """The code of each cell, as its only feature."""
        from foveal.core.types import Layout, VisualTokens

        codes: Any = self.part.to(pixels.values.device).encode(pixels.values)
        layout = Layout.of_grids([(codes.shape[1], codes.shape[2])] * len(codes))
        return VisualTokens.on_layout(codes.flatten()[:, None].float(), layout)


def of(path: str | None, processor: "Processor", plan: Any, see: Any = None) -> "Callable[[list[Any]], Tensor] | None":
    """What gives the classes of the visual tokens of images, by the tokenizer of a run; None for no run.

    `plan` is the model's. `see(tokenizer)` gives the codes of images in another way than looking at each.
    """
    if path is None:
        return None
    tokenizer, size = Tokenizer(path, processor), processor.transform.grid
    seen = see(tokenizer) if see is not None else lambda images: tokenizer(tokenizer.transform.pixels(images))
    return lambda images: classes(seen(images), plan([size] * len(images)), tokenizer.codes)


def classes(seen: "VisualTokens", layout: "Layout", count: int) -> "Tensor":
    """The code of the cell that each visual token of `layout` lies in, as one of `count` classes `[S N]`."""
    import torch
    import torch.nn.functional as F

    places = zip(layout.counts, layout.grids, seen.layout.grids, seen.layout.offsets[:-1], strict=True)
    cells = [cell_of(tokens, grid, coded, begin) for tokens, grid, coded, begin in places]
    codes = F.pad(seen.features[:, 0].long(), (0, 1), value=count)[torch.cat(cells)]
    return F.one_hot(codes, count + 1)[:, :count].bool()


def cell_of(tokens: int, grid: "Grid | None", coded: "Grid | None", begin: int) -> "Tensor":
    """For each of an image's tokens the place of its code, counted from `begin`; -1 for one before all cells.

    Tokens that name no grid lie on a square one. Raises InputError for a number that fills none.
    """
    import torch
    import torch.nn.functional as F

    assert coded is not None
    rows, columns = grid or (isqrt(tokens), isqrt(tokens))
    before = tokens - rows * columns
    if before not in (0, 1):
        raise InputError(f"{tokens} visual tokens lie on no grid, and codes on {coded[0]} x {coded[1]}; give both one")
    down = (torch.arange(rows) * 2 + 1) * coded[0] // (2 * rows)
    along = (torch.arange(columns) * 2 + 1) * coded[1] // (2 * columns)
    return F.pad((begin + down[:, None] * coded[1] + along).flatten(), (before, 0), value=-1)


def told(make: Callable[..., "Batch"], see: Callable[..., Any], codes: Callable[[list[Any]], "Tensor"]) -> "Batch":
    """The batch that `make(visual=...)` gives of what `see` sees, with the classes that `codes` has for its images."""
    shown: list[Any] = []

    def look(images: Sequence[Any]) -> Any:
        shown.extend(images)
        return see(images)

    batch = make(visual=look)
    return beside(batch, codes(shown)) if shown else batch


def beside(batch: "Batch", told: "Tensor") -> "Batch":
    """The batch with classes to tell; tokens of none, such as a class token, are not hidden."""
    targets = {**batch.targets, "classes": told}
    if (hidden := batch.targets.get("regions")) is not None:
        targets["regions"] = hidden & told.any(1)
    return replace(batch, targets=targets)


def adopted(recipe: "Recipe") -> "Recipe":
    """The recipe with the image tokenizer of the run that `init.vision` names, as it was trained.

    Its settings and its image transform are the run's, and the vocabulary holds a word for each of its codes. Raises
    InputError for a run without an image tokenizer, and a recipe that makes words of the codes of an untrained one.
    """
    if not spells(recipe.model):
        return recipe
    folder = Path(recipe.init.get("vision", ""))
    if not (folder / "config.yaml").is_file():
        raise InputError(
            f"{recipe.name} makes words of an image tokenizer's codes, and there is no run {folder}; train one with "
            "foveal train vq, and name it with init.vision=RUN"
        )
    from foveal.weights.directory import read_config

    described = read_config(folder / "config.yaml")
    vision = described["model"].get("vision") or {}
    if vision.get("name") != "vq":
        raise InputError(f"{folder} holds no image tokenizer; name a run whose vision is vq")
    fusion = {**recipe.model["fusion"], "codes": vision["codes"]}
    words = {"vocabulary": fusion["first"] + vision["codes"]}
    model = {**recipe.model, "vision": vision, "fusion": fusion, "language": {**recipe.model["language"], **words}}
    own = (described.get("processor") or {}).get("image") or {"size": vision["resolution"]}
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
