"""Weight files of a checkpoint directory in the layouts of Hugging Face: whole or in shards, safetensors or pickled."""

import contextlib
import json
import os
import pickle
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.parsing import from_json
from foveal.weights.shelf import Shelf, room

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
LARGEST_SHARD = 5 * 1000**3  # bytes
_AT_ONCE = 32 * 1000**2  # bytes of a file that stay mapped while they are copied


def read_checkpoint(directory: str | Path) -> dict[str, Tensor]:
    """Every weight of a checkpoint directory, on the CPU, in the dtype of the file.

    Raises InputError where the directory or its weights are missing, a shard that the index names is missing, a
    file is truncated, or a pickled file holds more than tensors.
    """
    folder = Path(directory)
    if not folder.is_dir():
        raise InputError(f"no checkpoint directory at {folder}; give the directory that holds config.json")
    for name, read in ((WHOLE, read_weights), (INDEX, _shards), (PICKLED, read_weights), (PICKLED_INDEX, _shards)):
        if (folder / name).exists():
            return read(folder / name)
    if len(others := sorted(folder.glob("*.bin"))) == 1:  # some references name the file by the epoch or the data
        return read_weights(others[0])
    raise InputError(f"{folder} holds no weights; put {WHOLE}, {INDEX} or {PICKLED} there")


def read_config(directory: str | Path) -> dict[str, Any]:
    """The config.json of a checkpoint directory; raises InputError where it is missing or no JSON object."""
    return read_json(Path(directory) / "config.json")


def check_class(config: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise InputError where config.json names a class of its kind of model that is not among the `known` ones."""
    said = next(iter(config.get("architectures") or ()), None)
    if said is not None and said not in known:
        raise InputError(
            f"unknown architecture {said!r} in config.json; of {config.get('model_type')} models Foveal loads "
            f"{', '.join(known)}"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises InputError that names the file where it is missing or something else."""
    try:
        content = from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no {path}; give the directory that holds it") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({_line(error)}); copy it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object; copy it again")
    return content


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a config.json that holds settings of its own; raises InputError where it is missing or no object."""
    found = config.get(name)
    if not isinstance(found, Mapping):
        said = "lacks" if name not in config else f"holds {found!r} as"
        kind = config.get("model_type")
        raise InputError(f"config.json of a {kind} {said} {name}, which is an object of settings; copy it again")
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object; a reader finds the old file until the new one is whole."""
    with _replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_weights(path: Path, *, key: str | None = None) -> dict[str, Tensor]:
    """Every weight of one safetensors or pickled file, which may lie under a `key` there.

    Raises InputError where it is damaged or holds other things, and where it may not be read.
    """
    _check_readable(path)
    try:
        if path.suffix == ".safetensors":
            return _copied(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, EOFError, RuntimeError) as error:
        size = path.stat().st_size
        raise InputError(
            f"{path} ({size} bytes) is truncated or no weight file ({_line(error)}); copy it again"
        ) from None
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} holds more than tensors ({_line(error)}); give a safetensors file") from None
    except (OSError, MemoryError):
        raise
    except Exception as error:  # unpickling raises nearly anything on what is no pickle
        raise InputError(f"{path} is no weight file ({type(error).__name__}: {_line(error)}); copy it again") from None
    if isinstance(state, dict) and isinstance(state.get(key), dict):
        state = state[key]
    if not isinstance(state, dict) or not all(isinstance(weight, Tensor) for weight in state.values()):
        raise InputError(f"{path} is not a state dict of named tensors; save the model's state_dict() alone")
    return dict(state)


def _check_readable(path: Path) -> None:
    """Raises InputError for a folder, and for a file without permission, which safetensors calls missing."""
    try:
        path.open("rb").close()
    except PermissionError:
        raise InputError(f"{path}: no permission to read it; change its mode or its owner") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory and no weight file; put the file there") from None


def read_nested(path: Path, key: str, *, but: str = "") -> dict[str, Tensor]:
    """Every weight of a file of pickled tensors, or of the one `.pth` in a directory `but` that of this name.

    Some references save their state dict under a `key`, beside that of the optimiser. Where a directory has no such
    file it is read as any other. Raises InputError as for others.
    """
    if path.is_dir():
        found = [one for one in sorted(path.glob("*.pth")) if one.name != but]
        if len(found) > 1:
            raise InputError(f"{path} holds {len(found)} .pth files ({', '.join(map(str, found[:2]))}); leave one")
        return read_nested(found[0], key) if found else read_checkpoint(path)
    return read_weights(path, key=key)


def _copied(path: Path) -> dict[str, Tensor]:
    """Weights in memory of their own, a stretch for each part.

    Those that a mapped file lends lie at any address, where products have other last bits; and the pages of a mapping
    stay in memory beside the copies until it is closed, so it is opened anew for each part.
    """
    with safe_open(path, framework="pt") as file:
        left = list(file.keys())
    state: dict[str, Tensor] = {}
    while left:
        with safe_open(path, framework="pt") as file:
            lent: dict[str, Tensor] = {}
            while left and sum(weight.nbytes for weight in lent.values()) < _AT_ONCE:
                name = left.pop(0)
                lent[name] = file.get_tensor(name)
            shelf = Shelf(sum(room(weight.numel(), weight.dtype) for weight in lent.values()))
            state |= {name: shelf.put(weight, weight.dtype) for name, weight in lent.items()}
            del lent
    return state


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def _shards(index: Path) -> dict[str, Tensor]:
    places = _weight_map(index)
    state: dict[str, Tensor] = {}
    for name in sorted(set(places.values())):
        shard = index.parent / name
        if not shard.is_file():
            raise InputError(f"{index.name} names the shard {name}, which is not in {index.parent}; copy it there")
        state |= read_weights(shard)
    absent = [name for name in places if name not in state]
    if absent:
        more = f" and {len(absent) - 1} more" if len(absent) > 1 else ""
        raise InputError(
            f"{index.name} promises {absent[0]}{more} in {places[absent[0]]}, which lacks it; copy it again"
        )
    return state


def _weight_map(index: Path) -> dict[str, str]:
    try:
        places = from_json(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(Path(shard).name) for name, shard in places.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{index} is no index of shards (JSON with weight_map); copy it again") from None


def write_checkpoint(
    directory: str | Path, state: Mapping[str, Tensor], *, max_shard_bytes: int = LARGEST_SHARD
) -> None:
    """Write weights as safetensors that `transformers` reads too, in shards where they are larger than one.

    A name that shares all its memory with an earlier one (a tied weight) is left out. The new weights take the old
    ones' place at one stroke: until then a reader finds the old, after it the new. Raises InputError where the disk
    refuses.
    """
    folder = Path(directory)
    parts = _divided(_untied(state), max_shard_bytes)
    fresh: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if len(parts) == 1:
            with _replacing(folder / WHOLE) as path:
                save_file(parts[0], path, metadata={"format": "pt"})
            kept = {WHOLE}
        else:
            kept = _write_shards(folder, parts, fresh)
    except (OSError, SafetensorError) as error:
        for path in fresh:
            path.unlink(missing_ok=True)
        raise InputError(
            f"weights could not be written to {folder} ({_line(error)}); free space or choose a place"
        ) from None
    _tidy(folder, kept)


def _untied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[tuple[object, ...]] = set()
    result = {}
    for name, weight in state.items():
        place = (weight.device, weight.data_ptr(), weight.shape, weight.stride(), weight.dtype)
        if weight.numel() and place in seen:
            continue
        seen.add(place)
        result[name] = weight.detach().cpu().contiguous()
    return result


def _divided(state: Mapping[str, Tensor], most: int) -> list[dict[str, Tensor]]:
    parts: list[dict[str, Tensor]] = [{}]
    room = most
    for name, weight in state.items():
        if parts[-1] and weight.nbytes > room:
            parts.append({})
            room = most
        parts[-1][name] = weight
        room -= weight.nbytes
    return parts


def _write_shards(folder: Path, parts: list[dict[str, Tensor]], fresh: list[Path]) -> set[str]:
    stem = next(stem for stem in _stems() if not any(folder.glob(f"{stem}-*-of-*.safetensors")))
    places: dict[str, str] = {}
    for i, part in enumerate(parts, start=1):
        name = f"{stem}-{i:05}-of-{len(parts):05}.safetensors"
        fresh.append(folder / name)
        with _replacing(folder / name) as path:
            save_file(part, path, metadata={"format": "pt"})
        places |= dict.fromkeys(part, name)
    total = sum(weight.nbytes for part in parts for weight in part.values())
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})
    fresh.clear()
    (folder / WHOLE).unlink(missing_ok=True)  # a whole file would be read before the shards
    return {INDEX, *places.values()}


def _stems() -> Iterator[str]:
    """Shards never take the names of those that an index still points at."""
    yield "model"
    number = 2
    while True:
        yield f"model.{number}"
        number += 1


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` when all went well, and vanishes otherwise."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        beside.chmod(path.parent.stat().st_mode & 0o666)  # safetensors writes for its owner alone
        with beside.open("rb+") as written:
            os.fsync(written.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _tidy(folder: Path, kept: set[str]) -> None:
    """An earlier writing's safetensors would be read before the new ones, or lie there for nothing."""
    stale = [*folder.glob("model*-of-*.safetensors"), folder / WHOLE, folder / INDEX]
    for path in stale:
        if path.name not in kept:
            path.unlink(missing_ok=True)
