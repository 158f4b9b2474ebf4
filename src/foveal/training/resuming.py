"""Whether a run goes on from its checkpoint: only as it was begun, so that it comes to the same curve."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from foveal.core.config import dump, parse
from foveal.core.errors import InputError
from foveal.training.checkpoint import Snapshot
from foveal.training.config import TrainingConfig
from foveal.training.processes import Team

# what may differ when a run is resumed
_HARMLESS = ("checkpoint_minutes", "keep", "keep_stages", "log_every", "tensorboard", "workers", "device")
_HARMLESS += ("zero", "tensor", "pipeline")  # how processes share a model


def described(config: TrainingConfig, recipe: Mapping[str, Any], *, examples: int) -> dict[str, Any]:
    """What must be the same when a run is resumed, as JSON holds it."""
    found: dict[str, Any] = json.loads(json.dumps({**recipe, "training": _telling(config), "examples": examples}))
    return found


def check(snapshot: Snapshot, recipe: Mapping[str, Any], *, team: Team, out: Path) -> None:
    """Raise InputError where another recipe wrote the checkpoint, or another number of groups with steps to go."""
    way = "begin anew with --fresh, or give another --out"
    for path, was, now in differences(_extended(snapshot.recipe, recipe), recipe):
        if path == "lines" and was and now:
            raise InputError(f"{out} was trained on other lines than its data files hold now; put those back, {way}")
        told = f"{path} {was!r}, not {now!r}"
        if path == "training.stages":
            told = f"{len(was)} stages, not {len(now)}"
        raise InputError(f"{out} holds a run with {told}; resume it with the same settings, {way}")
    begun, to_go = len(snapshot.random), snapshot.progress.stage < len(recipe["training"]["stages"])
    if to_go and begun != team.groups and begun:
        kind = ("process", "processes") if team.each == 1 else ("group of processes", "groups of processes")
        raise InputError(
            f"{out} holds a run of {begun} {kind[begun > 1]}, and this is one of {team.groups}, whose steps take other "
            f"batches; start {begun * team.each}{'' if team.each == 1 else ' processes'}, {way}"
        )


def _telling(config: TrainingConfig) -> dict[str, Any]:
    return {key: value for key, value in dump(config).items() if key not in _HARMLESS}


def _extended(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What a run was made by, with the defaults of settings that are new since, and the stages that now follow."""
    training = _telling(parse(TrainingConfig, was["training"], where="the checkpoint's training"))
    training["stages"] += now["training"]["stages"][len(training["stages"]) :]
    since = {key: now[key] for key in ("lines",) if key in now}
    return {**since, **was, "training": json.loads(json.dumps(training))}


def differences(was: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two plain trees differ: the dotted place, and what stands there in each."""
    if isinstance(was, dict) and isinstance(now, dict):
        for key in sorted(was.keys() | now.keys()):
            yield from differences(was.get(key), now.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for i, (old, new) in enumerate(zip(was, now, strict=True)):
            yield from differences(old, new, f"{path}.{i}")
    elif was != now:
        yield path, was, now
