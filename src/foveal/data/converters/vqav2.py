"""VQAv2: `v2_OpenEnded_mscoco_val2014_questions.json`, its annotations, the folder `val2014` (Goyal et al. 2017)."""

from collections.abc import Iterator
from pathlib import Path

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.data.convert import ID, folder_of, get, load, may, question, rows_of, text
from foveal.data.format import chat

QUESTIONS, ANSWERS = "_questions.json", "_annotations.json"
FILES = tuple((f"{folder}v2_OpenEnded_mscoco_{{split}}2014{QUESTIONS}",) for folder in ("", "Questions/", "questions/"))


def examples(source: Path, images: Path | None, split: str = "") -> Iterator[Example]:
    """One example a question; the answer is the most frequent one, `meta["answers"]` holds those of all ten people."""
    if not source.name.endswith(QUESTIONS):
        raise InputError(f"{source} is not a VQAv2 question file; name v2_OpenEnded_mscoco_..{QUESTIONS}")
    answers, data, where = _annotations(source), load(source), str(source)
    subtype = text(data, "data_subtype", where)
    folder = images or folder_of(source, subtype, f"Images/mscoco/{subtype}", f"images/{subtype}")
    known = {
        get(row, "question_id", at, *ID): (at, row) for at, row in rows_of(load(answers), "annotations", str(answers))
    }
    asked = rows_of(data, "questions", where)
    for at, row in sorted(asked, key=lambda entry: get(entry[1], "image_id", entry[0], int)):
        number, image = get(row, "question_id", at, *ID), row["image_id"]
        if number not in known:
            raise InputError(f"{answers}: no answer to question {number} of {source.name}; the two files must match")
        place, truth = known[number]
        yield Example(
            id=str(number),
            images=(folder / f"COCO_{subtype}_{image:012d}.jpg",),
            messages=tuple(chat(question(row, "question", at), text(truth, "multiple_choice_answer", place))),
            meta={
                "kind": may(truth, "answer_type", place, str) or "",
                "scene": str(image),
                "question_type": may(truth, "question_type", place, str) or "",
                "answers": [text(one, "answer", at) for at, one in rows_of(truth, "answers", place)],
                "metric": "vqa",
            },
        )


def _annotations(source: Path) -> Path:
    """The annotations of a question file: beside it, or in the folder `Annotations` beside its own."""
    name = source.name.removesuffix(QUESTIONS).replace("OpenEnded_", "") + ANSWERS
    places = [source.with_name(name), *(source.parent.parent / each / name for each in ("Annotations", "annotations"))]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(f"{source} needs its annotations {name} beside it; put them there")
    return found
