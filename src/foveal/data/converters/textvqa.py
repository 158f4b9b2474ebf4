"""TextVQA: `TextVQA_0.5.1_val.json` beside the folder `train_images` (of val too) (Singh et al. 2019)."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from foveal.core.example import Example
from foveal.data.convert import answered, folder_of, load, question, rows_of, text, texts
from foveal.data.format import chat

FILES = (("TextVQA_0.5.1_{split}.json",), ("annotations/TextVQA_0.5.1_{split}.json",))


def examples(source: Path, images: Path | None, split: str = "") -> Iterator[Example]:
    """One example a question; the answer is the most frequent one, `meta["answers"]` holds those of all ten people."""
    data, where = load(source), str(source)
    tested = source.stem.endswith("test")
    folder = images or folder_of(source, *(["test_images"] if tested else ["train_images", "train_val_images"]))
    for at, row in rows_of(data, "data", where):
        answered(row, "answers", at)
        answers = texts(row, "answers", at)
        yield Example(
            id=text(row, "question_id", at),
            images=(folder / f"{text(row, 'image_id', at)}.jpg",),
            messages=tuple(chat(question(row, "question", at), _most(answers))),
            meta={"kind": "text", "scene": str(row["image_id"]), "answers": answers, "metric": "textvqa"},
        )


def _most(answers: list[str]) -> str:
    """The most frequent answer, an empty one where there is no other."""
    return Counter([answer for answer in answers if answer.strip()] or answers).most_common(1)[0][0]
