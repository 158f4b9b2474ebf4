"""Processes that train together, and part."""

import torch.distributed as dist

from foveal.training.processes import part, processes


def test_who_parts_leaves_no_group_behind(tmp_path):
    processes("cpu")
    dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "met"), 1), rank=0, world_size=1)
    assert dist.is_initialized()
    part()
    assert not dist.is_initialized()
    part()  # alone there is nobody to leave
