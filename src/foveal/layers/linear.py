"""The linear map, through oneDNN where that is faster at the same precision.

On x86 torch multiplies float32 matrices with MKL, which leaves half the speed of an AMD processor unused; oneDNN,
which torch carries for bfloat16 and convolutions, does not. On Intel's own processors MKL is the faster one, but for a
product with an activation behind it, which oneDNN computes in the same pass, in bfloat16 too.
`torch.backends.mkldnn.enabled = False` turns it off.

One token, or a few, read a whole weight to use each entry as often, and neither library reads it as fast as memory
gives it. In float32 MKL's batched product of the weight's parts does, in bfloat16 torch's own of a matrix and a vector;
for a few the weight comes first, for oneDNN lays the second of two matrices out anew.
"""

import math
import platform
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.module import _has_any_global_hook

from foveal.layers.scratch import followed

_ZEN_5 = 26  # the family of these processors
_LARGE_WEIGHT = 1 << 17  # entries from which even one token gains
_MUCH_WORK = 1 << 20  # multiplications from which a smaller weight gains: a call costs some 10 microseconds more
_FUSED_WORK, _FUSED_TOKENS = 1 << 23, 8  # from which a product with its activation gains where MKL's are as fast
_FEW_TOKENS, _FEW_NUMBERS = 8, 3072  # in all: up to here parts of a weight are read at memory's speed
_MOST_PARTS = 64
_SEVERAL_TOKENS, _SEVERAL_WEIGHT = 16, 1 << 20  # in bfloat16: up to these, and from this, laying the weight out costs
_FUSED = {
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "gelu_new": ("gelu", "tanh"),
    "relu": ("relu", ""),
}
_FUSED_HALF = {**_FUSED, "silu": ("swish", ""), "swish": ("swish", "")}  # in float32 this one gains nothing
_PLAIN = (Tensor, nn.Parameter)  # no fake, distributed or quantised tensors


@lru_cache(maxsize=1)
def _processor() -> str:
    """What the first of the processors says of itself: a server's list of all takes longer to search than a product."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    except OSError:  # not Linux
        return platform.processor()


def amd() -> bool:
    """Whether the processor is AMD's."""
    return "AuthenticAMD" in _processor()


def generation() -> int:
    """The processor's family, as it numbers it; 0 where it tells none."""
    told = re.search(r"^cpu family\s*: (\d+)|\bFamily (\d+)", _processor(), re.MULTILINE)
    return int(told[1] or told[2]) if told else 0


def onednn_is_faster() -> bool:
    """Whether this processor and this torch multiply float32 matrices faster through oneDNN."""
    return amd() and torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)


def onednn_fuses_faster() -> bool:
    """Whether oneDNN multiplies and activates faster than MKL multiplies alone, with the activation behind it."""
    ready = torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
    return onednn_is_faster() or (ready and "avx512f" in _processor())


def half_is_fused() -> bool:
    """Whether torch multiplies in bfloat16 through oneDNN, which can activate in the same pass."""
    return bool(torch.backends.mkldnn.enabled) and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def half_is_read_faster() -> bool:
    """Whether torch itself reads a bfloat16 weight for one vector faster than oneDNN does, as it does on Intel's."""
    return "GenuineIntel" in _processor() and "avx512f" in _processor()


def onednn_is_twice_as_fast() -> bool:
    """The same by far: on AMD's processors from Zen 5 on, whose wide units MKL leaves half unused."""
    return onednn_is_faster() and generation() >= _ZEN_5


class Linear(nn.Linear):
    """`torch.nn.Linear` in all but speed."""

    def forward(self, input: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """Multiply, and add the bias."""
        return linear(input, self.weight, self.bias)


def linear(
    hidden: Float[Tensor, "*batch I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None = None
) -> Float[Tensor, "*batch O"]:
    """`torch.nn.functional.linear`, forward and backward."""
    if followed() or not _eligible(hidden, weight):
        return F.linear(hidden, weight, bias)
    learns = _learns(hidden, weight, bias)
    if not learns and _one(hidden, weight):
        return _of_one(hidden, weight, bias)
    if not learns and _several(hidden, weight):
        return _turned(hidden, weight, bias)
    if hidden.dtype != torch.float32 or not onednn_is_faster():
        return F.linear(hidden, weight, bias)
    if not learns and _few(hidden, weight):
        return _by_parts(hidden, weight, bias)
    if not _much(hidden, weight):
        return F.linear(hidden, weight, bias)
    return _Multiplication.apply(hidden, weight, bias) if learns else _multiply(hidden, weight, bias)  # type: ignore[return-value]


def plain(part: nn.Module) -> TypeGuard[Linear]:
    """Whether a call is the product with its weight and nothing else: no subclass, no hooks, no other `forward`."""
    hooked = part._forward_hooks or part._forward_pre_hooks or _has_any_global_hook()
    return type(part) is Linear and not hooked and "forward" not in vars(part)


def activated(part: nn.Module, hidden: Float[Tensor, "*batch I"], name: str) -> Float[Tensor, "*batch O"] | None:
    """What a linear map says, with an activation of this name in the same pass; None: that is no faster here."""
    fused = _FUSED if hidden.dtype == torch.float32 else _FUSED_HALF
    if followed() or name not in fused or not plain(part):
        return None
    if not _eligible(hidden, part.weight) or _learns(hidden, part.weight, part.bias):
        return None
    if not _gains(hidden, part.weight):
        return None
    return _multiply(hidden, part.weight, part.bias, *fused[name])


def _learns(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    wanted = hidden.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    return wanted and torch.is_grad_enabled()


def _eligible(hidden: Tensor, weight: Tensor) -> bool:
    return (
        hidden.dtype == weight.dtype
        and hidden.dtype in (torch.float32, torch.bfloat16)
        and type(hidden) in _PLAIN
        and type(weight) in _PLAIN
        and hidden.device.type == weight.device.type == "cpu"
        and not torch.is_autocast_enabled("cpu")
    )


def _gains(hidden: Tensor, weight: Tensor) -> bool:
    """Whether an activation in the same pass as the product is the faster way here."""
    half = hidden.dtype == torch.bfloat16
    if not half and onednn_is_faster():
        return _much(hidden, weight) and not _few(hidden, weight)
    tokens, work = hidden.numel() // max(1, hidden.shape[-1]), hidden.numel() * weight.shape[0]
    fuses = half_is_fused() if half else onednn_fuses_faster()
    return fuses and tokens >= _FUSED_TOKENS and work >= _FUSED_WORK


def _much(hidden: Tensor, weight: Tensor) -> bool:
    work = hidden.numel() * weight.shape[0]
    return work >= _MUCH_WORK or (weight.numel() >= _LARGE_WEIGHT and work > 0)


def _one(hidden: Tensor, weight: Tensor) -> bool:
    alone = hidden.shape[-1] == hidden.numel() == weight.shape[1] > 0 and weight.is_contiguous()
    return alone and hidden.dtype == torch.bfloat16 and half_is_read_faster()


def _of_one(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    token = hidden.reshape(-1)
    out = torch.mv(weight, token) if bias is None else torch.addmv(bias, weight, token)
    return out.view(*hidden.shape[:-1], -1)


def _several(hidden: Tensor, weight: Tensor) -> bool:
    """Whether some tokens in bfloat16 are the lesser matrix by far: oneDNN lays its right one out anew at each call."""
    if hidden.dtype != torch.bfloat16 or weight.numel() < _SEVERAL_WEIGHT or not weight.is_contiguous():
        return False
    fits = hidden.shape[-1] == weight.shape[1] and 0 < hidden.numel() <= _SEVERAL_TOKENS * weight.shape[1]
    return fits and half_is_read_faster()


def _turned(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    tokens = hidden.reshape(-1, weight.shape[1]).t()
    out = torch.mm(weight, tokens) if bias is None else torch.addmm(bias[:, None], weight, tokens)
    return out.t().contiguous().view(*hidden.shape[:-1], -1)


def _few(hidden: Tensor, weight: Tensor) -> bool:
    return (
        0 < hidden.numel() <= min(_FEW_NUMBERS, _FEW_TOKENS * weight.shape[1])
        and weight.numel() >= _LARGE_WEIGHT  # smaller models stay in the caches, out of which MKL reads faster
        and weight.shape[0] % 2 == 0
        and weight.is_contiguous()
    )


def _by_parts(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The weight's rows in equal parts, each times all tokens: one batched product."""
    wide, parts = weight.shape[0], math.gcd(weight.shape[0], _MOST_PARTS)
    tokens = hidden.reshape(-1, weight.shape[1]).t().expand(parts, -1, -1)
    out = torch.bmm(weight.view(parts, wide // parts, -1), tokens).view(wide, -1)
    out = out.t().contiguous().view(*hidden.shape[:-1], wide)
    return out if bias is None else out + bias


def _multiply(
    hidden: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none", algorithm: str = ""
) -> Tensor:
    if not (weight.is_contiguous() or weight.t().is_contiguous()):
        weight = weight.contiguous()  # with gaps between its rows oneDNN is a thousand times slower
    return torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, then, [], algorithm)


class _Multiplication(torch.autograd.Function):
    """The operator that oneDNN stands behind has no gradient of its own."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        return _multiply(hidden, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        to_hidden, to_weight, to_bias = ctx.needs_input_grad
        gradient = gradient.contiguous()
        rows = gradient.reshape(-1, weight.shape[0])
        return (
            _multiply(gradient, weight.t()) if to_hidden else None,
            _multiply(rows.t(), hidden.reshape(-1, weight.shape[1]).t()) if to_weight else None,
            rows.sum(0) if to_bias else None,
        )
