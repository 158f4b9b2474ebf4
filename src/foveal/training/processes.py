"""Which processes train together, and on what."""

import os
from dataclasses import dataclass

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState

from foveal.core.errors import InputError

_OTHERS = ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")  # what a launcher may ask of accelerate


def processes(device: str = "auto") -> PartialState:
    """All processes that a launcher (torchrun, accelerate launch) has started, or this one alone.

    The first call decides for the life of a process whether an accelerator is used; `device` "cpu" leaves it be. Raises
    InputError where the launcher asks for another way to share a model than Foveal's own.
    """
    said = {name: os.environ.get(f"ACCELERATE_USE_{name}", "").lower() for name in _OTHERS}
    if asked := [name for name, value in said.items() if value in ("true", "1")]:
        raise InputError(
            f"accelerate's settings ask for {' and '.join(asked)}; leave it out of them, and give training.zero=2 or "
            "3, by which processes share a model"
        )
    return PartialState(cpu=on_cpu(device))


def accelerator(device: str = "auto") -> Accelerator:
    """A fresh Accelerator over the same processes."""
    return Accelerator(
        mixed_precision="no",  # each stage chooses its own precision
        cpu=on_cpu(device),
        # a gradient lies in the bucket that it is sent in: else each is held twice
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)],
    )


@dataclass(frozen=True, kw_only=True)
class Team:
    """Where this process stands among all: in which of how many `groups`, each of which takes other data.

    The processes of a group are neighbours; in one of a `pipeline` of so many, each has some of the layers.
    """

    group: int = 0
    groups: int = 1
    pipeline: int = 1


def team(accelerator: Accelerator, *, pipeline: int = 1) -> Team:
    """The team of all processes."""
    processes = accelerator.num_processes
    return Team(group=accelerator.process_index // pipeline, groups=processes // pipeline, pipeline=pipeline)


def part() -> None:
    """Leave the other processes, all of which have done their work; whoever exits without may be torn down mid-word."""
    PartialState().destroy_process_group()


def on_cpu(device: str) -> bool:
    """Whether to train on the processor: several processes there must say so."""
    return device == "cpu" or not torch.accelerator.is_available()
