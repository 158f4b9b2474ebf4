"""COCO captions: `annotations/captions_val2017.json` beside the folder `val2017` (Chen et al. 2015)."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from foveal.core.example import Example
from foveal.data.convert import ID, coco_folder, coco_images, get, load, rows_of, text, warn_of
from foveal.data.format import chat

FILES = tuple((f"{folder}captions_{{split}}{year}.json",) for folder in ("annotations/", "") for year in (2017, 2014))
ASK = "Describe the picture in one sentence."


def examples(source: Path, images: Path | None, split: str = "") -> Iterator[Example]:
    """One example a caption; the captions of an image follow each other.

    Left out are, with a warning that counts them, empty captions and those of images that the file does not hold.
    """
    data = load(source)
    folder = images or coco_folder(source, data)
    pictures = coco_images(data, source)
    captions: dict[int | str, list[tuple[str, str]]] = {}
    lost: Counter[str] = Counter()
    for at, row in rows_of(data, "annotations", str(source)):
        caption = text(row, "caption", at).strip()
        image = get(row, "image_id", at, *ID)
        if not caption or image not in pictures:
            lost["empty captions" if not caption else "captions of images that are not there"] += 1
            continue
        captions.setdefault(image, []).append((text(row, "id", at), caption))
    warn_of(lost, source)
    for image, (name, size) in pictures.items():
        for number, caption in captions.get(image, []):
            yield Example(
                id=number,
                images=(folder / name,),
                messages=tuple(chat(ASK, caption)),
                meta={"kind": "caption", "scene": str(image), "size": size, "metric": "cider"},
            )
