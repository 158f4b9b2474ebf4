"""What is looked for in a data set beyond what reading it checks: pictures to their last pixel, ids that repeat."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError
from foveal.core.example import FEATURES, Example, is_film
from foveal.data import media
from foveal.data.format import image_size, located


def thorough(
    source: Path,
    *,
    repeated: dict[str, str],
    split: str = "train",
    progress: Callable[[int], None] = lambda examples: None,
) -> Iterator[Example]:
    """The examples of a file or a split, every picture decoded once; `repeated` gets each further line of an id.

    Raises InputError with the line of a picture that is damaged, and of boxes whose `size` in `meta` is not its own.
    """
    from foveal.preprocess.image import open_image

    ids: set[str] = set()
    seen: set[Path] = set()
    last: tuple[Any, ...] = ()  # pictures in memory are told apart while they are held, and only these are held
    for number, (where, example) in enumerate(located(source, split=split), start=1):
        if example.id in ids:
            repeated[where] = example.id
        ids.add(example.id)
        told = example.meta.get("size") if example.boxes else None
        for place, image in enumerate(example.images):
            filed = isinstance(image, Path)
            if image.suffix in FEATURES or is_film(image) or image in seen if filed else media.among(image, last):
                continue
            last = (*last, image)
            seen |= {image} if filed else set()
            try:
                open_image(image)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
            if filed and told and any(box.image == place for box in example.boxes):
                _agree(told, image, where)
        last = example.images or last
        progress(number)
        yield example


def _agree(told: Sequence[int | float], image: Path, where: str) -> None:
    """Raises InputError where boxes are on a picture of another size, such as one that EXIF turns."""
    width, height = image_size(str(image))
    if (told[0], told[1]) != (width, height):
        raise InputError(
            f"{where}: 'size' in 'meta' is {told[0]} x {told[1]} but {image.name} is {width} x {height} pixels "
            "upright; give it and the boxes as that has them, or leave it out"
        )
