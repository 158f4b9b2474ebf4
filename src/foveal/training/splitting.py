"""Products of layers split among processes (tensor parallelism, 1909.08053), by torch's column- and row-wise styles.

Of attention each process has some heads, of a feed-forward layer some of its inner numbers; what they say is summed.
Which layers these are is told by their kind alone, wherever they stand.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from foveal.core.errors import InputError
from foveal.layers.attention import Attention, Gates
from foveal.layers.cross_attention import CrossAttention
from foveal.layers.mlp import FeedForward, GatedFeedForward
from foveal.layers.norms import HeadNorm

_NORMS = ("query_norm", "key_norm")


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How layers of a kind are split: the maps `into` heads or inner numbers, and the one `out` of them.

    `heads` is the dimension at which heads stand in what their norms are given.
    """

    into: tuple[str, ...]
    out: str
    heads: int | None = None


_CUTS: Mapping[type[nn.Module], Cut] = {
    Attention: Cut(into=("query", "key", "value"), out="out", heads=2),
    CrossAttention: Cut(into=("query", "key", "value"), out="out", heads=1),
    FeedForward: Cut(into=("up",), out="down"),
    GatedFeedForward: Cut(into=("gate", "up"), out="down"),
}


def told(model: nn.Module, tensor: int) -> str | None:
    """What is to be said of the layers that stay whole in each of `tensor` processes, or nothing.

    Raises InputError where that are all.
    """
    if tensor == 1:
        return None
    layers = dict(_layers(model))
    wholes = {name: part for name, part in layers.items() if not _splits(part, tensor)}
    if len(wholes) == len(layers):
        some = ", ".join(dict.fromkeys(map(_counted, wholes.values())))
        raise InputError(
            f"training.tensor is {tensor}, and no layer can be split so: "
            + (f"the model has {some}; give a number that divides one of these" if some else "none is of such a kind")
        )
    if not wholes:
        return None
    name, part = next(iter(wholes.items()))
    return (
        f"training.tensor={tensor}: {len(wholes)} of {len(layers)} attentions and feed-forward layers stay whole in "
        f"each process, the first {name}, which has {_counted(part)}"
    )


def split(model: nn.Module, mesh: DeviceMesh, *, kept: Collection[nn.Parameter] = ()) -> None:
    """Leave of each layer that `mesh` splits this process's part, on its accelerator, as tensors that say so.

    Layers that have a weight which is to be `kept`, or which stands elsewhere too, stay whole.
    """
    owners = Counter(weight for part in model.modules() for weight in part._parameters.values() if weight is not None)
    for _, part in list(_layers(model)):
        weights = list(part.parameters())
        if _splits(part, mesh.size()) and not any(owners[one] > 1 or one in kept for one in weights):
            part.to(mesh.device_type)
            _split(part, _CUTS[type(part)], mesh)
            for weight in set(weights).difference(part.parameters()):
                weight.data = weight.data.new_empty(0)  # whoever split it puts it back


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((name, part) for name, part in model.named_modules() if type(part) in _CUTS)


def _units(part: Any) -> int:
    """Key heads, or inner numbers."""
    cut = _CUTS[type(part)]
    return part.key.out_features // part.head_width if cut.heads else getattr(part, cut.into[0]).out_features


def _counted(part: nn.Module) -> str:
    told = f"{_units(part)} {'key heads' if _CUTS[type(part)].heads else 'inner numbers'}"
    return told if _single(part) else f"{told} under one norm"


def _splits(part: Any, tensor: int) -> bool:
    """Whether so many processes can have as much of a layer each."""
    return _units(part) % tensor == 0 and _single(part)


def _single(part: Any) -> bool:
    """Whether heads are normed each by itself, where they are."""
    norms = [getattr(part, name) for name in _NORMS] if _CUTS[type(part)].heads else []
    return all(isinstance(norm, nn.Identity | HeadNorm) or norm.weight.shape == (part.head_width,) for norm in norms)


def _split(part: Any, cut: Cut, mesh: DeviceMesh) -> None:
    styles: dict[str, ParallelStyle] = {}
    for name in cut.into:
        adapted = [place for place in _maps(part, name) if "lora_A" not in place]  # what it says is narrow, and for all
        styles |= {place: ColwiseParallel() for place in adapted}
    styles |= {place: RowwiseParallel() for place in _maps(part, cut.out) if "lora_B" not in place}
    parallelize_module(part, mesh, styles, src_data_rank=None)
    if cut.heads is not None:
        for name in _NORMS:
            _norm_split(getattr(part, name), mesh, cut.heads)
    if isinstance(part, Attention):
        part.register_forward_pre_hook(partial(_own_heads, mesh), with_kwargs=True)
        part.project = partial(_all_heads, part, mesh)  # type: ignore[method-assign]  # what others ask for is all


def _maps(part: nn.Module, name: str) -> list[str]:
    """The linear maps of which one is made: itself, or with an adapter three."""
    found = (place for place, one in part.get_submodule(name).named_modules() if isinstance(one, nn.Linear))
    return [f"{name}.{place}".rstrip(".") for place in found]


def _norm_split(norm: nn.Module, mesh: DeviceMesh, heads: int) -> None:
    """Norm this process's heads: by a gain of all, whose gradient is the sum of theirs, or by each head's own."""
    if isinstance(norm, nn.Identity):
        return
    placement = Shard(0) if isinstance(norm, HeadNorm) else Replicate()

    def put(_: str, module: nn.Module, mesh: DeviceMesh) -> None:
        for name, weight in list(module.named_parameters(recurse=False)):
            held = distribute_tensor(weight.data, mesh, [placement], src_data_rank=None)
            module.register_parameter(name, nn.Parameter(held, requires_grad=weight.requires_grad))

    distribute_module(
        norm,
        mesh,
        put,
        lambda _, given, mesh: DTensor.from_local(given[0], mesh, [Shard(heads)], run_check=False),  # type: ignore[arg-type]
        lambda _, made, mesh: made.to_local(),  # type: ignore[arg-type, attr-defined]
    )


def _own_heads(mesh: DeviceMesh, part: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Attention's arguments, of what differs from head to head this process's own."""
    mask = named.get("mask")
    if mask is not None and mask.shape[1] != 1:
        named = {**named, "mask": _own(mask, mesh)}
    if named.get("gates") is not None:
        named = {**named, "gates": tuple(_own(gate, mesh) for gate in named["gates"])}
    return given, named


def _all_heads(
    part: Attention,
    mesh: DeviceMesh,
    hidden: Tensor,
    rotary: tuple[Tensor, Tensor] | None = None,
    gates: Gates | None = None,
    at: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """What `Attention.project` gives, of the heads of all processes."""
    own = gates if gates is None else (_own(gates[0], mesh), _own(gates[1], mesh))
    held = (DTensor.from_local(one, mesh, [Shard(1)], run_check=False) for one in part.own(hidden, rotary, own, at))
    return tuple(one.redistribute(placements=[Replicate()]).to_local() for one in held)


def _own(values: Tensor, mesh: DeviceMesh) -> Tensor:
    """This process's part of what all have, along dimension 1."""
    alike = DTensor.from_local(values, mesh, [Replicate()], run_check=False)
    return alike.redistribute(placements=[Shard(1)]).to_local()
