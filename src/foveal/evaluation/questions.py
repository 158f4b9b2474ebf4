"""What is asked of a model: one question for every answer that an example holds."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from foveal.core.errors import InputError
from foveal.core.example import Example, answers_of, pictures

OPEN = ("caption",)  # kinds with many right answers: exact match says nothing about them


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with its true answer; questions of one `scene` share their pictures and stand or fall together."""

    id: str
    scene: str
    kind: str
    text: str
    truth: str
    example: Example  # the conversation up to the question, without the answer
    answers: tuple[str, ...] = ()  # all that are right or that people gave, where there are several

    @property
    def golds(self) -> tuple[str, ...]:
        """The true answers, one or more."""
        return self.answers or (self.truth,)


def questions(examples: Iterable[Example], *, limit: int | None = None) -> tuple[Question, ...]:
    """Every turn that has an answer as a question, in order, the first `limit`; captions are left out (`OPEN`).

    An answer is what stands in the turn, or in `meta["answers"]` where that is empty. Raises InputError when there is
    none.
    """
    found: list[Question] = []
    known: dict[Any, Any] = {}
    for example in examples:
        found += [question for question in _turns(example, known) if question.kind not in OPEN]
        if limit is not None and len(found) >= limit:
            break
    if not found:
        raise InputError(
            "the data hold no question with one right answer; give examples an assistant message, or take another "
            "--split where this one is empty"
        )
    return tuple(found[:limit])


def captioned(examples: Iterable[Example], *, limit: int | None = None) -> tuple[Question, ...]:
    """The wish for a caption of each picture, the first `limit`; all captions of a picture are its true answers.

    Captions of a picture may follow each other as examples, or stand together in `meta["answers"]`. Raises InputError
    where there is none.
    """
    found: dict[tuple[Any, ...], Question] = {}
    known: dict[Any, Any] = {}
    for example in examples:
        for question in _turns(example, known):
            if question.kind not in OPEN:
                continue
            shown = pictures(example)
            first = found.setdefault(shown, replace(question, answers=()))
            found[shown] = replace(first, answers=(*first.answers, *question.golds))
    if not found:
        raise InputError("the data hold no captions to score against; give examples of kind 'caption' in their 'meta'")
    return tuple(found.values())[:limit]


def blind(asked: Iterable[Question]) -> tuple[Question, ...]:
    """The same questions without their pictures: what the text-only baseline is asked."""
    return tuple(replace(question, example=without_images(question.example)) for question in asked)


def said(message: Mapping[str, Any]) -> str:
    """The words of a message, without its images."""
    content = message["content"]
    if isinstance(content, str):
        return content.strip()
    return " ".join(part["text"].strip() for part in content if part["type"] == "text")


def _turns(example: Example, known: dict[Any, Any]) -> list[Question]:
    kinds = example.meta.get("kinds") or ()
    replies = [i for i, one in enumerate(example.messages) if one["role"] == "assistant" and i > 0]
    answered, right = [i for i in replies if said(example.messages[i])], answers_of(example)
    if not answered and right:  # the one that stands there is empty, and yet there are true ones
        answered = replies[-1:]
    spoken = next((answer.strip() for answer in right if answer.strip()), "")
    turns = []
    for number, place in enumerate(answered):
        asked = replace(example, messages=tuple(example.messages[:place]))
        turns.append(
            Question(
                id=example.id if len(answered) == 1 else f"{example.id}/{number}",
                scene=scene(example, known),
                kind=str(kinds[number] if number < len(kinds) else example.meta.get("kind", "all")),
                text=said(example.messages[place - 1]),
                truth=said(example.messages[place]) or spoken,
                example=asked,
                answers=right if len(answered) == 1 else (),
            )
        )
    return turns


def scene(example: Example, known: dict[Any, Any]) -> str:
    """What its data say; else the id of the first example on its pictures, and more where others have that id too.

    `known` keeps what the scenes of one data set were called so far.
    """
    if "scene" in example.meta or not example.images:
        return str(example.meta.get("scene", example.id))
    shown = pictures(example)
    if shown not in known:
        number = known[example.id] = known.get(example.id, 0) + 1
        known[shown] = example.id if number == 1 else f"{example.id}#{number}"
    return known[shown]


def without_images(example: Example) -> Example:
    """The same conversation in words alone."""
    return replace(
        example,
        images=(),
        features=(),
        messages=tuple(
            {**message, "content": [{"type": "text", "text": said(message)}]} for message in example.messages
        ),
    )


def captions(examples: Iterable[Example]) -> dict[tuple[Any, ...], str]:
    """What the caption says of each set of `pictures`. Raises InputError where there is none at all."""
    found = {pictures(one): one.answer for one in examples if one.meta.get("kind") in OPEN and one.images}
    if not found:
        raise InputError("the data hold no captions to stand in the place of images; give examples of kind 'caption'")
    return found


def told(example: Example, *, captions: Mapping[tuple[Any, ...], str]) -> Example:
    """The same conversation in words alone, in which the caption of its images stands before the first ones.

    Raises InputError for images without a caption.
    """
    if not example.images:
        return example
    caption = captions.get(pictures(example))
    if caption is None:
        raise InputError(f"example {example.id!r} shows images that have no caption; give them one, or show the images")
    first, *others = without_images(example).messages
    content = [{"type": "text", "text": f"{caption} {said(first)}".strip()}]
    return replace(without_images(example), messages=({**first, "content": content}, *others))
