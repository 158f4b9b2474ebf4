"""ChartQA: `val/val_human.json` and `val/val_augmented.json` beside the folder `val/png` (Masry et al. 2022)."""

from collections.abc import Iterator
from pathlib import Path

from foveal.core.example import Example
from foveal.data.convert import folder_of, get, load, question, rows_of, text
from foveal.data.format import chat

FILES = tuple(
    (f"{folder}{{split}}/{{split}}_human.json", f"{folder}{{split}}/{{split}}_augmented.json")
    for folder in ("", "ChartQA Dataset/")
)


def examples(source: Path, images: Path | None, split: str = "") -> Iterator[Example]:
    """One example a question; its kind is `human` or `augmented`, as its file is named."""
    folder, kind = images or folder_of(source, "png"), source.stem.rpartition("_")[2]
    for number, (at, row) in enumerate(rows_of(load(source), None, str(source))):
        name = get(row, "imgname", at, str)
        yield Example(
            id=f"{kind}-{number}",
            images=(folder / name,),
            messages=tuple(chat(question(row, "query", at), text(row, "label", at))),
            meta={"kind": kind, "scene": Path(name).stem, "metric": "relaxed"},
        )
