"""One stretch of memory for all weights of a model, in large pages where the system has them.

A processor looks up where a page lies; of pages of 4 KiB it forgets most while it reads a model's weights, and looks
again for each of them, for each token that is written. Linux gives larger ones to who asks (`madvise`).
"""

import math
import mmap
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_ALIGNED = 64  # bytes, as torch allocates
_PAGE = 2 << 20  # bytes of a large page on most processors
_LEAST = 4 * _PAGE  # of a model that is worth it


class Shelf:
    """Room for tensors of these shapes and dtypes, which stays as long as one of them does."""

    def __init__(self, wanted: Iterable[tuple[torch.Size, torch.dtype]]) -> None:
        size = sum(_room(math.prod(shape) * dtype.itemsize) for shape, dtype in wanted)
        advice = getattr(mmap, "MADV_HUGEPAGE", None)
        self._memory: Any = None
        if advice is None or size < _LEAST:
            return
        self._memory = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._free = -torch.frombuffer(self._memory, dtype=torch.uint8, count=1).data_ptr() % _PAGE
        try:
            self._memory.madvise(advice)
        except OSError:  # a kernel without them
            self._memory = None

    def put(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """A copy of the tensor in a dtype on the shelf; where there is none, wherever torch puts it."""
        if self._memory is None or not tensor.numel():
            return tensor.to(dtype, copy=True, memory_format=torch.contiguous_format)
        count = tensor.numel()
        place = torch.frombuffer(self._memory, dtype=dtype, count=count, offset=self._free).view(tensor.shape)
        self._free += _room(count * dtype.itemsize)
        return place.copy_(tensor.detach())


def _room(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
