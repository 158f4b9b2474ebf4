"""DocVQA: `val_v1.0_withQT.json` and the folder `spdocvqa_images`, or `documents` (2007.00398)."""

from collections.abc import Iterator
from pathlib import Path

from foveal.core.example import Example
from foveal.data.convert import answered, folder_of, get, load, question, rows_of, text, texts
from foveal.data.format import chat

FILES = tuple(
    (f"{folder}{{split}}_v1.0{kind}.json",) for folder in ("", "spdocvqa_qas/", "{split}/") for kind in ("_withQT", "")
)


def examples(source: Path, images: Path | None, split: str = "") -> Iterator[Example]:
    """One example a question; the answer is the first that is not empty, `meta["answers"]` holds all that are right."""
    folder = images or folder_of(source, "documents", "spdocvqa_images")
    for at, row in rows_of(load(source), "data", str(source)):
        answered(row, "answers", at)
        answers, picture = texts(row, "answers", at), Path(get(row, "image", at, str))
        kinds = texts(row, "question_types", at) if row.get("question_types") else ["all"]
        first = next((answer for answer in answers if answer.strip()), "")
        yield Example(
            id=text(row, "questionId", at),
            images=(folder / picture.name,),  # the file names its folder as it was called when it was published
            messages=tuple(chat(question(row, "question", at), first)),
            meta={"kind": kinds[0], "scene": picture.stem, "answers": answers, "metric": "anls"},
        )
