"""Which tiling would make a question fit, where it passes the context: told before a pixel is read."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from foveal.core.example import Example
from foveal.core.types import Pixels
from foveal.preprocess.regions import Plan

_ROOM = 1 << 40  # a context that nothing passes


def coarser(processor: Any, example: Example, plan: Plan, limit: int) -> str:
    """What to do about an example of more tokens than `limit`, as the end of a sentence.

    With a tiling, its settings of the most tiles with which the example has no more tokens, where there are such.
    """
    usual = "ask in fewer words or lower the budget of visual tokens"
    tiling = processor.config.image.tiling
    if tiling is None or not example.images:
        return usual
    for fewer in tiling.smaller():
        look = replace(processor.config.image, tiling=fewer)
        other = type(processor)(
            tokenizer=processor.tokenizer, config=replace(processor.config, image=look, context=_ROOM)
        )
        tokens = int(other.prompt([example], plan=plan, visual=_nothing).valid.sum())
        if tokens <= limit:
            return f"{_told(tiling, fewer)} makes it {tokens} tokens"
    return usual


def _told(before: Any, after: Any) -> str:
    """The settings that differ, as they are written on the command line."""
    changed = [one.name for one in fields(after) if getattr(before, one.name) != getattr(after, one.name)]
    values = {name: getattr(after, name) for name in changed}
    return " ".join(f"processor.image.tiling.{name}={_plain(value)}" for name, value in values.items())


def _plain(value: Any) -> str:
    return str([list(one) for one in value]).replace(" ", "") if isinstance(value, tuple) else str(value)


def _nothing(images: Sequence[Any]) -> Pixels:
    return Pixels.whole(torch.zeros(0, 3, 1, 1))
