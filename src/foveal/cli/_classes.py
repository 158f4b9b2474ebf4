"""What tells the classes of hidden visual tokens: an image tokenizer's codes, or the chances of ImageNet's classes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isqrt
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from foveal.cli._objectives import wants
from foveal.core.errors import InputError
from foveal.training.config import Stage

if TYPE_CHECKING:
    from torch import Tensor

    from foveal.core.types import Batch, Grid, Layout, Pixels, VisualTokens
    from foveal.preprocess.processor import Processor
    from foveal.preprocess.transform import ImageTransform

IMAGENET = "imagenet"
VARIANT = 2  # of EfficientNet-Lite: the best of those whose weights are there


@runtime_checkable
class Teller(Protocol):
    """Whatever looks at pixels and tells a distribution over `count` classes for each cell of an image."""

    part: Any  # the module that looks
    count: int
    transform: "ImageTransform"
    dtype: Literal["fp32", "fp16"]  # in which what it says may be kept

    def __call__(self, pixels: "Pixels") -> "VisualTokens":
        """What it says of every cell, as features."""
        ...

    def told(self, rows: "Tensor") -> "Tensor":
        """Such features `[N F]` as distributions `[N K]`."""
        ...


class Tokenizer:
    """The image tokenizer of a run: how many codes it has, and the pixels that it wants.

    Raises InputError for a run that holds none, and for one that crops or pads images otherwise than `processor`.
    """

    dtype: Literal["fp32", "fp16"] = "fp32"  # codes are numbers beyond what half precision counts

    def __init__(self, path: str, processor: "Processor") -> None:
        import foveal

        loaded = foveal.load(path)
        found = [part for part in loaded.modules() if hasattr(part, "encode") and hasattr(part, "codebook")]
        if not found:
            raise InputError(f"{path} holds no image tokenizer; name a run whose vision is vq")
        self.part: Any = found[0].eval()
        own = getattr(loaded, "processor", None)
        self.count = len(self.part.codebook.weight)
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

    def told(self, rows: "Tensor") -> "Tensor":
        """Certainty of the code."""
        import torch.nn.functional as F

        return F.one_hot(rows[:, 0].long(), self.count).bool()


class ImageNet:
    """The pretrained ImageNet classifier at every cell of 32 pixels: the chances of its 1,000 classes."""

    dtype: Literal["fp32", "fp16"] = "fp16"

    def __init__(self, processor: "Processor") -> None:
        from foveal.vision.efficientnet_lite import MEAN, STD, EfficientnetLite
        from foveal.weights.efficientnet_lite import pretrained

        self.part = EfficientnetLite(variant=VARIANT, taps=(32,), stride=32, classify=True).eval()
        self.part.load_state_dict(pretrained(VARIANT, classify=True))
        self.count = self.part.classes
        self.transform = replace(processor.transform, mean=MEAN, std=STD)

    def __call__(self, pixels: "Pixels") -> "VisualTokens":
        """The chances at each cell."""
        from foveal.core.types import Layout, VisualTokens

        chances = self.part.to(pixels.values.device).chances(pixels.values)
        layout = Layout.of_grids([(chances.shape[1], chances.shape[2])] * len(chances))
        return VisualTokens.on_layout(chances.flatten(0, 2), layout)

    def told(self, rows: "Tensor") -> "Tensor":
        """The chances as they are, made whole again after they were kept in few digits."""
        return rows / rows.sum(1, keepdim=True)


def wanted(stage: Stage) -> bool:
    """Whether a stage's objective tells classes of visual tokens, which somebody must know."""
    return wants(stage).classes


def of(
    name: str | None, processor: "Processor", plan: Any, see: Callable[[Teller], Any] | None = None
) -> "Callable[[list[Any]], Tensor] | None":
    """What gives the classes of the visual tokens of images: by `imagenet`, or the tokenizer of a run; None for none.

    `plan` is the model's. `see(teller)` gives what it says of images in another way than looking at each.
    """
    if name is None:
        return None
    teller: Teller = ImageNet(processor) if name == IMAGENET else Tokenizer(name, processor)
    size = processor.transform.grid
    seen = see(teller) if see is not None else lambda images: teller(teller.transform.pixels(images))  # type: ignore[arg-type]
    return lambda images: classes(seen(images), plan([size] * len(images)), teller)


def classes(seen: "VisualTokens", layout: "Layout", teller: Teller) -> "Tensor":
    """What the teller says of the cell that each visual token of `layout` lies in `[S K]`; zeros where in none."""
    import torch

    places = zip(layout.counts, layout.grids, seen.layout.grids, seen.layout.offsets[:-1], strict=True)
    cells = torch.cat([cell_of(tokens, grid, told, begin) for tokens, grid, told, begin in places])
    told = teller.told(seen.features[cells.clamp(min=0)])
    return torch.where((cells >= 0)[:, None], told, torch.zeros_like(told))


def cell_of(tokens: int, grid: "Grid | None", told: "Grid | None", begin: int) -> "Tensor":
    """For each of an image's tokens the place of its cell, counted from `begin`; -1 for one before all cells.

    Tokens that name no grid lie on a square one. Raises InputError for a number that fills none.
    """
    import torch
    import torch.nn.functional as F

    assert told is not None
    rows, columns = grid or (isqrt(tokens), isqrt(tokens))
    before = tokens - rows * columns
    if before not in (0, 1):
        raise InputError(f"{tokens} visual tokens lie on no grid, and classes on {told[0]} x {told[1]}; give both one")
    down = (torch.arange(rows) * 2 + 1) * told[0] // (2 * rows)
    along = (torch.arange(columns) * 2 + 1) * told[1] // (2 * columns)
    return F.pad((begin + down[:, None] * told[1] + along).flatten(), (before, 0), value=-1)


def told(make: Callable[..., "Batch"], see: Callable[..., Any], known: Callable[[list[Any]], "Tensor"]) -> "Batch":
    """The batch that `make(visual=...)` gives of what `see` sees, with the classes that `known` has for its images."""
    shown: list[Any] = []

    def look(images: Sequence[Any]) -> Any:
        shown.extend(images)
        return see(images)

    batch = make(visual=look)
    return beside(batch, known(shown)) if shown else batch


def beside(batch: "Batch", told: "Tensor") -> "Batch":
    """The batch with classes to tell; tokens of none, such as a class token, are not hidden."""
    targets = {**batch.targets, "classes": told}
    if (hidden := batch.targets.get("regions")) is not None:
        targets["regions"] = hidden & told.any(1)
    return replace(batch, targets=targets)
