"""VQAv2: `v2_OpenEnded_mscoco_val2014_questions.json`, its annotations, the folder `val2014` (Goyal et al. 2017)."""

from collections.abc import Iterator
from pathlib import Path

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.data.convert import get, load
from foveal.data.format import chat

QUESTIONS, ANSWERS = "_questions.json", "_annotations.json"


def examples(source: Path, images: Path | None) -> Iterator[Example]:
    """One example a question; the answer is the most frequent one, `meta["answers"]` holds those of all ten people."""
    if not source.name.endswith(QUESTIONS):
        raise InputError(f"{source} is not a VQAv2 question file; name v2_OpenEnded_mscoco_..{QUESTIONS}")
    answers = source.with_name(source.name.removesuffix(QUESTIONS).replace("OpenEnded_", "") + ANSWERS)
    if not answers.is_file():
        raise InputError(f"{source} needs its annotations {answers.name} beside it; put them there")
    data, where = load(source), str(source)
    subtype = str(get(data, "data_subtype", where))
    folder = images or source.parent / subtype
    known = {get(row, "question_id", str(answers)): row for row in get(load(answers), "annotations", str(answers))}
    for row in sorted(get(data, "questions", where), key=lambda r: get(r, "image_id", where)):
        number, image = get(row, "question_id", where), get(row, "image_id", where)
        if number not in known:
            raise InputError(f"{answers}: no answer to question {number} of {source.name}; the two files must match")
        truth = known[number]
        yield Example(
            id=str(number),
            images=(folder / f"COCO_{subtype}_{image:012d}.jpg",),
            messages=tuple(chat(str(get(row, "question", where)), str(truth["multiple_choice_answer"]))),
            meta={
                "kind": truth.get("answer_type", ""),
                "scene": str(image),
                "question_type": truth.get("question_type", ""),
                "answers": [answer["answer"] for answer in truth.get("answers", [])],
            },
        )
