"""Pictures that go along with a converted data set: none takes the place of another, and equal ones are one."""

import filecmp
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from foveal.core.example import Example


class Copies:
    """Copies the images of examples into one folder, in which whatever lies there already stays as it is."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.fresh = folder, not folder.exists()
        self.known: dict[Path, Path] = {}
        self.made: list[Path] = []
        # Where the search for a free name goes on: thousands of folders may hold a picture of one name.
        self.turns: Counter[str] = Counter()

    def __call__(self, examples: Iterable[Example]) -> Iterator[Example]:
        """The examples one by one, on the copies of their images."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for example in examples:
            yield replace(example, images=tuple(self.copy(image) for image in example.images))

    def copy(self, image: Path) -> Path:
        """The copy of an image or of a directory of frames: an equal one that is there, or a new one."""
        if image not in self.known:
            place = self._place(image)
            if not place.exists():
                self.made.append(place)
                copied: Any = shutil.copytree if image.is_dir() else shutil.copyfile
                copied(image, place)
            self.known[image] = place
        return self.known[image]

    def undo(self) -> None:
        """Remove what was copied, and the folder where it was made for that."""
        for place in self.made:
            if place.is_dir():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
        if self.fresh:
            with suppress(OSError):  # another may have put something there meanwhile
                self.folder.rmdir()

    def _place(self, image: Path) -> Path:
        """Where an equal file lies, or the first name that is free."""
        while True:
            turn = self.turns[image.name]
            self.turns[image.name] += 1
            place = self.folder / (f"{turn}-{image.name}" if turn else image.name)
            if not place.exists() or same(image, place):
                return place


def same(one: Path, other: Path) -> bool:
    """Whether two files hold the same bytes, or two directories the same files."""
    if one.is_dir() != other.is_dir():
        return False
    if not one.is_dir():
        return filecmp.cmp(one, other, shallow=False)
    names = [sorted(path.relative_to(place) for path in place.rglob("*")) for place in (one, other)]
    return names[0] == names[1] and all(
        (one / name).is_dir() or filecmp.cmp(one / name, other / name, shallow=False) for name in names[0]
    )
