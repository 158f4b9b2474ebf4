"""A run directory on disk: config.yaml, model.safetensors and the processor's files."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from foveal.core.errors import InputError, unknown, yaml_fault
from foveal.core.parsing import from_yaml
from foveal.models.autoencoder import Autoencoder
from foveal.models.causal import Causal
from foveal.models.masked import Masked
from foveal.models.two_tower import TwoTower
from foveal.preprocess.processor import Processor
from foveal.weights.companions import ORIGIN, carry
from foveal.weights.files import write_checkpoint

FORMAT = 1
_KEYS = ("foveal", "model", "processor", "external", "origin", "about")


def write_run(
    path: str | os.PathLike[str],
    model: Causal | Masked | Autoencoder | TwoTower,
    processor: Processor | None,
    *,
    external: Mapping[str, str] | None = None,
    origin: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    beside: Path | None = None,
) -> Path:
    """Write a run directory; each file appears whole. Raises InputError where the directory cannot be made.

    `external` names the source of parts whose weights come with an installed package: a fingerprint is kept in their
    stead. `origin` is the reference's config and generation settings where the model began as its checkpoint, `beside`
    where the files of its own processor lie, `about` a free record of how the run was made.
    """
    if not isinstance(path, str | os.PathLike) or path == "":
        raise InputError(f"{path!r} is no place for a run; name a directory")
    folder = Path(os.path.expanduser(path))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}; choose another place") from None
    state, kept = model.state_dict(), {}
    for part, source in (external or {}).items():
        mine = {name: state.pop(name) for name in list(state) if name.startswith(f"{part}.")}
        kept[part] = {"source": source, "sha256": fingerprint(mine)}
    write_checkpoint(folder, state)
    carry(beside, folder / ORIGIN)
    described: dict[str, Any] = {"foveal": FORMAT, "model": model.config.dump()}
    if processor is not None:
        processor.save(folder)
        described["processor"] = processor.settings()
    described |= {"external": kept, "origin": dict(origin or {}), "about": dict(about or {})}
    fresh = folder / "config.yaml.tmp"
    fresh.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
    fresh.replace(folder / "config.yaml")
    return folder


def is_run(directory: Path) -> bool:
    """Whether a directory is a run of ours; beside a config.json, another's config.yaml does not make it one."""
    path = directory / "config.yaml"
    if not path.is_file() or not (directory / "config.json").exists():
        return path.is_file()
    try:
        described = from_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return False
    return isinstance(described, dict) and "model" in described


def described(directory: Path | None) -> dict[str, Any] | None:
    """What a run's config.yaml says; None for what is no run of ours. Raises InputError as `read_config` does."""
    if directory is None or not is_run(directory):
        return None
    return read_config(directory / "config.yaml")


def read_config(path: Path) -> dict[str, Any]:
    """What a config.yaml says; raises InputError for a file of another kind or format."""
    try:
        described = from_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {yaml_fault(error)}") from None
    if not isinstance(described, dict) or "model" not in described:
        raise InputError(f"{path} describes no model; give the directory of a run that foveal train wrote")
    for key in described:
        if key not in _KEYS:
            raise unknown(f"key in {path}:", str(key), _KEYS)
    if described.get("foveal") != FORMAT:
        raise InputError(f"{path} has format {described.get('foveal')!r}, this Foveal reads {FORMAT}; update Foveal")
    _check_parts(described, path)
    return described


def _check_parts(described: Mapping[str, Any], path: Path) -> None:
    """Raises InputError for a part of a config.yaml that is none of what `write_run` writes there."""
    for key in ("processor", "external", "origin", "about"):
        if not isinstance(described.get(key) or {}, Mapping):
            raise InputError(
                f"{path} has {described[key]!r} as {key!r}, which holds keys and values; mend or restore it"
            )
    if not isinstance((described.get("origin") or {}).get("config") or {}, Mapping):
        raise InputError(f"{path} has an origin whose config holds no keys and values; mend or restore it")
    for part, entry in (described.get("external") or {}).items():
        told = entry if isinstance(entry, Mapping) else {}
        if lacks := [key for key in ("source", "sha256") if not isinstance(told.get(key), str)]:
            raise InputError(f"{path} tells no {' and no '.join(lacks)} of external.{part}; mend or restore it")


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(state[name].detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
