"""Which tiling would make a question fit, where it passes the context: told before a pixel is read."""

import json
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.core.types import Batch, Pixels
from foveal.preprocess.collate import fitted
from foveal.preprocess.regions import Plan
from foveal.preprocess.tokens import Encoded

_ROOM = 1 << 40  # a context that nothing passes


def coarser(processor: Any, example: Example, plan: Plan, limit: int) -> str:
    """What to do about a question of more tokens than `limit`, as the end of a sentence."""
    return _settings(processor, example, limit, lambda other: other.prompt([example], plan=plan, visual=_nothing)) or (
        "ask in fewer words, with fewer pictures, or for a shorter answer (max_new_tokens)"
    )


def fitting(processor: Any, one: Encoded, counts: Sequence[int], limit: int, plan: Plan) -> Encoded:
    """The conversation as `fitted` makes it, by whose errors too it is told which settings would do."""
    try:
        return fitted(one, counts, limit, truncate=processor.config.truncate)
    except InputError as long:

        def made(other: Any) -> Any:
            return other.training([one.example], plan=plan, visual=_nothing)

        way = _settings(processor, one.example, limit, made)
        if way is None:
            raise
        raise InputError(f"{long}; {way}") from None


def _settings(processor: Any, example: Example, limit: int, made: Callable[[Any], Batch]) -> str | None:
    """Those of the tiling of the most tiles with which the example has no more than `limit` tokens, and how many."""
    tiling = processor.config.image.tiling
    if tiling is None or not example.images:
        return None
    for fewer in tiling.smaller():
        look = replace(processor.config.image, tiling=fewer)
        other = type(processor)(
            tokenizer=processor.tokenizer, config=replace(processor.config, image=look, context=_ROOM)
        )
        tokens = int(made(other).valid.sum())
        if tokens <= limit:
            return f"{_told(tiling, fewer)} makes it {tokens} tokens"
    return None


def _told(before: Any, after: Any) -> str:
    """The settings that differ, as they are written on the command line."""
    changed = [one.name for one in fields(after) if getattr(before, one.name) != getattr(after, one.name)]
    values = {name: getattr(after, name) for name in changed}
    return " ".join(f"processor.image.tiling.{name}={_plain(value)}" for name, value in values.items())


def _plain(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) if isinstance(value, tuple) else str(value)


def _nothing(images: Sequence[Any]) -> Pixels:
    return Pixels.whole(torch.zeros(0, 3, 1, 1))
