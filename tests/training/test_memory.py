import resource
import sys

import pytest
import torch

from foveal.training import memory
from foveal.training.memory import memory_kept


def faults() -> int:
    """Fresh pages that this process has met."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def step() -> int:
    """Fresh pages of taking and freeing 256 MB, some of it in blocks that glibc hands back one by one."""
    before = faults()
    blocks = [torch.ones(16 << 20), *(torch.ones(1 << 20) for _ in range(48))]
    del blocks
    return faults() - before


@pytest.mark.skipif(memory._glibc() is None, reason="another library allocates here")
def test_freed_memory_is_met_again_without_fresh_pages():
    with memory_kept():
        step()
        again = step()
    assert again < 100


@pytest.mark.skipif(memory._glibc() is None, reason="another library allocates here")
def test_memory_goes_back_at_the_end():
    with memory_kept():
        step()
    after = step()
    assert after > 10_000  # a block of 64 MB is the system's again once it is freed


def test_where_another_library_allocates_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with memory_kept():
        assert memory._glibc() is None


def test_an_error_within_passes_through():
    with pytest.raises(ZeroDivisionError), memory_kept():
        1 / 0  # noqa: B018
