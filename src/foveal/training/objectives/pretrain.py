"""Hidden words, hidden regions and foreign texts, all on one pass through the model (VisualBERT, ViLBERT)."""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch, visible
from foveal.training.objectives import masked_regions as by_region
from foveal.training.objectives import masked_words as by_word
from foveal.training.objectives import matching as by_pair
from foveal.training.objectives.masked_regions import Parts, Target
from foveal.training.settings import check_weights
from foveal.training.wants import Wants

WANTS = Wants(assemblies=("masked",))


@dataclass(frozen=True, kw_only=True)
class Config:
    """The weight of one hidden word, of one hidden region and of one row; 0 leaves a part out.

    The heads are called `words`, `regions` and `matching`; `target` is that of the masked regions.
    """

    words: float = 1.0
    regions: float = 1.0
    matching: float = 1.0
    target: Target = "feature"

    def __post_init__(self) -> None:
        check_weights("pretrain", words=self.words, regions=self.regions, matching=self.matching)
        if not self.words + self.regions + self.matching:
            raise InputError("pretrain leaves out words, regions and matching; give one of them a weight above 0")


def wants(settings: Config) -> Wants:
    """What the parts want that are not left out."""
    hides = {"words": settings.words, "regions": settings.regions, "foreign": settings.matching}
    return replace(
        WANTS,
        heads=tuple(name for name in ("words", "regions", "matching") if getattr(settings, name)),
        hidden=tuple(name for name, weight in hides.items() if weight) or None,
        classes=bool(settings.regions) and settings.target == "classes",
        blind={"regions": 0.0, "matching": 0.0} if settings.words else None,
    )


def pretrain(
    model: nn.Module,
    batch: Batch,
    *,
    words: float = 1.0,
    regions: float = 1.0,
    matching: float = 1.0,
    target: Target = "feature",
) -> tuple[Tensor, float, Parts]:
    """The weighted mean of the losses: (words * word losses + ...) / (words * hidden words + ...).

    Sums and counts are additive, so accumulation stays exact. A batch without images has no regions.
    """
    at: dict[str, Tensor | None] = {"words": by_word.places(batch)} if words else {}
    seen = None
    if regions and visible(batch.visual) is not None:
        batch, seen = by_region.hidden(model, batch)
        at["regions"] = by_region.places(batch)
    told = model(batch, at={**at, **({"matching": None} if matching else {})}).heads
    losses: dict[str, tuple[Tensor, int]] = {}
    parts: Parts = {}
    if words:
        losses["words"] = by_word.score(told["words"], batch)
        parts = {"words": losses["words"]}
    if seen is not None:
        total, number, more = by_region.score(told["regions"], batch, seen, target=target)
        losses["regions"], parts = (total, number), {**parts, **more}
    if matching:
        total, number, more = by_pair.score(told["matching"], batch)
        losses["matching"], parts = (total, number), {**parts, **more}
    weights = {"words": words, "regions": regions, "matching": matching}
    loss = sum(weights[name] * part for name, (part, _) in losses.items())
    return loss, float(sum(weights[name] * count for name, (_, count) in losses.items())), parts  # type: ignore[return-value]
