"""Weights, gradients and optimizer's state shared out among processes (ZeRO, 1910.02054), by torch's `fully_shard`."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.distributed._composable_state import _module_state_mapping  # which has no end either
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import get_total_norm

from foveal.core.errors import InputError
from foveal.training.wants import Wants

Shares = Mapping[nn.Parameter, nn.Parameter]  # of each parameter what this process holds of it
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_state_dict_hooks", "_state_dict_pre_hooks")
_HOOKS += ("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOKS += ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the shares of all processes, each of which has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def mine(tensor: Tensor) -> Tensor:
    """The share of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def told(tensor: Tensor, *, here: bool) -> Tensor:
    """A tensor with the shares of all processes, on the processor of those that want it `here`; all have to ask."""
    if not isinstance(tensor, DTensor):
        return tensor
    full = tensor.full_tensor()
    return full.cpu() if here else full.new_empty(0)


def shared_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, shared out as another is."""
    if not isinstance(like, DTensor):
        return tensor
    held = tensor.to(like.device)
    return distribute_tensor(held, like.device_mesh, like.placements, src_data_rank=None)


def norm_of(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients together, of which processes may hold shares."""
    shares = [one.to_local() for one in gradients if isinstance(one, DTensor)]
    others = [one for one in gradients if not isinstance(one, DTensor)]
    if not shares:
        return get_total_norm(others)
    square = get_total_norm(shares).square()
    dist.all_reduce(square)
    return (square + get_total_norm(others).square().to(square.device)).sqrt() if others else square.sqrt()


class Sharing:
    """What `fully_shard` leaves to do around a step's backward passes, each of which sends its gradients."""

    def __init__(self, learned: Mapping[str, nn.Parameter]) -> None:
        self._learned = learned
        self._used: set[str] = set()
        self._heard: dict[Tensor, str] = {}

    def listen(self, place: str) -> Callable[..., None]:
        """A hook before a part's forward, when its weights are whole: note which of them get a gradient."""

        def before(part: nn.Module, *_: Any) -> None:
            for name, parameter in part.named_parameters(prefix=place):
                if name in self._learned and parameter not in self._heard and not isinstance(parameter, DTensor):
                    self._heard[parameter] = name
                    parameter.register_post_accumulate_grad_hook(lambda one: self._used.add(self._heard[one]))

        return before

    def settle(self) -> None:
        """After a step's last backward: what none of the processes used has no gradient, and scalars their mean."""
        names = sorted(self._learned)
        device = next(iter(self._learned.values())).device
        used = torch.tensor([float(name in self._used) for name in names], device=device)
        dist.all_reduce(used)
        for name, count in zip(names, used.tolist(), strict=True):
            parameter = self._learned[name]
            if not count:
                parameter.grad = None
            elif not isinstance(parameter, DTensor):
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                dist.all_reduce(parameter.grad)
                parameter.grad /= dist.get_world_size()
        self._used.clear()


def shared_apart(model: Any, wanted: Wants) -> list[nn.Module]:
    """The layers that are made whole one at a time: those that all batches call, and nothing asks otherwise."""
    asked = getattr(getattr(model, "fusion", None), "asks_ahead", False)
    within = hasattr(getattr(model, "_modules", {}).get("allocator"), "at_layer")
    layers = [] if wanted.layers or asked or within else dict.fromkeys(model.layers)
    return [layer for layer in layers if not getattr(layer, "read_ahead", False)]


@contextmanager
def shared_out(
    scored: Any,
    layers: Sequence[nn.Module],
    accelerator: Accelerator,
    *,
    zero: int,
    kept: Collection[nn.Parameter] = (),
) -> Iterator[Shares]:
    """A model under its objective of which each process holds a share; yields what it holds of each parameter.

    With `zero` 2 that are gradients and optimizer's state, with 3 weights too: of these the layers are made whole one
    at a time, all else for the length of a pass. Scalars, and what is to be `kept`, stay whole in every process. At the
    end all weights are whole again, on the processor. Raises InputError where this torch cannot.
    """
    if zero == 0 or accelerator.num_processes == 1:
        yield {parameter: parameter for parameter in scored.parameters()}
        return
    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise InputError(
            f"training.zero {zero} wants torch 2.13 or newer, and this is {torch.__version__}; install that"
        )
    plain = dict(scored.named_parameters())
    alike(plain.values(), accelerator)
    before = [(module, type(module), set(vars(module)), _held(module)) for module in scored.modules()]
    parts = {id(part): name for name, part in scored.named_modules()}
    kept = {*kept, *(one for one in plain.values() if not one.ndim or (zero == 2 and not one.requires_grad))}
    for parameter in kept:
        parameter.data = parameter.data.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for part in (*layers, scored):
        fully_shard(part, mesh=mesh, ignored_params=kept, reshard_after_forward=None if zero == 3 else False)
    register_fsdp_forward_method(scored, "embed")
    scored.set_reduce_scatter_unused_params(True)
    added = {module: set(vars(module)) - names for module, _, names, _ in before}
    shares = dict(scored.named_parameters())
    for parameter in plain.values():
        if parameter not in kept:
            parameter.data = parameter.data.new_empty(0)  # it comes back at the end
    scored.sharing = Sharing({name: one for name, one in shares.items() if one.requires_grad})
    for part in (*layers, scored):
        part.register_forward_pre_hook(scored.sharing.listen(parts[id(part)]))
    yield {parameter: shares[name] for name, parameter in plain.items()}
    for name, parameter in plain.items():
        parameter.data = whole(shares[name].detach()).cpu()
    _put_back(before, added)
    scored.cpu()  # buffers too


def alike(parameters: Iterable[nn.Parameter], accelerator: Accelerator) -> None:
    """The first process's weights in all of them: what is drawn anew, such as adapters, each has drawn for itself."""
    for parameter in parameters:
        if parameter.requires_grad:
            told: Any = broadcast(parameter.data.to(accelerator.device))
            parameter.data.copy_(told)


def _held(module: nn.Module) -> dict[str, Mapping[Any, Any]]:
    """A module's parameters and hooks as they are now."""
    return {name: dict(vars(module)[name]) for name in ("_parameters", *_HOOKS) if name in vars(module)}


def _put_back(before: Sequence[tuple[nn.Module, type, set[str], Any]], added: Mapping[nn.Module, set[str]]) -> None:
    """Modules as they were: `fully_shard` has no end of its own."""
    for module, kind, _, held in before:
        module.__class__ = kind
        _module_state_mapping.pop(module, None)
        for name in added[module]:
            vars(module).pop(name, None)
        for name, entries in held.items():
            vars(module)[name].clear()
            vars(module)[name].update(entries)
