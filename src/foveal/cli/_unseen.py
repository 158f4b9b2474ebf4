"""What the batches of a training will hold, known without seeing it: lengths from words and from sizes of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from foveal.cli._training import Batches
from foveal.training.config import Stage

if TYPE_CHECKING:
    from foveal.core.types import Layout
    from foveal.training.feed import Feed, Micro
    from foveal.training.order import Order

MOST = 5000  # samples of a stage whose lengths are looked at


@dataclass(frozen=True, kw_only=True)
class Size:
    """A micro-batch in numbers: its place among all, examples, tokens of rows as the log counts them, how many of all
    are text and visual and how many at most in one row, places with padding and beside text, and labels."""

    number: int
    examples: int
    tokens: int
    text: int
    longest: int
    visual: int
    widest: int
    load: int
    labels: int


class Unseen(Batches):
    """Batches without their pictures; `layouts` are the plans that were asked for."""

    def __init__(self, batches: Batches) -> None:
        blank = replace(batches.recipe, training=replace(batches.recipe.training, classes=None))
        super().__init__(batches.run, blank, batches.data, say=batches.say, bar=batches.bar)
        self.layouts: list[Layout] = []

    def _plan(self, model: Any) -> Any:
        def plan(*given: Any, **named: Any) -> "Layout":
            self.layouts = [model.plan(*given, **named)]
            return self.layouts[0]

        return plan

    def _features(self, stage: Stage, processor: Any) -> Any:
        return lambda images: None

    def _find(self, processor: Any) -> None:
        """Whoever needs to know what was found finds it then."""

    def _tell(self, stage: Stage, processor: Any) -> None:
        """It is told when pictures are seen."""


def feed_of(batches: Batches, stage: Stage, order: "Order") -> "Feed":
    """All micro-batches of a stage, in the order in which processes take turns at them."""
    from foveal.training.feed import Feed

    return Feed(data=batches.data, order=order, collate=batches(stage), batch_size=stage.batch_size)


def first(stage: Stage, order: "Order", count: int | None) -> range:
    """The first `count` micro-batches of a stage (None: of an epoch), of `MOST` samples or a few more at most."""
    epoch, most = (-(-samples // stage.batch_size) for samples in (len(order), MOST))
    return range(min(most, epoch if count is None else count))


def looked(batches: Batches, stage: Stage, order: "Order", numbers: Sequence[int]) -> list[Size]:
    """The sizes of these micro-batches of a stage."""
    unseen = Unseen(batches)
    feed = feed_of(unseen, stage, order)
    sizes = []
    with batches.bar(f"{stage.name}: lengths", len(numbers)) as advance:
        for number in numbers:
            unseen.layouts = []
            sizes.append(_size(number, feed[number], unseen.layouts))
            advance(1)
    return sizes


def _size(number: int, micro: "Micro", layouts: Sequence["Layout"]) -> Size:
    import torch

    from foveal.core.types import IGNORE

    batch, rows = micro.batch, len(micro.batch.input_ids)
    words = (batch.valid & (batch.image_slot < 0)).sum(1) if rows else torch.zeros(1, dtype=torch.long)
    counts = torch.tensor([count for layout in layouts for count in layout.counts], dtype=torch.long)
    owned = len(batch.owner) == len(counts)
    owner = batch.owner.clamp(min=0) if owned else torch.arange(len(counts)) % max(1, rows)
    widest = torch.zeros(max(1, rows), dtype=torch.long).index_add_(0, owner, counts)
    beside = int(counts.sum()) - int((batch.image_slot >= 0).sum())
    labels = 0 if batch.labels is None else int((batch.labels != IGNORE).sum())
    return Size(
        number=number,
        examples=micro.examples,
        tokens=micro.tokens,
        text=int(words.sum()),
        longest=int(words.max()),
        visual=int(counts.sum()),
        widest=int(widest.max()),
        load=batch.input_ids.numel() + max(0, beside),
        labels=labels,
    )


def largest(sizes: Sequence[Size]) -> list[int]:
    """The numbers of the micro-batches that may need the most memory: the most places, and the most labels."""
    heavy = max(sizes, key=lambda size: (size.load, size.labels))
    spoken = max(sizes, key=lambda size: (size.labels, size.load))
    return list(dict.fromkeys((heavy.number, spoken.number)))


def typical(sizes: Sequence[Size], count: int) -> list[int]:
    """The numbers of so many micro-batches, evenly among all."""
    few = min(count, len(sizes))
    return [sizes[(2 * i + 1) * len(sizes) // (2 * few)].number for i in range(few)]


def over(sizes: Sequence[Size], numbers: Sequence[int]) -> float:
    """How many times the work of some micro-batches the mean one is, by their places."""
    loads = {size.number: size.load for size in sizes}
    return fmean(loads.values()) / max(1.0, fmean(loads[number] for number in numbers))


def plain(sizes: Sequence[Size], *, visits: int) -> dict[str, Any]:
    """Tokens of a sample, of which a micro-batch has so many `visits`: the mean, and the most in one row."""
    told = {}
    for kind, most in (("text", "longest"), ("visual", "widest")):
        mean = fmean(getattr(size, kind) for size in sizes) / visits
        told[kind] = {"mean": mean, "most": max(getattr(size, most) for size in sizes)}
    return told
