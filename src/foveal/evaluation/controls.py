"""Controls of what a question steers: the question that is answered stays, and another says where to look.

What looks by the question must lose by a question of another scene, by none, and by the same about another thing.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from foveal.core.errors import unknown
from foveal.core.example import Example
from foveal.evaluation.questions import Question

CONTROLS = ("shuffled", "empty", "wrong_object")


def steered_by(asked: Sequence[Question], control: str, *, seed: int = 0) -> list[tuple[int, Example | None]]:
    """The questions that a control is of, by their place, and the conversation that steers each; None: no word does.

    `shuffled`: the question of another scene, in other words; `wrong_object`: the same question about another thing,
    one in the picture where there is one, for questions that name a thing. Raises InputError for an unknown control.
    """
    if control not in CONTROLS:
        raise unknown("control", control, CONTROLS)
    if control == "empty":
        return [(place, None) for place in range(len(asked))]
    chance = random.Random(seed)
    others = _shuffled(asked, chance) if control == "shuffled" else _wrong(asked, chance)
    return [
        (place, _asking(question.example, text))
        for place, (question, text) in enumerate(zip(asked, others, strict=True))
        if text is not None
    ]


def _shuffled(asked: Sequence[Question], chance: random.Random) -> list[str | None]:
    """A question of another scene for each, None where all scenes ask the same."""
    found: list[str | None] = []
    for question in asked:
        text = None
        for _ in range(100):
            other = chance.choice(asked)
            if other.scene != question.scene and other.text != question.text:
                text = other.text
                break
        found.append(text)
    return found


def _wrong(asked: Sequence[Question], chance: random.Random) -> list[str | None]:
    """The question with another thing in the place of the one it names, None where it names none or there is no other.

    Things are what the boxes of the data name.
    """
    things = sorted(
        {box.label for question in asked for box in question.example.boxes}, key=lambda one: (-len(one), one)
    )
    if not things:
        return [None] * len(asked)
    named = re.compile(rf"\b({'|'.join(map(re.escape, things))})(?=(?:e?s)?\b)", flags=re.IGNORECASE)
    found: list[str | None] = []
    for question in asked:
        there = {match.lower() for match in named.findall(question.text)}
        seen = sorted({box.label for box in question.example.boxes if box.label.lower() not in there})
        others = seen or [thing for thing in things if thing.lower() not in there]
        other = chance.choice(others) if others else None
        found.append(named.sub(str(other), question.text) if there and other is not None else None)
    return found


def _asking(example: Example, text: str) -> Example:
    """The same conversation with other words in its last message."""
    *before, last = example.messages
    content = last["content"]
    if isinstance(content, str):
        return replace(example, messages=(*before, {**last, "content": text}))
    place = next(i for i, part in enumerate(content) if part["type"] == "text")
    parts = [part for i, part in enumerate(content) if part["type"] != "text" or i == place]
    parts = [{**part, "text": text} if part["type"] == "text" else part for part in parts]
    return replace(example, messages=(*before, {**last, "content": parts}))
