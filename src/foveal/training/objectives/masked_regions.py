"""Regions that are hidden, told from the others and from the words (VisualBERT's and ViLBERT's kind, 1908.02265).

Beside the loss stands what it would be if the mean of the regions were told each time (the frequencies of the classes,
where these are the target): the mean of this very batch, so that the bar is rather too high than too low.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch, VisualTokens
from foveal.training.objectives.next_token import exact
from foveal.training.wants import Wants

Target = Literal["feature", "classes"]
Parts = Mapping[str, tuple[Tensor, int]]
WANTS = Wants(assemblies=("masked",), hidden=("regions",), blind=None)


@dataclass(frozen=True, kw_only=True)
class Config:
    """`head` tells regions at single places.

    The target `feature` is what the encoder says of the region, normed to mean 0 and deviation 1: mean squared error.
    `classes` is the distribution that comes with the region (`VisualTokens.classes`, or `Batch.targets["classes"]`:
    the codes of an image tokenizer, as in BEiT-3, 2208.10442): KL divergence in nats.
    """

    head: str = "regions"
    target: Target = "feature"


def wants(settings: Config) -> Wants:
    """Whether the classes are told that the target is."""
    return replace(WANTS, classes=settings.target == "classes")


def masked_regions(
    model: nn.Module, batch: Batch, *, head: str = "regions", target: Target = "feature"
) -> tuple[Tensor, int, Parts]:
    """The summed loss of all hidden regions (`Batch.targets["regions"]`), their number, and that of their mean."""
    batch, visual = hidden(model, batch)
    return score(model(batch, at={head: places(batch)}).heads[head], batch, visual, target=target)


def hidden(model: nn.Module, batch: Batch) -> tuple[Batch, VisualTokens]:
    """The batch with regions hidden, and the regions as the encoder sees them, with their classes.

    What stands for a hidden region is the fusion's mask token, or features of zero where it has none.
    Raises InputError for a batch without images or that hides none.
    """
    chosen, seen = batch.targets.get("regions"), model.look(batch)  # type: ignore[operator]
    if chosen is None or seen is None:
        what = "no images" if seen is None else "the batch hides no regions"
        raise InputError(f"{what}; masked regions want images, and 'masking' with a share of regions")
    if (classes := batch.targets.get("classes")) is not None:
        seen = replace(seen, classes=classes.float())
    if getattr(model.fusion, "mask", None) is not None:
        return replace(batch, visual=replace(seen, masked=chosen), regions=None), seen
    keep = ~chosen[:, None]
    levels = tuple(level * keep for level in seen.levels)
    return replace(batch, visual=replace(seen, features=seen.features * keep, levels=levels), regions=None), seen


def places(batch: Batch) -> Bool[Tensor, "B L"]:
    """Where hidden regions stand beside a text that belongs."""
    chosen = batch.targets["regions"]
    shown = batch.valid & (batch.image_slot >= 0)
    if len(chosen):
        shown = shown & chosen[batch.image_slot.clamp(min=0)]
    foreign = batch.targets.get("matching")
    return shown if foreign is None else shown & (foreign == 0)[:, None]


def score(
    told: Float[Tensor, "N K"], batch: Batch, visual: VisualTokens, *, target: Target
) -> tuple[Tensor, int, Parts]:
    """The same of what the head says at these places. Raises InputError for a head of another width."""
    every = wanted(visual, target)
    if told.shape[-1] != every.shape[-1]:
        raise InputError(
            f"the head tells {told.shape[-1]} numbers of a region and the target {target!r} has {every.shape[-1]}; "
            "give the head as many 'labels'"
        )
    right = every[batch.image_slot[places(batch)]]
    loss, count = apart(exact(told), right, target).sum(), len(right)
    prior = apart(constant(every, target).expand_as(right), right, target).sum()
    return loss, count, {"regions": (loss, count), "prior_regions": (prior, count)}


@torch.no_grad()
def wanted(visual: VisualTokens, target: Target) -> Float[Tensor, "S K"]:
    """What to tell of each region; raises InputError where the encoder gives no classes."""
    if target == "feature":
        return F.layer_norm(exact(visual.features), visual.features.shape[-1:])
    if visual.classes is None:
        raise InputError("the regions come without classes; choose target: feature, or give distributions with them")
    return exact(visual.classes)


def constant(every: Float[Tensor, "S K"], target: Target) -> Float[Tensor, " K"]:
    """The best that can be told without looking: the mean, as the head would tell it (a logarithm, for classes)."""
    mean = every.mean(0)
    return mean if target == "feature" else mean.clamp(min=1e-12).log()


def apart(told: Float[Tensor, "N K"], right: Float[Tensor, "N K"], target: Target) -> Float[Tensor, " N"]:
    """How far what is told of each region is from what is right."""
    if target == "feature":
        return (told - right).square().mean(-1)
    return F.kl_div(told.log_softmax(-1), right, reduction="none").sum(-1)
