"""The gradient of causal attention on processors, a stretch of queries at a time with the keys that it saw.

torch's kernel there takes keys by 512 and hides those ahead afterwards, so that some hundreds of tokens cost almost as
much as if all saw all. Stretches leave out most of what is hidden; its sums over all keys keep each of them exact.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode

_ROWS = 128  # queries at once, or a few more or less, so that stretches are alike
_FEWEST, _MOST = 448, 1024  # tokens: fewer or more gain nothing
_GROUPED = torch.__version__ >= "2.13"  # whose kernel is known to take fewer key heads than query heads

_flash: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_flash_backward: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)


def learns_by_stretches(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether `attend_by_stretches` is the faster way, of self-attention that is causal.

    Not where something watches torch's operations: what it counts or traces is attention as a whole.
    """
    parts = (query, key, value)
    return (
        torch.is_grad_enabled()
        and any(part.requires_grad for part in parts)
        and _FEWEST <= query.shape[2] == key.shape[2] <= _MOST
        and query.shape[3] == value.shape[3]
        and (_GROUPED or query.shape[1] == key.shape[1])
        and all(type(part) is Tensor and part.dtype == torch.float32 and part.stride(-1) == 1 for part in parts)
        and query.device.type == "cpu"
        and None not in (_flash, _flash_backward)
        and torch.backends.cuda.flash_sdp_enabled()  # the switch of this kernel on processors too
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and _get_current_dispatch_mode() is None
    )


def attend_by_stretches(
    query: Float[Tensor, "B H L d"], key: Float[Tensor, "B G L d"], value: Float[Tensor, "B G L d"]
) -> Float[Tensor, "B H L d"]:
    """Scaled dot-product attention of each token to itself and those before, G key heads for H query heads."""
    return _Attention.apply(query, key, value)  # type: ignore[return-value]


class _Attention(torch.autograd.Function):
    """The kernel forward, and its gradient stretch by stretch."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen, sums = _flash(query, key, value, 0.0, True)
        ctx.save_for_backward(query, key, value, seen, sums)
        return seen

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, seen, sums = ctx.saved_tensors
        to_query, to_key, to_value = (torch.zeros_like(part) for part in (query, key, value))
        for own in _stretches(query.shape[2]):
            for keys, causal in ((own, True), (slice(0, own.start), False)):
                if keys.stop == 0:
                    continue
                given = gradient[:, :, own], query[:, :, own], key[:, :, keys], value[:, :, keys]
                moved, pulled, weighed = _flash_backward(*given, seen[:, :, own], sums[:, :, own], 0.0, causal)
                to_query[:, :, own] += moved
                to_key[:, :, keys] += pulled
                to_value[:, :, keys] += weighed
        return to_query, to_key, to_value


def _stretches(length: int) -> list[slice]:
    """All places, in stretches of nearly as many."""
    rows = math.ceil(length / round(length / _ROWS))
    return [slice(begin, min(begin + rows, length)) for begin in range(0, length, rows)]
