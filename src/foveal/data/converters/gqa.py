"""GQA: `val_balanced_questions.json` beside the folder `images` (Hudson and Manning 2019)."""

from collections.abc import Iterator
from pathlib import Path

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.data.convert import answered, folder_of, load, may, question, text
from foveal.data.format import chat

FILES = tuple(
    (f"{folder}{{split}}{kind}_questions.json",)
    for kind in ("_balanced", "_all")
    for folder in ("", "questions/", "questions1.2/")
)


def examples(source: Path, images: Path | None, split: str = "") -> Iterator[Example]:
    """One example a question with its short answer, those of an image together; the long one is in `meta`."""
    data = load(source)
    if not isinstance(data, dict):
        raise InputError(f"{source} holds a {type(data).__name__}; GQA questions are an object, one field a question")
    folder = images or folder_of(source, "images", "allImages/images")
    rows = sorted(data.items(), key=lambda entry: text(entry[1], "imageId", f"{source}: question {entry[0]}"))
    for number, row in rows:
        where = f"{source}: question {number}"
        answered(row, "answer", where)
        kinds = may(row, "types", where, dict) or {}
        yield Example(
            id=number,
            images=(folder / f"{row['imageId']}.jpg",),
            messages=tuple(chat(question(row, "question", where), text(row, "answer", where))),
            meta={
                "kind": may(kinds, "structural", where, str) or "all",
                "scene": str(row["imageId"]),
                "semantic": may(kinds, "semantic", where, str) or "",
                "full_answer": may(row, "fullAnswer", where, str) or "",
                "metric": "exact_match",
            },
        )
