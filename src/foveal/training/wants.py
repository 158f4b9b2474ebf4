"""What an objective wants of the model and of its batches."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from foveal.models.assembly import ASSEMBLIES


@dataclass(frozen=True, kw_only=True)
class Wants:
    """What an objective's file says as `WANTS`, or by `wants(settings)` where its settings change it.

    The `assemblies` that it teaches and the `heads` (a setting `head` names one by itself), whether it `spends` a
    budget by laying batches out anew, the parts whose weights it `sets` itself, whether it asks what is within the
    language model's `layers` or calls them as often as it likes, and whether it takes `slopes` on its way. Of the data:
    whether it learns from `answers`, from `boxes`, and from what stands in each of the `cells`; whether it tells
    `classes` of visual tokens; and which shares of the processor's masking are `hidden` (None: whatever the processor
    hides). `blind` are the settings that it learns with where nothing is seen, None where nothing is left of it then.
    """

    assemblies: tuple[str, ...] = ASSEMBLIES
    heads: tuple[str, ...] = ()
    spends: bool = False
    answers: bool = False
    boxes: bool = False
    cells: bool = False
    classes: bool = False
    hidden: tuple[str, ...] | None = None
    sets: tuple[str, ...] = ()
    layers: bool = False
    slopes: bool = False
    blind: Mapping[str, Any] | None = field(default_factory=dict)
