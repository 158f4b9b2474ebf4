"""What a component's call makes, against what it planned: places in the text are laid out by the plan alone."""

from collections.abc import Callable
from typing import Any

import torch

from foveal.core.errors import InputError
from foveal.core.outside import known_as
from foveal.core.types import Layout, Pixels, VisualTokens


def as_planned(room: str, component: Any, made: VisualTokens, plan: Layout, width: int | None = None) -> VisualTokens:
    """The tokens themselves, `[S D]`, of a component that made as many of each image as it planned.

    Raises InputError where it made others, or such as are not `width` wide. Counts are known without looking into a
    tensor; a tracer's are those of the model that it traces, and are not asked.
    """
    if torch.compiler.is_compiling():
        return made
    counts = made.layout.counts
    if plan.counts != counts:
        pairs = zip(plan.counts, counts, strict=False)
        image = next((i for i, (said, came) in enumerate(pairs) if said != came), min(len(plan.counts), len(counts)))
        said, came = (sum(some[image : image + 1]) for some in (plan.counts, counts))
        raise InputError(
            f"{room} {known_as(component)!r} planned {said} visual tokens of image {image} and made {came} "
            f"({plan.total} and {sum(counts)} of {max(len(plan.counts), len(counts))} images); make its plan and its "
            "call agree"
        )
    if len(made.features) != plan.total:
        raise InputError(
            f"{room} {known_as(component)!r} planned {plan.total} visual tokens and made {len(made.features)}; make "
            "its plan and its call agree"
        )
    if width not in (None, made.features.shape[1]):
        raise InputError(
            f"{room} {known_as(component)!r} made visual tokens of width {made.features.shape[1]} where {width} is "
            "wanted; give its last map that width"
        )
    return made


def looking(vision: Any, look: Callable[[Pixels], VisualTokens]) -> Callable[[Pixels], VisualTokens]:
    """The same look, with the errors of `as_planned`; of images that are filled up, the plan knows other sizes."""

    def told(pixels: Pixels) -> VisualTokens:
        made = look(pixels)
        size = (pixels.values.shape[-2], pixels.values.shape[-1])
        alone = pixels.sizes is None and not getattr(vision, "reads_tiles", False)
        plan = vision.plan([size] * len(pixels.values)) if alone else made.layout
        return as_planned("vision", vision, made, plan, getattr(vision, "width", None))

    return told
