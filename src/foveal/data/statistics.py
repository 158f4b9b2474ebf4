"""What a data set holds: how many, of which kinds, how its answers are spread, and what guessing them earns."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from foveal.core.example import Example, is_film
from foveal.data.format import image_size, said


def summary(examples: Iterable[Example]) -> dict[str, Any]:
    """Counts of examples, scenes and images, image sizes, and for every kind its answers.

    `majority` of a kind is the accuracy (0 to 1) of always giving its most frequent answer, `answer`; `area` is the
    mean share of the image that the answers cover, where the data say it.
    """
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    areas: dict[str, list[float]] = defaultdict(list)
    images: dict[Path, None] = {}
    scenes: set[Any] = set()
    for example in examples:
        kind = str(example.meta.get("kind", "all"))
        answers[kind].update(said(example, "assistant")[-1:])
        images.update(dict.fromkeys(example.images))
        scenes.add(example.meta.get("scene", example.images or example.id))
        if "area" in example.meta:
            areas[kind].append(example.meta["area"])
    kinds = {kind: _kind(counts) for kind, counts in sorted(answers.items())}
    for kind, values in areas.items():
        kinds[kind]["area"] = round(sum(values) / len(values), 5)
    return {
        "examples": sum(row["count"] for row in kinds.values()),
        "scenes": len(scenes),
        "images": len(images),
        **({"videos": films} if (films := sum(map(is_film, images))) else {}),
        "sizes": sizes(images),
        "kinds": kinds,
    }


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


def sizes(images: Iterable[Path]) -> dict[str, Any]:
    """Least, median and greatest width and height in pixels, from the heads of the files."""
    found = [image_size(str(image)) for image in images]
    if not found:
        return {}
    columns = {"width": sorted(w for w, _ in found), "height": sorted(h for _, h in found)}
    return {name: [values[0], values[len(values) // 2], values[-1]] for name, values in columns.items()}
