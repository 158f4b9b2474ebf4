"""What is looked for in a data set beyond what reading it checks: pictures to their last pixel, ids that repeat."""

from collections.abc import Callable, Iterator
from pathlib import Path

from foveal.core.errors import InputError
from foveal.core.example import FEATURES, Example, is_film
from foveal.data.format import located


def thorough(
    file: Path, *, repeated: dict[str, str], progress: Callable[[int], None] = lambda examples: None
) -> Iterator[Example]:
    """The examples of a file, every picture of which is decoded once; `repeated` gets each further line of an id.

    Raises InputError with the line of a picture that is damaged.
    """
    from foveal.preprocess.image import open_image

    ids: set[str] = set()
    seen: set[Path] = set()
    for number, (where, example) in enumerate(located(file), start=1):
        if example.id in ids:
            repeated[where] = example.id
        ids.add(example.id)
        for image in example.images:
            if not isinstance(image, Path) or image in seen or image.suffix in FEATURES or is_film(image):
                continue
            seen.add(image)
            try:
                open_image(image)
            except InputError as error:
                raise InputError(f"{where}: {error}") from None
        progress(number)
        yield example
