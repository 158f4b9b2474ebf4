"""How well a run that learned further tasks beside detection does each of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.core.example import Box, Example, identity

if TYPE_CHECKING:
    from rich.console import Console

Told = Callable[[str, int], Any]  # a context manager that yields what counts finished things
NAMES = {
    "mask": "outlines: AP50",
    "keypoints": "keypoints: AP50",
    "find": "asked boxes: overlap of 0.5 or more",
    "caption": "captions: words in common (F1)",
}
RIGHT = 0.5  # the overlap from which an asked box is found


def tasks(
    loaded: Any,
    pictures: Sequence[tuple[int, Any]],
    found: Sequence[Sequence[Box]],
    there: Mapping[str, Any],
    asked: Sequence[Example],
    *,
    batch: int,
    settings: Mapping[str, Any],
    progress: Told,
) -> dict[str, dict[str, float | None]]:
    """For each task that the run learned: its score, and of how many things.

    `found` are the boxes that it found in the `pictures`, whose marks are told next; `there` is what is on them, in
    COCO's layout, and `asked` what is said and asked about them. Nothing for a run of detection alone.
    """
    from foveal.preprocess.task_speller import TaskSpeller

    speller = loaded.processor.speller
    if not isinstance(speller, TaskSpeller):
        return {}
    told: dict[str, dict[str, float | None]] = {}
    for task, key in (("mask", "segmentation"), ("keypoints", "keypoints")):
        count = sum(bool(row.get(key)) for row in there["annotations"])
        if task in speller.tasks and count:
            told[task] = {**_marked(loaded, pictures, found, there, task, batch, settings, progress), "count": count}
    questions = {
        "find": [example for example in asked if speller.about(example) is not None],
        "caption": [example for example in asked if example.meta.get("kind") == "caption" and example.answer],
    }
    for task, score in (("find", _found), ("caption", _said)):
        if task in speller.tasks and questions[task]:
            values = score(loaded, questions[task], batch, settings, progress)
            told[task] = {"score": sum(values) / len(values), "count": len(values)}
    return told


def _marked(
    loaded: Any,
    pictures: Sequence[tuple[int, Any]],
    found: Sequence[Sequence[Box]],
    there: Mapping[str, Any],
    task: str,
    batch: int,
    settings: Mapping[str, Any],
    progress: Told,
) -> dict[str, float | None]:
    """AP50 of the outlines or keypoints of the boxes that were found."""
    from foveal.evaluation.detection import Kind, precision, results
    from foveal.models.tell import outline, point

    tell, kinds = {"mask": outline, "keypoints": point}[task], {"mask": "segm", "keypoints": "keypoints"}
    kind: Kind = kinds[task]  # type: ignore[assignment]
    marked: list[tuple[Box, ...]] = []
    for some in _batches(range(len(pictures)), batch, task, progress):
        images, boxes = [pictures[place][1] for place in some], [tuple(found[place]) for place in some]
        marked += tell(loaded.model, loaded.processor, images, boxes, **settings)
    numbers = {row["name"]: row["id"] for row in there["categories"]}
    sizes = {row["id"]: (row["width"], row["height"]) for row in there["images"]}
    rows = results([number for number, _ in pictures], marked, numbers, kind=kind, sizes=sizes)
    summary = precision(there, rows, kind=kind).summary
    return {"score": summary["AP50"], "AP": summary["AP"]}


def _found(
    loaded: Any, asked: Sequence[Example], batch: int, settings: Mapping[str, Any], progress: Told
) -> list[float]:
    """For each question 1 where the box that was named lies on the one that it is about."""
    from foveal.evaluation.tasks import overlap
    from foveal.models.tell import find
    from foveal.preprocess.task_speller import asked as words

    speller, right = loaded.processor.speller, []
    for some in _batches(asked, batch, "find", progress):
        images, texts = [one.images[0] for one in some], [words(one) for one in some]
        boxes = find(loaded.model, loaded.processor, images, texts, **settings)
        about = [speller.about(one) for one in some]
        right += [
            float(box is not None and overlap(box, true) >= RIGHT) for box, true in zip(boxes, about, strict=True)
        ]
    return right


def _said(
    loaded: Any, asked: Sequence[Example], batch: int, settings: Mapping[str, Any], progress: Told
) -> list[float]:
    """How far each caption agrees with the true one."""
    from foveal.evaluation.tasks import agreement
    from foveal.models.tell import describe

    values: list[float] = []
    for some in _batches(asked, batch, "caption", progress):
        said = describe(loaded.model, loaded.processor, [one.images[0] for one in some], **settings)
        values += [agreement(text, one.answer) for text, one in zip(said, some, strict=True)]
    return values


def _batches(things: Sequence[Any], size: int, what: str, progress: Told) -> Iterator[Sequence[Any]]:
    with progress(what, len(things)) as advance:
        for start in range(0, len(things), size):
            yield things[start : start + size]
            advance(len(things[start : start + size]))


def show(console: "Console", told: Mapping[str, Mapping[str, float | None]]) -> None:
    """The table of the tasks."""
    from foveal.cli import _show

    lines = [
        [NAMES[task], "-" if row["score"] is None else f"{100 * row['score']:.1f}", f"{row['count']:,}"]
        for task, row in told.items()
    ]
    console.print(_show.table(["task", "%", "count"], lines))


def questions(data: Path, split: str, pictures: Sequence[tuple[int, Any]]) -> list[Example]:
    """What is said and asked about these pictures of a data set; nothing of a COCO file, which asks nothing."""
    if data.suffix == ".json":
        return []
    from foveal.data.format import iterate

    shown = {identity(image) for _, image in pictures}
    return [
        example for example in iterate(data, split=split) if example.images and identity(example.images[0]) in shown
    ]
