"""Weights, gradients and optimizer's state shared out among processes, by torch's own means.

Groups of processes share them by `fully_shard` (ZeRO, 1910.02054); those of one group split layers (`splitting`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn
from torch.distributed._composable_state import _module_state_mapping  # which has no end either
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from foveal.core.errors import InputError
from foveal.training.splitting import split
from foveal.training.wants import Wants

Shares = Mapping[nn.Parameter, nn.Parameter]  # of each parameter what this process holds of it
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_state_dict_hooks", "_state_dict_pre_hooks")
_HOOKS += ("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_backward_hooks", "_backward_pre_hooks")
_HOOKS += ("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs")


def whole(tensor: Tensor) -> Tensor:
    """A tensor with the shares of all processes, each of which has to ask."""
    if not isinstance(tensor, DTensor):
        return tensor
    for done in range(1, tensor.device_mesh.ndim + 1):  # what was cut last is put together first
        tensor = tensor.redistribute(placements=[Replicate()] * done + list(tensor.placements[done:]))
    return tensor.to_local()


def mine(tensor: Tensor) -> Tensor:
    """The share of a tensor that this process holds."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def told(tensor: Tensor, *, here: bool) -> Tensor:
    """A tensor with the shares of all processes, on the processor of those that want it `here`; all have to ask."""
    if not isinstance(tensor, DTensor):
        return tensor
    full = whole(tensor)
    return full.cpu() if here else full.new_empty(0)


def shared_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, which every process has, shared out as another is."""
    if not isinstance(like, DTensor):
        return tensor
    held = tensor.to(like.device)
    return distribute_tensor(held, like.device_mesh, like.placements, src_data_rank=None)


def norm_of(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients together, of which processes may hold shares, some of them the same ones."""
    shares: dict[int, list[Tensor]] = {}
    for one in gradients:
        if isinstance(one, DTensor):
            shares.setdefault(prod(one.device_mesh.size(cut) for cut in _cuts(one)), []).append(one.to_local())
    others = [one for one in gradients if not isinstance(one, DTensor)]
    if not shares:
        return get_total_norm(others)
    world = dist.get_world_size()
    square = torch.stack([get_total_norm(some).square() * (parts / world) for parts, some in shares.items()]).sum()
    dist.all_reduce(square)
    return (square + get_total_norm(others).square().to(square.device)).sqrt() if others else square.sqrt()


def stepped(optimizer: Optimizer) -> None:
    """One step of an optimizer: of tensors of one mesh after the other, for its kernel takes no two at once."""
    groups = [list(group["params"]) for group in optimizer.param_groups]
    meshes = dict.fromkeys(getattr(one, "device_mesh", None) for group in groups for one in group)
    try:
        for mesh in meshes:
            for group, held in zip(optimizer.param_groups, groups, strict=True):
                group["params"] = [one for one in held if getattr(one, "device_mesh", None) == mesh]
            optimizer.step()
    finally:
        for group, held in zip(optimizer.param_groups, groups, strict=True):
            group["params"] = held


def _cuts(tensor: DTensor) -> list[int]:
    """The dimensions of a tensor's mesh along which processes hold different parts of it."""
    return [number for number, placement in enumerate(tensor.placements) if not placement.is_replicate()]


class Sharing:
    """What is left to do after a step's backward passes, which send the gradients of what is `sharded` themselves."""

    def __init__(self, learned: Mapping[str, nn.Parameter], mesh: DeviceMesh, *, sharded: Collection[str]) -> None:
        self._learned, self._mesh, self._sharded = learned, mesh, sharded
        self._used: set[str] = set()
        self._heard: dict[Tensor, str] = {}
        self._hooks: list[Any] = []

    def listen(self, place: str) -> Callable[..., None]:
        """A hook before a part's forward, when its weights are whole: note which of them get a gradient."""

        def before(part: nn.Module, *_: Any) -> None:
            for name, parameter in part.named_parameters(prefix=place):
                apart = name in self._sharded and parameter is self._learned.get(name)
                if name in self._learned and parameter not in self._heard and not apart:
                    self._heard[parameter] = name
                    hook = parameter.register_post_accumulate_grad_hook(lambda one: self._used.add(self._heard[one]))
                    self._hooks.append(hook)

        return before

    def settle(self) -> None:
        """After a step's last backward: what none of the processes used has no gradient, and copies have their mean.

        So they stay copies bit for bit, in whatever order an accelerator adds up.
        """
        names = sorted(self._learned)
        device = next(iter(self._learned.values())).device
        used = torch.tensor([float(name in self._used) for name in names], device=device)
        dist.all_reduce(used)
        sent = []
        for name, count in zip(names, used.tolist(), strict=True):
            parameter = self._learned[name]
            parameter.grad = _summed(parameter) if count else None
            over = self._copied(parameter)
            if parameter.grad is not None and (copies := prod(self._mesh.size(number) for number in over)) > 1:
                group = None if copies == dist.get_world_size() else self._mesh.get_group(over[0])
                gradient = mine(parameter.grad)
                sent.append((dist.all_reduce(gradient, group=group, async_op=True), gradient, copies))
        for work, gradient, copies in sent:
            work.wait()
            gradient /= copies
        self._used.clear()

    def _copied(self, parameter: nn.Parameter) -> list[int]:
        """The dimensions of the mesh along which processes hold the same of a parameter."""
        names: Any = self._mesh.mesh_dim_names
        held: Any = parameter.device_mesh.mesh_dim_names if isinstance(parameter, DTensor) else ()
        cut = {held[number] for number in _cuts(parameter)} if isinstance(parameter, DTensor) else set()
        return [number for number, name in enumerate(names) if name not in cut and self._mesh.size(number) > 1]

    def end(self) -> None:
        """Listen no more."""
        for hook in self._hooks:
            hook.remove()


def _summed(parameter: nn.Parameter) -> Tensor:
    """The gradient of what was used by some process: of a norm of heads the sum of what all of them say."""
    gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    if isinstance(gradient, DTensor) and isinstance(parameter, DTensor):
        gradient = gradient.redistribute(placements=parameter.placements)
    return gradient.contiguous()


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
    at a time, all else for the length of a pass. Scalars, and what is to be `kept`, stay whole in every process. Where
    a group of its team has several processes, these split layers. At the end all weights are whole again, on the
    processor. Raises InputError where this torch cannot.
    """
    team = scored.team
    shards = bool(zero) and team.groups > 1
    if not shards and team.tensor == 1:
        yield {parameter: parameter for parameter in scored.parameters()}
        return
    if shards and not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise InputError(
            f"training.zero {zero} wants torch 2.13 or newer, and this is {torch.__version__}; install that"
        )
    plain = dict(scored.named_parameters())
    alike(plain.values(), accelerator)
    before = [(module, type(module), set(vars(module)), _held(module)) for module in scored.modules()]
    mesh = team.mesh or init_device_mesh(accelerator.device.type, (team.groups,), mesh_dim_names=("data",))
    if team.tensor > 1:
        split(scored, mesh["tensor"], kept=kept)
    frozen = {one for one in plain.values() if zero == 2 and not one.requires_grad}
    alone = {name for name, one in plain.items() if one in kept or one in frozen or not one.ndim}
    if shards:
        _sharded(scored, layers, mesh["data"], zero=zero, kept=alone)
    else:
        scored.to(accelerator.device)
    added = {module: set(vars(module)) - names for module, _, names, _ in before}
    shares = dict(scored.named_parameters())
    for name, parameter in plain.items():
        if shares[name] is not parameter:
            parameter.data = parameter.data.new_empty(0)  # it comes back at the end
    learned = {name: one for name, one in shares.items() if one.requires_grad}
    scored.sharing = Sharing(learned, mesh, sharded=shares.keys() - alone if shards else ())
    parts = {id(part): name for name, part in scored.named_modules()}
    for part in (*layers, scored):
        part.register_forward_pre_hook(scored.sharing.listen(parts[id(part)]))
    yield {parameter: shares[name] for name, parameter in plain.items()}
    scored.sharing.end()
    for name, parameter in plain.items():
        parameter.data = whole(shares[name].detach()).cpu()
    _put_back(before, added)
    scored.cpu()  # buffers too


def _sharded(scored: Any, layers: Sequence[nn.Module], mesh: DeviceMesh, *, zero: int, kept: Collection[str]) -> None:
    """Shard all weights but those `kept`, layer by layer."""
    ignored = {one for name, one in scored.named_parameters() if name in kept}
    for parameter in ignored:
        parameter.data = parameter.data.to(mesh.device_type)
    for part in (*layers, scored):
        fully_shard(part, mesh=mesh, ignored_params=ignored, reshard_after_forward=None if zero == 3 else False)
    register_fsdp_forward_method(scored, "embed")
    scored.set_reduce_scatter_unused_params(True)


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
