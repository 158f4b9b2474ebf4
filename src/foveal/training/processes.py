"""Which processes train together, and on what."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, PartialState
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from foveal.core.errors import InputError
from foveal.training.config import TrainingConfig

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

    The processes of a group are neighbours. Of `tensor` ones each has a part of every layer's products; that is the
    second dimension of the `mesh`. In a `pipeline` of so many each has some of the layers.
    """

    group: int = 0
    groups: int = 1
    tensor: int = 1
    pipeline: int = 1
    mesh: DeviceMesh | None = None

    @property
    def each(self) -> int:
        """Processes of a group."""
        return self.tensor * self.pipeline


def team(accelerator: Accelerator, *, tensor: int = 1, pipeline: int = 1) -> Team:
    """The team of all processes; takes the error of `check_groups`."""
    groups = check_groups(accelerator.num_processes, tensor=tensor) // pipeline
    kind = accelerator.device.type
    mesh = init_device_mesh(kind, (groups, tensor), mesh_dim_names=("data", "tensor")) if tensor > 1 else None
    group = accelerator.process_index // (tensor * pipeline)
    return Team(group=group, groups=groups, tensor=tensor, pipeline=pipeline, mesh=mesh)


@contextmanager
def one_of(tensor: int, kind: str) -> Iterator[Team]:
    """A group of so many processes on devices of a kind, of which this one is there alone; nobody answers it.

    What it holds and does is what it would among others; the numbers it comes to are not.
    """
    if tensor == 1:
        yield Team()
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=tensor, store=FakeStore())
    try:
        mesh = init_device_mesh(kind, (1, tensor), mesh_dim_names=("data", "tensor"))
        yield Team(tensor=tensor, mesh=mesh)
    finally:
        dist.destroy_process_group()


def check_groups(count: int, *, tensor: int) -> int:
    """How many groups so many processes are; raises InputError where `tensor` of them do not make a whole one."""
    if count % tensor:
        are = "this is one process" if count == 1 else f"these are {count} processes"
        raise InputError(
            f"training.tensor is {tensor}, and {are}; start {tensor} or a multiple of them "
            f"(torchrun --nproc-per-node {tensor}), or give a divisor"
        )
    return count // tensor


def remarks(training: TrainingConfig, *, groups: int) -> list[str]:
    """What is said once of how so many groups of processes share a training."""
    found, length = [], training.pipeline
    if training.zero and groups == 1:
        who = "one process" if training.tensor == 1 else "one group of processes"
        found.append(f"training.zero={training.zero}: {who} alone has none to share with (torchrun starts several)")
    if short := [stage.name for stage in training.stages if stage.accumulate < length]:
        found.append(
            f"training.pipeline={length}: a step of stage {short[0]} has fewer micro-batches, and processes wait for "
            f"each other; let accumulate be {length}, or better a few times that"
        )
    return found


def part() -> None:
    """Leave the other processes, all of which have done their work; whoever exits without may be torn down mid-word."""
    PartialState().destroy_process_group()


def on_cpu(device: str) -> bool:
    """Whether to train on the processor: several processes there must say so."""
    return device == "cpu" or not torch.accelerator.is_available()
