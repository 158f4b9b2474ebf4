"""Processes that train together, and part."""

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from foveal.core.errors import InputError
from foveal.training.processes import accelerator, part, processes


@pytest.fixture
def met(tmp_path):
    """A group of one process."""
    processes("cpu")
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "met"), 1), rank=0, world_size=1)
    assert dist.is_initialized()
    yield
    part()
    assert not dist.is_initialized()


def test_who_parts_leaves_no_group_behind(met):
    part()
    assert not dist.is_initialized()
    part()  # alone there is nobody to leave


def test_a_gradient_is_held_once_in_the_bucket_that_is_sent(met):
    handler = accelerator("cpu").ddp_handler
    assert handler is not None
    shared = DistributedDataParallel(torch.nn.Linear(4, 4), **handler.to_kwargs())
    shared(torch.ones(2, 4)).sum().backward()
    assert len({weight.grad.untyped_storage().data_ptr() for weight in shared.parameters()}) == 1


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_a_launcher_that_shares_models_by_itself_is_told_how_it_is_done_here(monkeypatch, name):
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(InputError, match=rf"ask for {name}; leave it out of them, and give training\.zero=2 or 3"):
        processes("cpu")
