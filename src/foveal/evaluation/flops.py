"""What a model computes, counted as it runs: multiplications and additions of every part of it.

Only products count (matrices, convolutions, attention), two operations to a multiplication and its addition, and
attention as if no key were hidden: the convention of `torch.utils.flop_counter`, whose formulas are used. It knows
neither attention on a processor nor oneDNN's linear maps; these are added.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from foveal.models.budget import allocator_of

# the parts of a model by the beginning of their modules' names; what lies in none of them is `other`
PARTS: Mapping[str, str] = {
    "vision": "vision",
    "connector": "connector",
    "deeper": "connector",
    "joined": "connector",
    "allocator": "relevance",
    "fusion": "fusion",
    "language": "language",
    "head": "head",
    "heads": "head",
}
OTHER, BACKWARD = "other", "backward"


def attention(query: Tensor, key: Tensor, value: Tensor) -> int:
    """The products of attention: scores, and the sum of values by them."""
    scores = prod(query.shape[:-1]) * key.shape[-2]
    return 2 * scores * (query.shape[-1] + value.shape[-1])


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return attention(query, key, value)


def _attention_backward(_: Tensor, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> int:
    scores = prod(query.shape[:-1]) * key.shape[-2]
    return 2 * scores * (3 * query.shape[-1] + 2 * value.shape[-1])  # the scores once more, then four gradients


def _linear(hidden: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return 2 * hidden.numel() * weight.shape[0]


def _of_vector(*given: Tensor, **_: Any) -> int:
    return 2 * given[-2].numel()  # a matrix, then a vector; a bias may come before both


def _known() -> dict[Any, Callable[..., int]]:
    """The formula of every operation that counts."""
    ours: dict[Any, Callable[..., int]] = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        torch.ops.aten.mv: _of_vector,
        torch.ops.aten.addmv: _of_vector,
    }
    if torch.backends.mkldnn.is_available():
        ours[torch.ops.mkldnn._linear_pointwise] = _linear
    return {**flop_registry, **ours}  # type: ignore[dict-item]


class Flops(TorchDispatchMode):
    """Counts while it is entered; `parts` are the operations of each part, and of the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: Counter[str] = Counter()
        self.inside: list[str] = []
        self.known = _known()

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.parts.values())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # what this process does of it comes by itself
        formula = self.known.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:  # one that is made of others is counted by these
                made = func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        out = func(*args, **kwargs)
        if formula is not None:
            self.parts[self._where()] += int(formula(*args, **kwargs, out_val=out))
        return out

    def _where(self) -> str:
        if torch._C._current_graph_task_id() != -1:
            return BACKWARD
        return self.inside[-1] if self.inside else OTHER


@contextmanager
def counting(model: nn.Module) -> Iterator[Flops]:
    """Count what is computed within, told apart by the model's parts; the model is left as it was."""
    flops, hooks = Flops(), []

    def enter(part: str) -> Callable[..., None]:
        return lambda *_: flops.inside.append(part)

    def leave(*_: Any) -> None:
        flops.inside.pop()

    for name, module in model.named_modules():
        if (part := PARTS.get(name.partition(".")[0])) is not None:
            hooks.append(module.register_forward_pre_hook(enter(part)))
            hooks.append(module.register_forward_hook(leave, always_call=True))
    with _seated(model, flops):
        try:
            with flops:
                yield flops
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def _seated(model: nn.Module, flops: Flops) -> Iterator[None]:
    """An allocator spends outside of any forward, so what it is called by is watched: its copies' too, which carry
    another budget."""
    allocator: Any = allocator_of(model)
    if allocator is None:
        yield
        return
    kind: Any = type(allocator)

    def between(self: Any, *given: Any, **named: Any) -> Any:
        flops.inside.append(PARTS["allocator"])
        try:
            return kind.between(self, *given, **named)
        finally:
            flops.inside.pop()

    allocator.__class__ = type(kind.__name__, (kind,), {"between": between, "__module__": kind.__module__})
    try:
        yield
    finally:
        allocator.__class__ = kind
