"""Few-shot questions: solved ones stand before each, image, question and answer in turn (Flamingo, 2204.14198)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.evaluation.questions import Question

Pool = Mapping[str, Mapping[str, Sequence[Question]]]  # solved questions by kind and scene


def with_shots(
    asked: Iterable[Question], solved: Iterable[Question], shots: int, *, seed: int = 0
) -> tuple[Question, ...]:
    """Each question after `shots` solved ones of its kind, of other scenes, no two of one.

    Which they are depends on the seed and the question alone. Raises InputError where there are too few.
    """
    if shots < 0:
        raise InputError(f"{shots} solved questions before each; give --shots 0 or more")
    pool = _pool(solved) if shots else {}
    return tuple(_after(question, _drawn(question, pool, shots, seed)) for question in asked)


def _pool(solved: Iterable[Question]) -> Pool:
    kinds: dict[str, dict[str, list[Question]]] = {}
    for question in solved:
        kinds.setdefault(question.kind, {}).setdefault(question.scene, []).append(question)
    return kinds


def _drawn(question: Question, pool: Pool, shots: int, seed: int) -> list[Question]:
    if not shots:
        return []
    scenes = pool.get(question.kind, {})
    known = len(scenes) - (question.scene in scenes)
    if known < shots:
        raise InputError(
            f"question {question.id} of kind {question.kind!r} wants {shots} solved ones of other scenes, and the "
            f"training questions have {known}; ask with fewer --shots"
        )
    chance = np.random.default_rng((seed, crc32(question.id.encode())))
    names = list(scenes)
    some = chance.choice(len(names), size=min(shots + 1, len(names)), replace=False)
    others = [scenes[names[place]] for place in some if names[place] != question.scene][:shots]
    return [each[int(chance.integers(len(each)))] for each in others]


def _after(question: Question, solved: Sequence[Question]) -> Question:
    """The question with the conversations of the solved ones before its own, and all of their images."""
    if not solved:
        return question
    parts = [*(_answered(one) for one in solved), question.example]
    starts = np.cumsum([0, *(len(part.images) for part in parts)])
    opening = tuple(message for message in question.example.messages if message["role"] == "system")
    example = replace(
        question.example,
        messages=opening + tuple(one for part in parts for one in part.messages if one["role"] != "system"),
        images=tuple(image for part in parts for image in part.images),
        features=tuple(file for part in parts for file in part.features),
        boxes=tuple(
            replace(box, image=box.image + int(start))
            for part, start in zip(parts, starts, strict=False)
            for box in part.boxes
        ),
    )
    return replace(question, example=example)


def _answered(question: Question) -> Example:
    said: dict[str, Any] = {"role": "assistant", "content": [{"type": "text", "text": question.truth}]}
    return replace(question.example, messages=(*question.example.messages, said))
