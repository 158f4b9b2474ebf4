"""COCO captions: `annotations/captions_val2017.json` beside the folder `val2017` (Chen et al. 2015)."""

from collections.abc import Iterator
from pathlib import Path

from foveal.core.example import Example
from foveal.data.convert import ID, coco_folder, coco_images, get, load, rows_of, text
from foveal.data.format import chat

FILES = tuple((f"{folder}captions_{{split}}{year}.json",) for folder in ("annotations/", "") for year in (2017, 2014))
ASK = "Describe the picture in one sentence."


def examples(source: Path, images: Path | None, split: str = "") -> Iterator[Example]:
    """One example a caption; the captions of an image follow each other."""
    data = load(source)
    folder = images or coco_folder(source, data)
    pictures = coco_images(data, source)
    captions: dict[int | str, list[tuple[str, str]]] = {}
    for at, row in rows_of(data, "annotations", str(source)):
        caption = text(row, "caption", at).strip()
        captions.setdefault(get(row, "image_id", at, *ID), []).append((text(row, "id", at), caption))
    for image, (name, size) in pictures.items():
        for number, caption in captions.get(image, []):
            yield Example(
                id=number,
                images=(folder / name,),
                messages=tuple(chat(ASK, caption)),
                meta={"kind": "caption", "scene": str(image), "size": size, "metric": "cider"},
            )
