"""Asking a model that spells for more than objects: outlines, keypoints, captions and asked boxes (2206.07669)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.example import Box, Example
from foveal.core.types import Answer
from foveal.decode.constrained import Written, write
from foveal.decode.generate import new_tokens
from foveal.decode.sampling import Sampling, greedy
from foveal.models.budget import budgeted, either, idle, unneeded
from foveal.models.causal import Causal
from foveal.models.detect import LIKELY, detect, shown
from foveal.models.gallery import Gallery
from foveal.models.masked import Masked
from foveal.models.seeing import looked_at
from foveal.preprocess.chat import listed, question
from foveal.preprocess.processor import Processor
from foveal.preprocess.sequence import OBJECT, legal
from foveal.preprocess.task_speller import TaskSpeller
from foveal.preprocess.tasks import Task, legal_mask, legal_points, legal_words
from foveal.relevance.pricing import Terms

Boxes = tuple[Box, ...]
ROWS = 64  # sequences that are written together
_SETTINGS = ("max_new_tokens", "budget", "price", "strategy", "sampling")
_WORDS: dict[Task, tuple[str, ...]] = {
    "detect": ("detect",),
    "mask": ("mask", "masks", "outline", "outlines", "segment"),
    "keypoints": ("keypoints", "points"),
    "caption": ("caption", "describe"),
}


@torch.inference_mode()
def outline(
    model: Causal | Masked,
    processor: Processor,
    images: Sequence[Any],
    boxes: Sequence[Boxes],
    *,
    sampling: Sampling = greedy,
) -> list[Boxes]:
    """The boxes of each picture with the outlines of what is in them; without one where none was written."""
    speller = _speller(model, processor)

    def told(image: Any, box: Box, tokens: Tensor, chances: Tensor) -> Box:
        return speller.outlined(image, box, tokens)

    return _of_boxes(model, processor, images, boxes, "mask", told, sampling)


@torch.inference_mode()
def point(
    model: Causal | Masked,
    processor: Processor,
    images: Sequence[Any],
    boxes: Sequence[Boxes],
    *,
    sampling: Sampling = greedy,
) -> list[Boxes]:
    """The boxes of each picture with the keypoints of what is in them, as sure as both are."""
    return _of_boxes(
        model, processor, images, boxes, "keypoints", _speller(model, processor).pointed, sampling
    )  # fmt: skip


@torch.inference_mode()
def describe(
    model: Causal | Masked,
    processor: Processor,
    images: Sequence[Any],
    *,
    sampling: Sampling = greedy,
    max_new_tokens: int | None = None,
) -> list[str]:
    """A caption of each picture, of at most `max_new_tokens` and of the most that the model has learned to write."""
    asked = [_example(number, image) for number, image in enumerate(images, 1)]
    most = None if max_new_tokens is None else new_tokens(max_new_tokens)
    rows = _rows(model, processor, asked, "caption", sampling, most)
    return [_speller(model, processor).said(tokens) for tokens, _ in rows]


@torch.inference_mode()
def find(
    model: Causal | Masked,
    processor: Processor,
    images: Sequence[Any],
    questions: Sequence[str],
    *,
    sampling: Sampling = greedy,
) -> list[Box | None]:
    """The box that answers each question about its picture; None where what was written is no box."""
    speller = _speller(model, processor)
    asked = [
        replace(question([image], text, marker=processor.config.marker), id=f"question {number}")
        for number, (image, text) in enumerate(zip(images, questions, strict=True), 1)
    ]
    rows = zip(images, _rows(model, processor, asked, "find", sampling), strict=True)
    found = (speller.found(image, tokens, chances) for image, (tokens, chances) in rows)
    return [boxes[0] if boxes else None for boxes in found]


def wanted(text: str, tasks: Sequence[Task]) -> Task:
    """The task that a prompt asks for by its first word, such as 'describe'; any other text asks for a box.

    A model of one task does that, whatever it is told.
    """
    if len(tasks) == 1:
        return tasks[0]
    first = (text.lower().split() or [""])[0].strip(".,:;!?")
    for task, words in _WORDS.items():
        if first in words:
            return task
    return "find"


def told(
    model: Causal | Masked,
    processor: Processor,
    images: Any,
    text: str,
    *,
    sampling: Sampling = greedy,
    max_new_tokens: int | None = None,
) -> Answer:
    """What a prompt asks of one picture: objects, their outlines or keypoints, a caption, or the box of a question.

    A caption has at most `max_new_tokens`; what else is told knows its end. Raises InputError for more or fewer
    pictures than one, and for a task that the model never learned.
    """
    speller, task, pictures = processor.speller, _task(processor, text), listed(images)
    if task == "detect" or len(pictures) != 1:
        return shown(model, processor, images, sampling=sampling)
    answer = Answer(text="nothing", visual_tokens=model.plan([processor.transform.grid]).total)
    if task == "caption":
        (said,) = describe(model, processor, pictures, sampling=sampling, max_new_tokens=max_new_tokens)
        return replace(answer, text=said)
    if task == "find":
        (box,) = find(model, processor, pictures, [text], sampling=sampling)
        return answer if box is None else replace(answer, text=spoken(box), boxes=(box,))
    _speller(model, processor).require(task)
    (boxes,) = detect(model, processor, pictures, sampling=sampling)
    likely = tuple(box for box in boxes if (box.score or 0.0) >= LIKELY)
    (boxes,) = (outline if task == "mask" else point)(model, processor, pictures, [likely], sampling=sampling)
    names = speller.settings.points if isinstance(speller, TaskSpeller) else ()
    return replace(answer, text="\n".join(spoken(box, names) for box in boxes) or "nothing", boxes=boxes)


@torch.inference_mode()
def sparing(
    model: Causal | Masked,
    processor: Processor,
    images: Any,
    text: str,
    *,
    budget: SupportsIndex | Terms | None = None,
    price: float | None = None,
    strategy: str = "foveal",
    sampling: Sampling | None = None,
    max_new_tokens: int | None = None,
    **others: Any,
) -> Answer:
    """The same under a budget of visual tokens, with where it was spent; None: all are read.

    Takes the errors of `told` and `budgeted`; raises InputError for a price, for a total, and for another setting.
    """
    if strange := [name for name, value in others.items() if value is not None]:
        raise InputError(f"{strange[0]} for a run that spells what it finds; it takes {', '.join(_SETTINGS)}")
    longest = None if max_new_tokens is None else new_tokens(max_new_tokens)
    cost = either(budget, price)
    if isinstance(cost, Terms):
        raise InputError(f"a {cost} for a run that spells what it finds; give it a budget of visual tokens instead")
    view = budgeted(model, cost, strategy)
    made = told(view, processor, images, text, sampling=sampling or greedy, max_new_tokens=longest)
    if cost is None:
        return replace(made, note=idle(model, strategy), relevance=(None,) * len(listed(images)))
    (image,), task = listed(images), _task(processor, text)
    asked = question([image], text, marker=processor.config.marker) if task == "find" else _example(1, image)
    first: Task = task if task in ("find", "caption") else "detect"  # what else is asked is of what that finds
    batch = processor.prompt([asked], plan=view.plan, task=first).to(next(view.parameters()).device)
    note = unneeded(view.plan([processor.transform.grid]), cost)
    return replace(made, note=note, relevance=looked_at(view.see(batch), [image], processor.transform))


def _task(processor: Processor, text: str) -> Task:
    return "detect" if processor.speller is None else wanted(text, processor.speller.tasks)


def spoken(box: Box, names: Sequence[str] = ()) -> str:
    """A box in words: name, score, left, top, right, bottom, and what it holds besides."""
    parts = [f"{box.label} {box.score or 0.0:.2f} at {' '.join(f'{place:.0f}' for place in box.xyxy)}"]
    parts += ["outline " + " ".join(f"{value:.0f}" for value in polygon) for polygon in box.segmentation]
    named = zip(names, box.keypoints, strict=False)
    parts += [f"{name} {x:.0f} {y:.0f}" for name, (x, y, seen) in named if seen]
    return ", ".join(parts)


def _speller(model: Causal | Masked, processor: Processor) -> TaskSpeller:
    if not isinstance(processor.speller, TaskSpeller) or isinstance(model, Masked):
        raise InputError(
            "this model learned no tasks beside detection; name a run whose processor.detection has 'tasks'"
        )
    return processor.speller


def _example(number: int, image: Any, *boxes: Box) -> Example:
    return Example(id=f"picture {number}", messages=(), images=(image,), boxes=boxes)


def _of_boxes(
    model: Causal | Masked,
    processor: Processor,
    images: Sequence[Any],
    boxes: Sequence[Boxes],
    task: Task,
    told: Callable[[Any, Box, Tensor, Tensor], Box],
    sampling: Sampling,
) -> list[Boxes]:
    """What is told of each box, picture by picture."""
    pairs = [(place, box) for place, some in enumerate(boxes) for box in some]
    asked = [_example(place + 1, images[place], box) for place, box in pairs]
    made: list[list[Box]] = [[] for _ in images]
    for (place, box), (tokens, chances) in zip(
        pairs, _rows(model, processor, asked, task, sampling), strict=True
    ):  # fmt: skip
        made[place].append(told(images[place], box, tokens, chances))
    return [tuple(some) for some in made]


def _rows(
    model: Causal | Masked,
    processor: Processor,
    asked: Sequence[Example],
    task: Task,
    sampling: Sampling,
    most: int | None = None,
) -> list[tuple[Tensor, Tensor]]:
    """Tokens and their chances for each example, written some at a time; a picture is seen once."""
    _speller(model, processor).require(task)
    assert isinstance(model, Causal)
    made: list[tuple[Tensor, Tensor]] = []
    for start in range(0, len(asked), ROWS):
        some = asked[start : start + ROWS]
        written = _written(model, processor, some, task, sampling, most)
        made += zip(written.tokens.cpu(), written.chances.cpu(), strict=True)
    return made


def _written(
    model: Causal,
    processor: Processor,
    asked: Sequence[Example],
    task: Task,
    sampling: Sampling,
    most: int | None,
) -> Written:
    speller = _speller(model, processor)
    codec, settings, size = speller.task_codec, speller.settings, model.language.vocabulary
    table, steps = {
        "find": lambda: (legal(codec.objects, size, stop=False), OBJECT),
        "mask": lambda: (legal_mask(codec, size), 2 * settings.max_points + 1),
        "keypoints": lambda: (legal_points(codec, size), 2 * len(settings.points)),
        "caption": lambda: (legal_words(codec, size, speller.tokenizer.all_special_ids), settings.max_words + 1),
    }[task]()
    return write(
        model,
        processor.prompt(asked, plan=model.plan, visual=Gallery(model, processor), task=task).to(
            next(model.parameters()).device
        ),
        legal=table,
        steps=steps if most is None else min(steps, most),
        best=codec.objects.class_place if task == "find" else None,
        stop_ids=(codec.stop,) if task in ("mask", "caption") else (),
        pad_id=codec.objects.pad,
        sampling=sampling,
    )
