"""What is looked for in a data set beyond what reading it checks: pictures to their last pixel, ids that repeat."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

from foveal.core.errors import InputError
from foveal.core.example import FEATURES, Example, identity, is_film
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
    seen: set[Hashable] = set()
    for number, (where, example) in enumerate(located(source, split=split), start=1):
        if example.id in ids:
            repeated[where] = example.id
        ids.add(example.id)
        told = example.meta.get("size") if example.boxes else None
        for place, image in enumerate(example.images):
            filed = isinstance(image, Path)
            if identity(image) in seen or (filed and (image.suffix in FEATURES or is_film(image))):
                continue
            seen.add(identity(image))
            try:
                open_image(image)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
            if filed and told and any(box.image == place for box in example.boxes):
                _agree(told, image, where)
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
