"""Step checkpoints: written whole or not at all, the newest kept, resumed to the same curve.

A checkpoint holds what training has changed (weights of trained parts, buffers, optimizer), where it stood in the data
and the random states. What was never trained is not written again; its fingerprint is, and must match at resuming.
"""

import errno
import hashlib
import json
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from foveal.core.config import parse
from foveal.core.errors import InputError
from foveal.training.sharing import shared_like, told, whole

_NAME = re.compile(r"step-\d{8}-stage-\d{2}")
_ADAPTED = ".base_layer"  # stands in the names of maps that carry an adapter


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands: stage, steps in it and in all, visited groups of it, seconds in all and when it began.

    `phase` counts how often a stage has changed what learns in it.
    """

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    place: int = 0
    seconds: float = 0.0
    stage_began: float = 0.0
    phase: int = 0

    def next_stage(self) -> "Progress":
        """The beginning of the stage that follows."""
        return replace(self, stage=self.stage + 1, stage_step=0, place=0, stage_began=self.seconds, phase=0)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a checkpoint holds; `random` has one entry a process.

    `untouched` is the fingerprint of the parameters that are not among `weights`, `recipe` what is trained and how: a
    run resumes with the same alone. `window` holds the sums of the log entry that is not yet written.
    """

    progress: Progress
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    random: tuple[Mapping[str, Any], ...]
    untouched: str
    recipe: Mapping[str, Any]
    window: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of one run, `step-00000100-stage-01` and so on in `folder`; the last `keep` of them stay."""

    folder: Path
    keep: int = 2

    def found(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))

    def newest(self) -> Path | None:
        """The last whole checkpoint, if there is one."""
        return next(reversed(self.found()), None)

    def place(self, snapshot: Snapshot) -> Path:
        """Where a snapshot is or will be."""
        return self.folder / f"step-{snapshot.progress.step:08d}-stage-{snapshot.progress.stage:02d}"

    def write(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint and drop the oldest beyond `keep`; an OSError (a full disk) leaves the earlier ones be."""
        self.folder.mkdir(parents=True, exist_ok=True)
        place = self.place(snapshot)
        if place.exists():
            return place
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.folder))
        try:
            _fill(partial, snapshot)
            partial.rename(place)
            _sync(self.folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        for old in self.found()[: -self.keep]:
            shutil.rmtree(old)
        return place

    def read(self, path: Path) -> Snapshot:
        """The snapshot of a checkpoint; raises InputError where its files are damaged."""
        try:
            tensors = load_file(path / "state.safetensors")
            meta = json.loads((path / "state.json").read_text(encoding="utf-8"))
            return Snapshot(
                progress=parse(Progress, meta["progress"], where=str(path)),
                weights=_under("weights.", tensors),
                optimizer=_under("optimizer.", tensors),
                random=tuple(meta["random"]),
                untouched=meta["untouched"],
                recipe=meta["recipe"],
                window=meta.get("window", {}),
            )
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            told = " ".join(str(error).split())
            raise InputError(
                f"the checkpoint {path} is damaged ({told}); remove it to resume from the one before"
            ) from None

    def clear(self) -> None:
        """Remove every checkpoint, and what an interrupted write has left."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what an interrupted write has left."""
        for partial in self.folder.glob(".partial-*"):
            shutil.rmtree(partial, ignore_errors=True)


def _fill(folder: Path, snapshot: Snapshot) -> None:
    tensors = {f"weights.{name}": tensor for name, tensor in snapshot.weights.items()}
    tensors |= {f"optimizer.{name}": tensor for name, tensor in snapshot.optimizer.items()}
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "state.safetensors")
    except SafetensorError as error:  # it tells of a full disk in words alone
        if "os error 28" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None
        raise
    meta = {
        "progress": asdict(snapshot.progress),
        "random": snapshot.random,
        "untouched": snapshot.untouched,
        "recipe": snapshot.recipe,
        "window": snapshot.window,
    }
    (folder / "state.json").write_text(json.dumps(meta), encoding="utf-8")
    for path in (*folder.iterdir(), folder):
        _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters under their first names; the weight of a map that carries an adapter keeps the name it had before."""
    return {name.replace(_ADAPTED, ""): parameter for name, parameter in model.named_parameters()}


def names_of(model: nn.Module, chosen: Iterable[nn.Parameter]) -> set[str]:
    """The names that some parameters have in a checkpoint."""
    wanted = set(chosen)
    return {name for name, parameter in parameters_of(model).items() if parameter in wanted}


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that a state dict holds (running means and the like), and those of a class that names COUNTS."""
    kept = {
        *model.state_dict(),
        *(f"{place}.{name}" for place, part in model.named_modules() for name in _counts(part)),
    }
    return {name.replace(_ADAPTED, ""): buffer for name, buffer in model.named_buffers() if name in kept}


def _counts(part: nn.Module) -> tuple[str, ...]:
    found = getattr(type(part), "COUNTS", ())
    return found if isinstance(found, tuple) else ()


@torch.no_grad()
def put_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put a checkpoint's weights in; raises InputError for one that the model lacks or shapes otherwise."""
    places = parameters_of(model) | buffers_of(model)
    for name, tensor in weights.items():
        if name not in places or places[name].shape != tensor.shape:
            mine = tuple(places[name].shape) if name in places else "nothing"
            raise InputError(
                f"the checkpoint holds {name} of shape {tuple(tensor.shape)}, the model {mine}; "
                "resume with the recipe that wrote it, or start afresh with --fresh"
            )
        places[name].copy_(shared_like(tensor, places[name]))


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = whole(tensors[name].detach()).cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


Untouched = tuple[frozenset[str], str]  # names and fingerprint


def left_out(model: nn.Module, learned: Iterable[str], before: Untouched) -> Untouched:
    """Names and fingerprint of the parameters that have never learned; `before` where they are those of then."""
    parameters = {name: one for name, one in parameters_of(model).items() if "lora_" not in name}
    rest = parameters.keys() - set(learned)
    if rest == before[0] and before[1]:
        return before
    return frozenset(rest), fingerprint({name: parameters[name] for name in rest})


def state_of(
    model: nn.Module, learned: Iterable[str], optimizer: torch.optim.Optimizer | None, *, here: bool, pipeline: Any
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights that have learned and buffers, and the optimizer's state, put together in those that want them `here`.

    Those of a `pipeline` send what they hold to the first; all have to ask.
    """
    wanted = set(learned)
    weights = {name: one for name, one in parameters_of(model).items() if name in wanted}
    state = {} if optimizer is None else optimizer_of(optimizer, here=here or pipeline is not None)
    if pipeline is None:
        return {name: told(one.detach(), here=here) for name, one in weights.items()} | buffers_of(model), state
    held = {name: one for name, one in (weights | buffers_of(model)).items() if pipeline.holds(one)}
    return pipeline.collected(held), pipeline.collected(state)


def optimizer_of(optimizer: torch.optim.Optimizer, *, here: bool = True) -> dict[str, Tensor]:
    """An optimizer's state as flat tensors: `3.exp_avg` belongs to its fourth parameter.

    What processes hold shares of is put together in those that want it `here`.
    """
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{key}": told(torch.as_tensor(value), here=here)
        for number, entry in state.items()
        for key, value in entry.items()
    }


def put_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], holds: Callable[[Tensor], bool] = lambda one: True
) -> None:
    """Put such a state back, of the parameters that this process `holds`."""
    described = optimizer.state_dict()
    learned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        if not holds(like := learned[int(number)]):
            continue
        state.setdefault(int(number), {})[key] = shared_like(tensor, like) if tensor.shape == like.shape else tensor
    optimizer.load_state_dict({**described, "state": state})


def random_state() -> dict[str, Any]:
    """The random states of this process (python, numpy, torch, each accelerator), as JSON holds them."""
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": bytes(torch.get_rng_state().numpy()).hex(),
        "cuda": [bytes(state.numpy()).hex() for state in torch.cuda.get_rng_state_all()]
        if torch.cuda.is_available()
        else [],
    }


def put_random_state(state: Mapping[str, Any]) -> None:
    """Put such states back; those of accelerators that are no longer there are left out."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_bytes(state["torch"]))
    for device, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_bytes(saved), device)


def put_chance(snapshot: Snapshot, rank: int) -> None:
    """Put the random states of the process of this rank back, where a checkpoint has them."""
    if rank < len(snapshot.random):
        put_random_state(snapshot.random[rank])


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
