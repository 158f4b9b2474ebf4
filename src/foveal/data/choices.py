"""Choices beside the answer to a starter question: of its kind, so that words alone do not tell which is right."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from foveal.data import geometry
from foveal.data.layout import COPIES, Layout
from foveal.data.questions import Question


@dataclass(frozen=True, kw_only=True)
class Pool:
    """What scenes are made of: the drawings and words in use, and the most drawings that stand in one."""

    drawings: tuple[str, ...]
    words: tuple[str, ...]
    max_drawings: int

    def answers(self, kind: str) -> tuple[str, ...]:
        """All answers that a kind of question has."""
        known = {
            "present": ("yes", "no"),
            "where": geometry.REGIONS,
            "count": tuple(str(number) for number in range(1, self.max_drawings + 1)),
            "count_kind": tuple(str(number) for number in range(min(COPIES, self.max_drawings) + 1)),
            "word": self.words,
        }
        return known.get(kind, self.drawings)


def choices(question: Question, layout: Layout, pool: Pool, number: int, rng: np.random.Generator) -> tuple[str, ...]:
    """`number` answers in an order that says nothing, one of them right; none where the kind has fewer.

    Beside a name stand others of the scene, then others of the pool, never what the question itself names; beside a
    number those around it.
    """
    asked = set(re.findall(r"[a-z]+", question.text.lower())) - {question.answer}
    known = [answer for answer in pool.answers(question.kind) if answer not in asked]
    if len(known) < number:
        return ()
    if question.answer.isdigit():
        picked = around(known, question.answer, number, rng)
    else:
        present = {item.name for item in (*layout.drawings, *layout.words)}
        others = [known[i] for i in rng.permutation(len(known)) if known[i] != question.answer]
        others.sort(key=lambda name: name not in present)
        picked = [question.answer, *others[: number - 1]]
    return tuple(picked[i] for i in rng.permutation(number))


def around(known: Sequence[str], answer: str, number: int, rng: np.random.Generator) -> list[str]:
    """`number` neighbours, the answer anywhere among them: the last of those known has the first beside it.

    A window cut off at the ends would hold the least and the greatest more often than their neighbours, and tell.
    """
    begin = known.index(answer) - int(rng.integers(number))
    return [known[(begin + step) % len(known)] for step in range(number)]
