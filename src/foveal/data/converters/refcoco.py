"""RefCOCO, RefCOCO+ and RefCOCOg: `refs(unc).p` and `instances.json`, with COCO's `train2014` (Yu et al. 2016)."""

import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError, unknown
from foveal.core.example import Box, Example
from foveal.data.convert import ID, bbox, coco_images, folder_of, get, load, question, rows_of, text, warn_of
from foveal.data.format import chat

FILES = tuple((f"refs({owner}).p",) for owner in ("unc", "umd", "google"))
ASK = "Where is {}? Answer with left, top, right, bottom as shares of the picture."


def examples(source: Path, images: Path | None, split: str = "") -> Iterator[Example]:
    """One example an expression of a split, which the file itself holds; the answer is its box, in shares of the sides.

    Left out are, with a warning that counts them, those of boxes without area in their image. Raises InputError for a
    split that the file does not hold, and where the two files do not match.
    """
    folder = images or folder_of(source, "train2014", "images/train2014", "images/mscoco/images/train2014")
    refs, instances = _refs(source), source.with_name("instances.json")
    data = load(instances)
    pictures = coco_images(data, instances)
    boxes = {get(row, "id", at, *ID): (at, row) for at, row in rows_of(data, "annotations", str(instances))}
    parts = {text(row, "split", at) for at, row in rows_of(refs, None, str(source))}
    if split not in parts:
        raise unknown(f"split in {source}", split, parts)
    lost: Counter[str] = Counter()
    for at, row in rows_of(refs, None, str(source)):
        number, image = get(row, "ann_id", at, *ID), get(row, "image_id", at, *ID)
        if text(row, "split", at) != split:
            continue
        if number not in boxes or image not in pictures:
            raise InputError(f"{at}: annotation {number} on image {image} is not in {instances}; the two must match")
        name, (wide, high) = pictures[image]
        there, box = boxes[number]
        left, top, width, height = bbox(box, there)
        xyxy = (max(left, 0.0), max(top, 0.0), min(left + width, float(wide)), min(top + height, float(high)))
        if xyxy[0] >= xyxy[2] or xyxy[1] >= xyxy[3]:
            lost["boxes without area in their image"] += 1
            continue
        shares = [side / full for side, full in zip(xyxy, (wide, high, wide, high), strict=True)]
        for place, sentence in rows_of(row, "sentences", at):
            said = question(sentence, "sent", place)
            yield Example(
                id=text(sentence, "sent_id", place),
                images=(folder / name,),
                messages=tuple(chat(ASK.format(said), f"[{', '.join(f'{share:.3f}' for share in shares)}]")),
                boxes=(Box(label=said, xyxy=xyxy),),
                meta={"kind": "find", "scene": str(image), "size": [wide, high], "metric": "box_accuracy"},
            )
    warn_of(lost, instances)


class _Plain(pickle.Unpickler):
    """Lists, mappings, texts and numbers alone: a pickle could run anything else."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Raises UnpicklingError."""
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")


def _refs(source: Path) -> Any:
    """The content of the pickle; InputError for one that is none, or holds more than plain data."""
    if not source.is_file():
        raise InputError(f"no file at {source}; name refs(unc).p of RefCOCO, or the folder that holds it")
    with open(source, "rb") as stream:
        try:
            return _Plain(stream, encoding="latin1").load()
        except Exception as error:  # damaged pickles raise nearly anything
            raise InputError(f"{source} is no pickle of plain data ({error}); name refs(unc).p of RefCOCO") from None
