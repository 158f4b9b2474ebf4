"""Where a data set lies: the files of each of its splits."""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from foveal.core.errors import InputError, unknown
from foveal.core.parsing import from_json

_NUMBER = re.compile(r"[-_.]\d+$")  # of a shard among others
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"
_NUMBERED = re.compile(r"(.+?)-\d+-of-\d+.*")  # train-00000-of-00003.parquet
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
    if lines := {file.stem: [file] for file in sorted(folder.glob("*.jsonl"))}:
        return lines
    shards: dict[str, list[Path]] = {}
    for file in sorted(folder.glob("*.tar")):
        shards.setdefault(_NUMBER.sub("", file.stem), []).append(file)
    return shards or _tables(folder)


def _tables(folder: Path) -> dict[str, list[Path]]:
    """The files of each split of a Hugging Face data set, of no other folder; without splits it has `train`."""
    if (folder / _SAVED).is_file():
        return {"train": _named(folder)}
    if (folder / _SAVED_SPLITS).is_file():
        saved = sorted(inner for inner in folder.iterdir() if (inner / _SAVED).is_file())
        return {inner.name: _named(inner) for inner in saved}
    made: dict[str, list[Path]] = {}
    for file in sorted((*folder.glob("*.parquet"), *folder.glob("data/*.parquet"))):
        numbered = _NUMBERED.fullmatch(file.stem)
        made.setdefault(numbered[1] if numbered else file.stem, []).append(file)
    return made


def _named(folder: Path) -> list[Path]:
    """The files of a saved data set: others may lie beside them, that `map` and `filter` have kept there."""
    place = folder / _SAVED
    try:
        return [folder / one["filename"] for one in from_json(place.read_bytes())["_data_files"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{place} names no files of data ({error!r}); save the data set again") from None


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
