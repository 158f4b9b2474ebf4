"""What lies beside the weights of a Hugging Face checkpoint for its own processor: tokenizer, templates, settings.

A run that began as such a checkpoint keeps these files in its directory ORIGIN, to be written back as they came.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from foveal.core.errors import InputError

ORIGIN = "origin"
_READ = (".json", ".jinja", ".txt", ".model", ".py")
_OURS = ("config.json", "generation_config.json")  # written from what the model is by now


def carry(source: Path | None, folder: Path) -> None:
    """Copy a checkpoint's companions into a folder; nothing where they are gone. Raises InputError where the disk
    refuses."""
    if source is None or not source.is_dir() or (folder.is_dir() and source.samefile(folder)):
        return
    try:
        for path in _companions(source):
            place = folder / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; choose another place") from None


def _companions(source: Path) -> Iterator[Path]:
    for path in (*source.iterdir(), *source.glob("*tokenizer/*")):  # InstructBLIP has a second one in a directory
        named = path.suffix in _READ and path.name not in _OURS and not path.name.endswith(".index.json")
        if named and path.is_file():
            yield path
