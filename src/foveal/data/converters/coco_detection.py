"""COCO detection: `annotations/instances_val2017.json` beside the folder `val2017` (Lin et al. 2014).

Outlines and keypoints (`person_keypoints_val2017.json`) come along where they are there.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError
from foveal.core.example import Box, Example, Keypoint
from foveal.data import marks
from foveal.data.convert import ID, bbox, coco_folder, coco_images, get, load, may, rows_of, text, warn_of
from foveal.data.format import chat

FILES = tuple((f"{folder}instances_{{split}}{year}.json",) for folder in ("annotations/", "") for year in (2017, 2014))
ASK, NOTHING = "Which objects are in the picture?", "none"
Wide = tuple[int | float, int | float]


def examples(source: Path, images: Path | None, split: str = "") -> Iterator[Example]:
    """One example an image with its boxes; the answer names its categories, the largest box first, or is `NOTHING`.

    Boxes are clipped to the image. Regions of a crowd are no boxes, and nothing learns from them: they are kept in
    `meta["crowd"]`, as the file has them, for the scorer. Left out are, with a warning that counts them, boxes outside
    the image, without area or inverted, and those of images that the file does not hold. Raises InputError for what is
    no number and an unknown category.
    """
    data, where = load(source), str(source)
    folder = images or coco_folder(source, data)
    names, points, pictures = _names(data, where), _point_names(data, where), coco_images(data, source)
    boxes: dict[int | str, list[Box]] = {}
    crowds: dict[int | str, list[dict[str, Any]]] = {}
    for row, box in _rows(data, names, pictures, source):
        if box is not None:
            boxes.setdefault(row["image_id"], []).append(box)
        elif row.get("iscrowd"):
            told = {key: row[key] for key in ("bbox", "area", "segmentation") if row.get(key) is not None}
            crowds.setdefault(row["image_id"], []).append({"label": names[row["category_id"]], **told})
    named = {"keypoints": points} if points else {}
    for image, (name, size) in pictures.items():
        found = sorted(boxes.get(image, []), key=_area, reverse=True)
        crowd = {"crowd": crowds[image]} if image in crowds else {}
        yield Example(
            id=str(image),
            images=(folder / name,),
            messages=tuple(chat(ASK, ", ".join(dict.fromkeys(box.label for box in found)) or NOTHING)),
            boxes=tuple(found),
            meta={"kind": "detection", "scene": str(image), "size": size, **named, **crowd},
        )


def annotations(data: Any, source: Path) -> dict[str, Any]:
    """The content of an annotation file as COCO's own tools want it: what `examples` leaves out is left out here too.

    Boxes stay as they are, and so do crowds, which those tools treat apart. Areas that are not given are those of the
    boxes. Takes the errors of `examples`.
    """
    pictures, kept = coco_images(data, source), []
    for row, box in _rows(data, _names(data, str(source)), pictures, source):
        if box is not None or row.get("iscrowd"):
            _, _, width, height = row["bbox"]
            kept.append({"area": width * height, "iscrowd": 0, **row, "id": len(kept) + 1})
    return {**data, "annotations": kept}


def _names(data: Any, where: str) -> dict[int | str, str]:
    """The name of each category by its number."""
    return {get(row, "id", at, *ID): text(row, "name", at) for at, row in rows_of(data, "categories", where)}


def _rows(
    data: Any, names: Mapping[int | str, str], pictures: Mapping[int | str, Any], source: Path
) -> Iterator[tuple[Any, Box | None]]:
    """Every annotation and its box, None where it is left out; at last a warning counts those, by the reason."""
    lost: Counter[str] = Counter()
    for number, (_, row) in enumerate(rows_of(data, "annotations", str(source))):
        where = f"{source}: annotation {row.get('id', number)}"
        yield row, _box(row, names, pictures.get(get(row, "image_id", where, *ID)), lost, where)
    warn_of(lost, source)


def _box(row: Any, names: Mapping[int | str, str], picture: Any, lost: Counter[str], where: str) -> Box | None:
    """The box of an annotation, clipped to its picture; None for a crowd, and for what is none, which is counted."""
    left, top, width, height = bbox(row, where)
    category = get(row, "category_id", where, *ID)
    if category not in names:
        raise InputError(f"{where} is of category {category!r}, which the file does not name; add or remove it")
    area = marks.area(row.get("area", width * height if min(width, height) > 0 else None), where=where)
    if row.get("iscrowd"):
        return None
    reason = _reason(picture, left, top, width, height)
    if reason:
        lost[reason] += 1
        return None
    wide, high = picture[1]
    return Box(
        label=names[category],
        xyxy=(max(left, 0.0), max(top, 0.0), min(left + width, float(wide)), min(top + height, float(high))),
        segmentation=_polygons(row.get("segmentation"), (wide, high), lost, where),
        keypoints=_keypoints(row.get("keypoints"), (wide, high), where),
        area=area,
    )


def _area(box: Box) -> float:
    left, top, right, bottom = box.xyxy
    return (right - left) * (bottom - top)


def _reason(picture: Any, left: float, top: float, width: float, height: float) -> str:
    """Why a box is left out; nothing where it stays."""
    if picture is None:
        return "boxes of images that are not there"
    if min(width, height) <= 0:
        return "inverted boxes" if min(width, height) < 0 else "boxes without area"
    wide, high = picture[1]
    return "boxes outside their image" if left >= wide or top >= high or min(left + width, top + height) <= 0 else ""


def _polygons(given: Any, size: Wide, lost: Counter[str], where: str) -> tuple[tuple[float, ...], ...]:
    """The polygons of three points or more, moved into the image; a mask of runs (RLE) is none, and counted."""
    if not given:
        return ()
    if not isinstance(given, list):
        lost["masks that are no polygons"] += 1
        return ()
    kept = [one for one in given if not isinstance(one, list) or len(one) >= 6]
    checked = marks.polygons(kept, None, slack=0.0, where=where)
    return tuple(tuple(min(max(x, 0.0), float(size[place % 2])) for place, x in enumerate(one)) for one in checked)


def _keypoints(given: Any, size: Wide, where: str) -> tuple[Keypoint, ...]:
    """Points moved into the image; none where no point is known."""
    found = marks.keypoints(given or [], None, slack=0.0, where=where)
    if not any(known for _, _, known in found):
        return ()
    wide, high = map(float, size)
    return tuple((min(max(x, 0.0), wide), min(max(y, 0.0), high), known) for x, y, known in found)


def _point_names(data: Any, where: str) -> list[str]:
    """The names of the keypoints; InputError where two categories name theirs differently."""
    known = [row for at, row in rows_of(data, "categories", where) if may(row, "keypoints", at, list)]
    for row in known[1:]:
        if row["keypoints"] != known[0]["keypoints"]:
            raise InputError(
                f"{where}: categories {known[0]['name']!r} and {row['name']!r} have different keypoints; "
                "convert them one by one"
            )
    return [str(name) for name in known[0]["keypoints"]] if known else []
