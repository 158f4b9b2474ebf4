"""Where a product must not be halved: distances, determinants and likenesses that half precision ties or overflows."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def own_dtype(values: Tensor) -> AbstractContextManager[object]:
    """A context in which products on the device of `values` keep the dtype they are given, under autocast too."""
    kind = values.device.type
    # devices without autocast, such as meta, refuse to have it switched off
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
