"""What a data set holds: how many, of which kinds, how its answers are spread, and what guessing them earns."""

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, TypeGuard

from foveal.core.example import Example, Held, identity, is_film, pictures
from foveal.data import media
from foveal.data.format import image_size, said


def summary(examples: Iterable[Example]) -> dict[str, Any]:
    """Counts of examples, scenes and images, image sizes, and for every kind its answers.

    `majority` of a kind is the accuracy (0 to 1) of always giving its most frequent answer, `answer`; `area` is the
    mean share of the image that the answers cover, where the data say it in a number. A scene may have any name.
    """
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    areas: dict[str, list[float]] = defaultdict(list)
    images: dict[Hashable, Any] = {}
    scenes: set[Any] = set()
    opened: list[Any] = []  # which object it is tells an opened picture, so all of them stay
    for example in examples:
        kind = str(example.meta.get("kind", "all"))
        answers[kind].update(said(example, "assistant")[-1:])
        for image in example.images:
            if identity(image) not in images:
                images[identity(image)] = image if isinstance(image, Path) else media.size(image)
                opened += [] if isinstance(image, Path | Held) else [image]
        scenes.add(_scene(example))
        if _finite(area := example.meta.get("area")):
            areas[kind].append(float(area))
    kinds = {kind: _kind(counts) for kind, counts in sorted(answers.items())}
    for kind, values in areas.items():
        kinds[kind]["area"] = round(sum(values) / len(values), 5)
    return {
        "examples": sum(row["count"] for row in kinds.values()),
        "scenes": len(scenes),
        "images": len(images),
        **({"videos": films} if (films := sum(map(_film, images.values()))) else {}),
        "sizes": sizes(images.values()),
        "kinds": kinds,
    }


def _scene(example: Example) -> Hashable:
    named = example.meta.get("scene", pictures(example) or example.id)
    return json.dumps(named, sort_keys=True) if isinstance(named, list | dict) else named


def _finite(given: Any) -> TypeGuard[int | float]:
    return isinstance(given, int | float) and not isinstance(given, bool) and abs(given) <= sys.float_info.max


def _kind(counts: Counter[str]) -> dict[str, Any]:
    total = counts.total()
    answer, most = counts.most_common(1)[0] if counts else ("", 0)
    return {
        "count": total,
        "answers": len(counts),
        "answer": answer,
        "majority": round(most / max(total, 1), 4),
        "top": dict(counts.most_common(5)),
    }


def _film(image: Any) -> bool:
    return isinstance(image, Path) and is_film(image)


def sizes(images: Iterable[Any]) -> dict[str, Any]:
    """Least, median and greatest width and height in pixels, from the heads of files, or of sizes."""
    found = [image_size(str(image)) if isinstance(image, Path) else image for image in images]
    if not found:
        return {}
    columns = {"width": sorted(w for w, _ in found), "height": sorted(h for _, h in found)}
    return {name: [values[0], values[len(values) // 2], values[-1]] for name, values in columns.items()}
