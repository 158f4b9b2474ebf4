"""COCO detection: `annotations/instances_val2017.json` beside the folder `val2017` (Lin et al. 2014)."""

from collections.abc import Iterator
from pathlib import Path

from foveal.core.example import Box, Example
from foveal.data.convert import coco_folder, coco_images, get, load
from foveal.data.format import chat

ASK = "Which objects are in the picture?"


def examples(source: Path, images: Path | None) -> Iterator[Example]:
    """One example an image with its boxes; the answer names its categories, the largest box first.

    Regions of a crowd and boxes without area are left out, as in the usual training sets; so are images without any.
    """
    data, folder, where = load(source), images or coco_folder(source), str(source)
    names = {get(row, "id", where): str(get(row, "name", where)) for row in get(data, "categories", where)}
    pictures = coco_images(data, source)
    boxes: dict[int, list[Box]] = {}
    for row in get(data, "annotations", where):
        image, (left, top, width, height) = get(row, "image_id", where), get(row, "bbox", where)
        if row.get("iscrowd") or image not in pictures or min(width, height) <= 0:
            continue
        wide, high = pictures[image][1]
        right, bottom = min(left + width, wide), min(top + height, high)
        corners = float(max(left, 0)), float(max(top, 0)), float(right), float(bottom)
        boxes.setdefault(image, []).append(Box(label=names[get(row, "category_id", where)], xyxy=corners))
    for image, (name, size) in pictures.items():
        found = sorted(boxes.get(image, []), key=_area, reverse=True)
        if found:
            yield Example(
                id=str(image),
                images=(folder / name,),
                messages=tuple(chat(ASK, ", ".join(dict.fromkeys(box.label for box in found)))),
                boxes=tuple(found),
                meta={"kind": "detection", "scene": str(image), "size": size},
            )


def _area(box: Box) -> float:
    left, top, right, bottom = box.xyxy
    return (right - left) * (bottom - top)
