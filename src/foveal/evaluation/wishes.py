"""What a model is asked to draw: the wishes of a data set, as questions whose answer is what the picture shows."""

from collections.abc import Iterable
from typing import Any

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.evaluation.questions import Question, said, scene


def wishes(examples: Iterable[Example], *, limit: int) -> tuple[Question, ...]:
    """The first `limit` wishes, things taken in turn so that each is wished for as often as any other.

    A wish is an example that is answered by a picture of one thing, which its box names. Raises InputError where the
    data hold none.
    """
    found: dict[str, list[Question]] = {}
    known: dict[Any, Any] = {}
    for example in examples:
        if len(example.boxes) == 1 and _drawn(example):
            name = example.boxes[0].label
            text = said(example.messages[-2])
            question = Question(
                id=example.id, scene=scene(example, known), kind=name, text=text, truth=name, example=example
            )
            found.setdefault(name, []).append(question)
    if not found:
        raise InputError("the data wish for no picture of one thing; make some that do with foveal data portraits")
    turns = [(turn, name) for name, of in found.items() for turn in range(len(of))]
    return tuple(found[name][turn] for turn, name in sorted(turns)[:limit])


def _drawn(example: Example) -> bool:
    """Whether the example is a request in words that is answered by a picture alone."""
    if len(example.messages) < 2 or example.messages[-1]["role"] != "assistant":
        return False
    content = example.messages[-1]["content"]
    return not isinstance(content, str) and [part["type"] for part in content] == ["image"]
