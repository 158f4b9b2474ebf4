"""What the machine offers."""

import os

import torch

from foveal.core import machine


def test_the_accelerator_is_taken_where_there_is_one(monkeypatch):
    for found, told in ((None, "cpu"), (torch.device("mps"), "cpu"), (torch.device("cuda", 1), "cuda")):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available, found=found: found)
        assert machine.device() == told


def test_cores_are_counted_where_no_system_tells_which_are_ours(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert machine.cores() == 7
