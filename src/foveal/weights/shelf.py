"""Memory for many weights in one stretch, in large pages where the system has them.

A processor looks up where a page lies; of pages of 4 KiB it forgets most while it reads a model's weights, and looks
again for each of them, for each token that is written. Linux gives larger ones to who asks (`madvise`).
"""

import mmap
from typing import Any

import torch
from torch import Tensor

ALIGNED = 64  # bytes, as torch allocates
_PAGE = 2 << 20  # bytes of a large page on most processors
LEAST = 4 * _PAGE  # of what is worth it


class Shelf:
    """Room for tensors of so many bytes in all, each of which takes whole steps of `ALIGNED`.

    The memory is given back when none of them is left.
    """

    def __init__(self, size: int) -> None:
        advice = getattr(mmap, "MADV_HUGEPAGE", None)
        self._memory: Any = None
        if advice is None or size < LEAST:
            return
        self._memory = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._free = -torch.frombuffer(self._memory, dtype=torch.uint8, count=1).data_ptr() % _PAGE
        try:
            self._memory.madvise(advice)
        except OSError:  # a kernel without them
            self._memory = None

    def put(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy of the tensor in a dtype on the shelf; where there is none, wherever torch puts it."""
        count = tensor.numel()
        if self._memory is None or not count:
            return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
        place = torch.frombuffer(self._memory, dtype=dtype, count=count, offset=self._free).view(tensor.shape)
        self._free += room(count, dtype)
        return place.copy_(tensor.detach())


def room(count: int, dtype: torch.dtype) -> int:
    """Bytes that so many numbers take on a shelf."""
    return -(-count * dtype.itemsize // ALIGNED) * ALIGNED
