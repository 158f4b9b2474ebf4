"""What recipes and runs that spell objects need of the command line."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.cli._runs import missing, open_run
from foveal.core.errors import InputError
from foveal.core.example import Box, Example, Held

if TYPE_CHECKING:
    from rich.console import Console

    from foveal.preprocess.processor import Processor

Told = Callable[[str, int], Any]  # a context manager that yields what counts finished pictures
DO = {"detect": "find boxes", "mask": "outline", "keypoints": "find keypoints", "caption": "write captions"}


def named(settings: Mapping[str, Any], data: Sequence[Example] | None = None) -> dict[str, Any]:
    """Processor settings with the classes and keypoints of the data, where a recipe detects and names none.

    Without data there is one class of any name. Raises InputError where the data hold no box, or no keypoints that a
    task wants.
    """
    from foveal.preprocess.detection import things

    given = settings.get("detection")
    if not isinstance(given, Mapping):
        return dict(settings)
    made, tasks = dict(given), given.get("tasks")
    if not given.get("classes"):
        labels = ["thing"] if data is None else sorted({box.label for example in data for box in things(example)})
        if not labels:
            raise InputError(
                "the data hold no boxes to learn from; give examples boxes, or take a recipe that asks questions, "
                "such as demo"
            )
        made["classes"] = labels
    if (
        data is not None
        and "keypoints" in _weights(settings)
        and isinstance(tasks, Mapping)
        and not tasks.get("points")
    ):
        made["tasks"] = {**tasks, "points": _points(data)}
    return {**settings, "detection": made}


def _points(data: Sequence[Example]) -> list[str]:
    """The names of the data's keypoints, or numbers where they have none."""
    for example in data:
        count = max((len(box.keypoints) for box in example.boxes), default=0)
        if count:
            return [str(name) for name in example.meta.get("keypoints") or range(1, count + 1)]
    raise InputError("the data hold no keypoints to learn from; give boxes some, or leave the task 'keypoints' out")


def _weights(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tasks that a recipe's processor names, by their weights."""
    part: Any = settings
    for key in ("detection", "tasks", "weights"):
        part = part.get(key) if isinstance(part, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def shaped(settings: Mapping[str, Any], data: Sequence[Example], path: Path) -> list[Example]:
    """The data, with the shapes of their drawings where a task wants these and the data are starter scenes."""
    from foveal.data.shapes import drawn, with_shapes

    wanted = {"mask", "keypoints"} & set(_weights(settings))
    return list(with_shapes(data)) if wanted and drawn(path) else list(data)


def check(processor: "Processor", data: Sequence[Example], say: Callable[[str], None]) -> None:
    """Look at all boxes of every picture once, and tell what will be clipped or dropped; and at every text.

    Raises InputError for a class that is not known, a coordinate that is no number, and a text that is too long.
    """
    from foveal.preprocess.detection import things
    from foveal.preprocess.sequence import Faults

    if processor.speller is None:
        return
    faults, boxes = Faults(), 0
    for example in {(example.images, example.boxes): example for example in data}.values():
        wrong = processor.speller.check(example)
        faults, boxes = faults + wrong, boxes + len(things(example))
    for example in data:
        processor.speller.check_words(example)
    if faults != Faults():
        say(f"of {boxes:,} boxes: {faults}")


def detects(run: Path | None) -> bool:
    """Whether a run directory is that of a model that finds boxes."""
    from foveal.weights.directory import described

    return bool(((described(run) or {}).get("processor") or {}).get("detection"))


def check_asked(loaded: Any, prompt: str) -> None:
    """Raises InputError for words that ask for another task of a run that learned one alone."""
    from foveal.models.tell import wanted

    speller = getattr(loaded.processor, "speller", None)
    if speller is None or len(speller.tasks) > 1:
        return
    (task,) = speller.tasks
    if task != "find" and wanted(prompt, (task, "find")) != task:
        raise InputError(f"this run learned to {DO[task]} and answers no other words; ask it: foveal ask IMAGE {task}")


def strangers(there: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """The names of what is on pictures (in COCO's layout) and in no class."""
    shown = {row["category_id"] for row in there["annotations"]}
    return sorted(row["name"] for row in there["categories"] if row["id"] in shown and row["name"] not in classes)


def detection(
    run: Path | None,
    data: Path,
    *,
    split: str,
    limit: int | None,
    batch: int,
    results: Path | None,
    sampling: Any,
    spending: tuple[str, Any] | None,
    progress: Told,
) -> dict[str, Any]:
    """Average precision of a run over every picture of a data set, or of a COCO annotation file (`.json`).

    And how well it does each further task that it learned. Writes what was found to `results` in COCO's layout where
    that is wanted. Where `spending` names a strategy and a budget of visual tokens, no more are read of a picture.
    Without `sampling` places are those of the best tokens; classes always are. Raises InputError for data without
    boxes, a file of another layout, and where pycocotools is not installed.
    """
    import importlib
    import time

    from foveal.cli import _tasks
    from foveal.evaluation import detection as scoring
    from foveal.models.budget import budgeted
    from foveal.models.detect import detect

    try:
        importlib.import_module("pycocotools")
    except ModuleNotFoundError as error:
        raise missing(error) from None
    loaded = open_run(run)
    if spending is not None:
        loaded.model = budgeted(loaded.model, spending[1], spending[0])
    pictures, there = _annotated(data, limit) if data.suffix == ".json" else _examples(loaded, data, split, limit)
    found: list[tuple[Box, ...]] = []
    settings = {} if sampling is None else {"sampling": sampling}
    started = time.perf_counter()
    with progress("pictures", len(pictures)) as advance:
        for start in range(0, len(pictures), batch):
            some = [path for _, path in pictures[start : start + batch]]
            found += detect(loaded.model, loaded.processor, some, **settings)
            advance(len(some))
    seconds = round(time.perf_counter() - started, 3)
    numbers = {row["name"]: row["id"] for row in there["categories"]}
    rows = scoring.results([number for number, _ in pictures], found, numbers)
    if results is not None:
        write(results, rows)
    scored = scoring.precision(there, rows)
    told = {"pictures": len(pictures), "boxes": len(there["annotations"]), "seconds": seconds}
    asked = _tasks.questions(data, split, pictures)
    more = _tasks.tasks(loaded, pictures, found, there, asked, batch=batch, settings=settings, progress=progress)
    told |= {} if spending is None else {"strategy": spending[0], "budget": spending[1]}
    told |= {"unknown": strange} if (strange := strangers(there, loaded.processor.speller.config.classes)) else {}
    return {**told, **scored.summary, "classes": dict(scored.classes), **({"tasks": more} if more else {})}


def write(out: Path, value: Any) -> None:
    """A JSON file; InputError where it cannot be written."""
    import json

    try:
        out.write_text(json.dumps(value) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {out} ({error.strerror}); name a .json file in a directory") from None


def show(console: "Console", told: Mapping[str, Any]) -> None:
    """The tables of a detection run's scores: all classes, each of them, and further tasks."""
    from foveal.cli import _show, _tasks

    def share(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    summary = [[name.replace("_", " "), share(told[name])] for name in told if name.startswith("A")]
    console.print(_show.table(["of all classes", "%"], summary))
    each = sorted(told["classes"].items(), key=lambda one: -(one[1] or 0.0))
    console.print(_show.table(["AP of the class", "%"], [[name, share(value)] for name, value in each]))
    if "unknown" in told:
        console.print(f"of classes that the run does not know, and counted as missed: {', '.join(told['unknown'])}")
    if "tasks" in told:
        _tasks.show(console, told["tasks"])
    console.print(f"\n{told['boxes']:,} boxes in {told['pictures']:,} pictures, found in {told['seconds']:.1f} s")


def _examples(loaded: Any, data: Path, split: str, limit: int | None) -> tuple[list[tuple[int, Any]], dict[str, Any]]:
    """Numbered pictures of a data set, and what is on them."""
    shown = pictures_of(data, split)[:limit]
    return [(number, example.images[0]) for number, example in enumerate(shown, 1)], annotations(
        shown, loaded.processor.speller.config.classes
    )


def pictures_of(data: Path, split: str) -> list[Example]:
    """One example for each picture of a data set, drawings of starter scenes with their shapes.

    Raises InputError where there is none.
    """
    from foveal.data.format import iterate
    from foveal.data.shapes import drawn, with_shapes

    shown = list({example.images: example for example in iterate(data, split=split) if example.images}.values())
    if not shown:
        raise InputError(f"{data} holds no pictures in its split {split!r}; name data with pictures and boxes")
    return list(with_shapes(shown)) if drawn(data) else shown


def annotations(shown: Sequence[Example], classes: Sequence[str] = (), *, root: Path | None = None) -> dict[str, Any]:
    """What is on the pictures in COCO's layout; classes that are not named come behind the others.

    With a `root` pictures are named by their places under it; raises InputError for pictures that are no files.
    """
    import os

    from foveal.evaluation.detection import truth
    from foveal.preprocess.detection import things
    from foveal.preprocess.image import image_size

    if root is not None and any(isinstance(example.images[0], Held) for example in shown):
        raise InputError("pictures of shards and tables have no files to name; give data in JSON lines")
    boxes = [things(example) for example in shown]
    heights = [image_size(example.images[0]) for example in shown]
    sizes = [(number, (wide, tall)) for number, (tall, wide) in enumerate(heights, 1)]
    crowds = [_crowd(example) for example in shown]
    labels = {box.label for some in boxes for box in some} | {region["label"] for some in crowds for region in some}
    strange = sorted(labels - set(classes))
    files = [] if root is None else [os.path.relpath(example.images[0], root) for example in shown]
    points = next((example.meta["keypoints"] for example in shown if example.meta.get("keypoints")), ())
    return truth(sizes, boxes, [*classes, *strange], files=files, points=points, crowds=crowds)


def _crowd(example: Example) -> Sequence[Mapping[str, Any]]:
    """The regions of a crowd that `meta` names; InputError for what is none."""
    from foveal.data.convert import bbox, get

    where, given = f"example {example.id!r}: 'crowd' in its meta", example.meta.get("crowd") or []
    if not isinstance(given, list):
        raise InputError(f"{where} is {given!r}; give a list of regions with label and bbox, or leave it out")
    for region in given:
        get(region, "label", where, str)
        bbox(region, where)
    return given


def _annotated(data: Path, limit: int | None) -> tuple[list[tuple[int, Any]], dict[str, Any]]:
    """Pictures of a COCO annotation file by their ids, and what the file says of them, checked."""
    from foveal.data.convert import coco_folder, coco_images, load
    from foveal.data.converters.coco_detection import annotations as checked

    there = checked(load(data), data)
    folder = coco_folder(data, there)
    pictures = [(number, folder / name) for number, (name, _) in coco_images(there, data).items()][:limit]
    kept = {number for number, _ in pictures}
    for part, key in (("images", "id"), ("annotations", "image_id")):
        there[part] = [row for row in there[part] if row[key] in kept]
    return pictures, there


def draw(loaded: Any, images: Sequence[Any], boxes: Sequence[Box], out: Path) -> None:
    """Write the one picture with the boxes that are likely.

    Raises InputError for a run that finds none, and where the picture cannot be written.
    """
    from PIL import ImageDraw, ImageFont

    from foveal.data.preview import HUES
    from foveal.models.detect import LIKELY
    from foveal.preprocess.image import open_image

    if loaded.processor.speller is None:
        raise InputError(
            "--map draws the boxes that a run finds, and this one answers in words; give it a --budget to see "
            "where that is spent"
        )
    picture = open_image(images[0]).copy()
    pen, letters = ImageDraw.Draw(picture), ImageFont.load_default(max(10, min(picture.size) // 24))
    line = max(1, min(picture.size) // 200)
    for place, box in enumerate(box for box in boxes if (box.score or 0.0) >= LIKELY):
        ink = HUES[place % len(HUES)]
        left, top, right, bottom = box.xyxy
        pen.rectangle((left, top, max(right, left + 1), max(bottom, top + 1)), outline=ink, width=line)
        words, corner = f"{box.label} {box.score:.2f}", (left + line, top + line)
        pen.rectangle(pen.textbbox(corner, words, font=letters), fill=ink)
        pen.text(corner, words, fill="white", font=letters)
    try:
        picture.save(out)
    except (OSError, ValueError) as error:
        raise InputError(f"the picture cannot be written to {out} ({error}); name a .png file in a directory") from None
