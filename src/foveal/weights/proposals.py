"""What another run finds in pictures, for a model that looks at what lies there: found once, kept in a small file."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from foveal.core import machine
from foveal.core.errors import InputError
from foveal.core.example import Box
from foveal.preprocess.processor import ProcessorConfig
from foveal.preprocess.regions import Proposals
from foveal.weights.smollm2 import user_cache

BATCH = 32  # pictures looked at together
Boxes = tuple[Box, ...]


class Finder:
    """The boxes that a run finds in each picture; those of image files are kept, for whoever looks at these again.

    The run is opened when a picture is new, on `device` (None: the accelerator where there is one). Raises InputError
    where it is gone or another one, and for one that finds no boxes.
    """

    def __init__(self, wanted: Proposals, device: torch.device | str | None = None) -> None:
        self.wanted, self.device = wanted, device
        self.known: dict[str, Boxes] = {}
        self._run: Any = None

    def __call__(self, images: Sequence[Any]) -> list[Boxes]:
        """The boxes of every picture, in their order."""
        self.look(self.missing(images))
        opened = iter(self._found([image for image in images if not _is_file(image)]))
        return [self.known[_key(image)] if _is_file(image) else next(opened) for image in images]

    def missing(self, images: Sequence[Any]) -> list[Any]:
        """Those of the image files, each once, that nobody has looked at."""
        wanted = {_key(image): image for image in images if _is_file(image)}
        if not wanted.keys() <= self.known.keys():
            self.known |= self._read()
        return [image for key, image in wanted.items() if key not in self.known]

    def look(self, images: Sequence[Any], progress: Callable[[int], None] = lambda pictures: None) -> None:
        """Find and keep what is in these image files; `progress` is called with the number of those just done."""
        for start in range(0, len(images), BATCH):
            some = images[start : start + BATCH]
            found = dict(zip(map(_key, some), self._found(some), strict=True))
            self._write(found)
            self.known |= found
            progress(len(some))

    def close(self) -> None:
        """Let go of the run until a picture is new."""
        self._run = None

    @property
    def file(self) -> Path:
        """Where the boxes are kept: a file for each run and choice among its boxes, a line for each picture."""
        known = self.wanted.sha256 or fingerprint(Path(self.wanted.run))
        name = f"{known[:16]}-{self.wanted.least:g}-{self.wanted.most}.jsonl"
        return user_cache() / "proposals" / name

    def _found(self, images: Sequence[Any]) -> list[Boxes]:
        made: list[Boxes] = []
        for start in range(0, len(images), BATCH):
            made += self._opened().detect(images[start : start + BATCH])
        likely = [[box for box in boxes if (box.score or 0.0) >= self.wanted.least] for boxes in made]
        return [tuple(boxes[: self.wanted.most]) for boxes in likely]

    def _opened(self) -> Any:
        if self._run is None:
            from foveal.weights import run

            folder = Path(self.wanted.run)
            if self.wanted.sha256 not in ("", fingerprint(folder)):
                raise InputError(
                    f"the run {folder} is another one than that whose boxes the model has learned from; bring that back"
                )
            self._run = run.load(folder, device=self.device or machine.device())
        return self._run

    def _read(self) -> dict[str, Boxes]:
        known = {}
        for line in self.file.read_text(encoding="utf-8").splitlines() if self.file.is_file() else ():
            try:
                row = json.loads(line)
            except ValueError:  # a line that was cut off: its pictures are looked at again
                continue
            known[row["image"]] = tuple(
                Box(label=label, xyxy=tuple(place), score=score) for label, place, score in row["boxes"]
            )
        return known

    def _write(self, found: dict[str, Boxes]) -> None:
        rows = [
            {"image": key, "boxes": [[box.label, list(box.xyxy), box.score] for box in boxes]}
            for key, boxes in found.items()
        ]
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as kept:
                kept.write("".join(f"\n{json.dumps(row)}" for row in rows))  # whole lines, after one that was cut off
        except OSError as error:
            raise InputError(f"cannot write {self.file} ({error.strerror}); free some space there") from None


def finder(config: ProcessorConfig, *, device: torch.device | str | None = None) -> Finder | None:
    """What finds the regions of a processor, where these are proposals of a run that is named."""
    wanted = config.proposals
    return Finder(Proposals.of(wanted), device) if config.regions == "proposals" and wanted is not None else None


def pinned(given: str | Proposals) -> Proposals:
    """The same with the run's place and fingerprint as they are now; raises InputError where there is no run."""
    wanted = Proposals.of(given)
    return replace(wanted, run=os.path.abspath(wanted.run), sha256=fingerprint(Path(wanted.run)))


def fingerprint(folder: Path) -> str:
    """SHA-256 over the files of a run; raises InputError where there is none."""
    files = sorted([folder / "config.yaml", *folder.glob("*.safetensors")])
    if len(files) < 2 or not files[0].is_file():
        raise InputError(
            f"there is no run {folder} to find proposals; train one (foveal train pix2seq) and name it with "
            "processor.proposals=RUN, or tell a trained run in its config.yaml where that lies now"
        )
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _is_file(image: Any) -> bool:
    return isinstance(image, str | os.PathLike)


def _key(image: Any) -> str:
    """An image file as it is now; raises InputError for one that is not there."""
    try:
        known = os.stat(image)
    except OSError as error:
        raise InputError(f"cannot read the image {os.fspath(image)} ({error.strerror}); mend the data") from None
    return f"{os.path.abspath(image)}:{known.st_size}:{known.st_mtime_ns}"
