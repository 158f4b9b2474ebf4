"""Where a data set lies: the files of each of its splits."""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from foveal.core.errors import InputError, unknown

_NUMBER = re.compile(r"[-_.]\d+$")  # of a shard among others
_PICTURED = (".tar", ".parquet", ".arrow")
_SPOTS, _SPOT = 16, 1 << 16  # places of a file and bytes at each, so that one of a megabyte is read whole


def splits(folder: Path) -> list[str]:
    """The splits of a data set: the names of its .jsonl files, or else of its shards (`train.tar`, `train-01.tar`), or
    those of a Hugging Face data set."""
    return sorted(_found(folder))


def locate(path: str | os.PathLike[str], split: str = "train") -> Path:
    """The file of a data set's split (of several the first), or what is named where that is a file or has none.

    Raises InputError where there is none.
    """
    return next(iter(files(path, split)), Path(path))


def files(path: str | os.PathLike[str], split: str = "train") -> list[Path]:
    """All files of a data set's split in their order: one of lines, or its shards. Raises InputError where none is."""
    place = Path(path)
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise InputError(f"no data at {place}; name a .jsonl file, or a directory such as `foveal data scenes` makes")
    found = _found(place)
    if not found:
        raise InputError(
            f"{place} holds no .jsonl file, no .tar and no Hugging Face data set; name a directory such as "
            "`foveal data scenes` makes"
        )
    if split not in found:
        raise unknown(f"split in {place}", split, found)
    return found[split]


def _found(folder: Path) -> dict[str, list[Path]]:
    """The files of each split."""
    from foveal.data import tables

    if lines := {file.stem: [file] for file in sorted(folder.glob("*.jsonl"))}:
        return lines
    shards: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.tar")):
        shards.setdefault(_NUMBER.sub("", file.stem), []).append(file)
    return shards or tables.found(folder)


def fingerprint(files: Iterable[Path]) -> str:
    """SHA-256 of what data files hold, in their order, wherever they lie; of those with pictures in them, of their
    names, sizes and some places spread over each."""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as content:
            whole = file.suffix not in _PICTURED
            told = hashlib.file_digest(content, "sha256").digest() if whole else _glimpsed(content, file)
        digest.update(told)
    return digest.hexdigest()


def _glimpsed(content: IO[bytes], file: Path) -> bytes:
    """What stands for a file that may be too large to be read whole at each start of a training."""
    size = file.stat().st_size
    digest = hashlib.sha256(f"{size} {file.name}".encode())
    for spot in range(_SPOTS):
        content.seek(max(0, size - _SPOT) * spot // (_SPOTS - 1))
        digest.update(content.read(_SPOT))
    return digest.digest()
