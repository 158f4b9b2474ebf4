"""The front door: where everything is put together."""

import math
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
import yaml

from foveal.core.errors import InputError, unknown, yaml_fault
from foveal.core.parsing import from_yaml
from foveal.inference import exported
from foveal.models.assembly import assemble, check
from foveal.models.config import ModelConfig
from foveal.preprocess.processor import Processor
from foveal.weights import families, packaged, run
from foveal.weights.families import FORMATS
from foveal.weights.files import read_config
from foveal.weights.pretrained import EXTERNAL, initialise
from foveal.weights.refusals import check_adapter

if TYPE_CHECKING:
    from foveal.models.asked import Loaded as Model
else:  # what writes nothing has no answer, and who checks types at run time would ask for it
    Model = Any

_FORMATS = ("foveal", "huggingface", *FORMATS)


def load(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
) -> Model:
    """A model ready to use, from a run directory of ours or a checkpoint directory of Hugging Face or another origin.

    What `foveal export` wrote is a run too, whose heavy parts another engine computes.
    `format` is found out where it is not given; a `dtype` of "auto" is that of the file. "starter" names the starter
    model, "smollm2-135m" the packaged language model; a directory of that name goes first. Raises InputError for a
    directory of neither kind or of another than `format`, a training that has not ended, an unsupported model type, a
    device that is not there, and any weight that does not fit.
    """
    if format is not None and format not in _FORMATS:
        raise unknown("format", str(format), _FORMATS)
    directory = packaged.place(path)
    if not directory.is_dir():
        raise InputError(
            f"there is no directory {directory}; give a run, a checkpoint, or {' or '.join(packaged.NAMES)}"
        )
    wanted = {"dtype": _dtype(dtype), "device": _device(device)}
    if format == "foveal" and not run.matches(directory):
        raise InputError(f"format 'foveal', but {directory} holds no config.yaml; give a run, or leave format out")
    if format == "foveal" or (format is None and run.matches(directory)):
        read = _exported if exported.matches(directory) else run.load
        return cast(Model, read(directory, **wanted))
    check_adapter(directory)
    _check_ended(directory)
    return cast(Model, families.load(directory, read_config(directory), format=format, **wanted))


def _exported(directory: Path, *, dtype: torch.dtype | None, device: torch.device | str | None) -> Any:
    """A run whose heavy parts are graphs; raises InputError for another dtype than theirs, and another device."""
    if dtype not in (None, torch.float32) or (device is not None and torch.device(device).type != "cpu"):
        raise InputError(
            f"{directory} holds an exported model, whose graphs compute in float32 on the processor; leave dtype and "
            "device out, or load what it was exported from"
        )
    made = run.load(directory, put_in=partial(exported.put_in, directory=directory))
    exported.sealed(made.model)
    return made


def _check_ended(directory: Path) -> None:
    """Raise InputError for a training that has not ended, and for checkpoints of one."""
    above = (directory.name, directory.parent.name, "checkpoints").index("checkpoints")
    training = (directory.parent, directory.parent.parent, directory)[above]
    if (directory / "config.json").exists() or not any(training.glob("checkpoints/*/state.json")):
        return
    if not run.matches(training):
        raise InputError(
            f"{training} holds a training that has not ended; the foveal train that began it goes on from its last "
            "checkpoint, and what that leaves can be loaded"
        )
    if training != directory:
        raise InputError(f"{directory} holds what a training goes on from, and no run; give {training}")


def build(config: ModelConfig | Mapping[str, Any] | str | os.PathLike[str]) -> run.Run:
    """A fresh model from a config: an object, a mapping, or the path of a YAML file (a run's config, or a recipe).

    Of a whole recipe its `model` and `init` count, and its language must name its `vocabulary`, which a training takes
    from the data. Raises InputError for unknown keys, sizes of nothing and parts that do not fit.
    """
    if isinstance(config, ModelConfig):
        check(config)
        return run.Run(assemble(config))
    if not isinstance(config, Mapping | str | os.PathLike):
        raise InputError(f"{config!r} is no config; give a mapping, or the path of a YAML file")
    given = dict(config) if isinstance(config, Mapping) else _yaml(Path(os.path.expanduser(config)))
    parts = given if "model" in given else {"model": given}
    _check_made(parts)
    described = ModelConfig.parse(parts["model"])
    check(described)
    model = assemble(described)
    initialise(model, parts.get("init") or {})
    external = {part: source for part, source in (parts.get("init") or {}).items() if source in EXTERNAL}
    settings = parts.get("processor")
    processor = None
    if settings and not isinstance(config, Mapping) and "tokenizer" not in settings:  # a run has its own beside it
        processor = Processor.from_settings(settings, Path(os.path.expanduser(config)).parent)
    return run.Run(model, processor, external=external)


def _check_made(parts: Mapping[str, Any]) -> None:
    """Raise InputError for a recipe whose model is made of a run, or of what its data say, and for sources of none."""
    init, model = parts.get("init") or {}, parts["model"]
    if not isinstance(init, Mapping):
        raise InputError(f"init is {init!r}; give a mapping from parts to their sources, such as vision: imagenet")
    for part, source in init.items():
        if not isinstance(source, str | os.PathLike):
            raise InputError(f"init.{part} is {source!r}; name a source, such as a run's directory, or leave it out")
    if "from" in init:
        raise InputError(f"init.from {init['from']} starts from a run; load that run, or train the recipe")
    given = model.get("language") if isinstance(model, Mapping) else None
    lacks = isinstance(given, str) or (isinstance(given, Mapping) and "vocabulary" not in given)
    if lacks and parts.get("processor"):
        raise InputError(
            "the recipe's words are those of its training data; give model.language a vocabulary, or train it and load "
            "the run"
        )


def _yaml(path: Path) -> dict[str, Any]:
    try:
        given = from_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no config {path}; give a mapping or the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise InputError(f"{path} is not YAML: {yaml_fault(error)}") from None
    if not isinstance(given, dict):
        raise InputError(f"{path} holds no mapping; a config has a 'model' with its parts")
    return given


def _device(given: torch.device | str | None) -> torch.device | str | None:
    """The device itself; raises InputError for a name that is none, and for a device that is not there."""
    if given is None:
        return None
    counts = {"cpu": math.inf, "cuda": torch.cuda.device_count(), "mps": torch.mps.device_count()}
    try:
        device = torch.device(given)
    except RuntimeError:
        device = None
    if device is not None and device.type == "meta":
        raise InputError("device 'meta' holds no weights, and what is loaded has some; give one of cpu, cuda, mps")
    if device is None or (device.index or 0) >= counts.get(device.type, math.inf):
        there = ", ".join(kind for kind, count in counts.items() if count)
        raise InputError(f"device {str(given)!r} is none that this torch has; give one of {there}")
    return given


def _dtype(given: torch.dtype | str | None) -> torch.dtype | None:
    if given is None or given == "auto":
        return None
    found = given if isinstance(given, torch.dtype) else getattr(torch, str(given), None)
    if not isinstance(found, torch.dtype):
        raise unknown("dtype", str(given), ("float32", "bfloat16", "float16"))
    if not found.is_floating_point:
        raise InputError(f"dtype {given} holds no fractions, as weights need; give float32, bfloat16 or float16")
    return found
