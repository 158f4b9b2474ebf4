"""What a step of training holds, counted as storages come and go while it is taken."""

import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from foveal.core.types import Batch
from foveal.training.pipeline import passed
from foveal.training.plan import Held
from foveal.training.relay import Carried
from foveal.training.sections import holders
from foveal.training.sharing import mine, stepped
from foveal.training.step import Scored, backward, rescale, take


class Ledger(TorchDispatchMode):
    """Bytes of the storages that are made within it and still there, `live`; copies of `weights` are also `casts`.

    What was there before it was entered does not count.
    """

    def __init__(self, weights: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.casts = self.most = 0
        self.known: dict[int, tuple[int, bool, Any]] = {}
        self.weights = {weight.untyped_storage()._cdata for weight in weights}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # what this process does of it comes by itself
        for storage in storages((args, kwargs)):
            self._know(storage, 0, cast=False)
        out = func(*args, **(kwargs or {}))
        cast = func is torch.ops.aten._to_copy.default and args[0].untyped_storage()._cdata in self.weights
        for storage in storages(out):
            self._know(storage, storage.nbytes(), cast=cast)
        self.most = max(self.most, self.live)
        return out

    def highest(self) -> int:
        """The most bytes that were there since this was asked last."""
        told, self.most = self.most, self.live
        return told

    def _know(self, storage: torch.UntypedStorage, size: int, *, cast: bool) -> None:
        key = storage._cdata
        if key not in self.known:
            self.known[key] = (size, cast, weakref.ref(storage, lambda _: self._forget(key)))
            self._add(size, cast=cast)

    def _forget(self, key: int) -> None:
        size, cast, _ = self.known.pop(key)
        self._add(-size, cast=cast)

    def _add(self, size: int, *, cast: bool) -> None:
        self.live += size
        self.casts += size if cast else 0


def storages(held: Any) -> Iterator[torch.UntypedStorage]:
    """The storage of every tensor in what holds tensors; those of another library's layout have none."""
    for leaf in tree_leaves(held):
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
            yield mine(leaf).untyped_storage()


def held_by(held: Any) -> int:
    """Bytes of all tensors in what holds tensors, each storage once."""
    return sum({storage._cdata: storage.nbytes() for storage in storages(held)}.values())


def weights_of(model: nn.Module) -> list[Tensor]:
    """All parameters and buffers."""
    return [*model.parameters(), *model.buffers()]


def whole_at_once(model: nn.Module, layers: Sequence[nn.Module]) -> int:
    """Bytes of a model's weights that are whole at a time where its layers are made so one after the other."""
    inside = {id(weight): weight for layer in layers for weight in weights_of(layer)}
    outside = [weight for weight in weights_of(model) if id(weight) not in inside]
    return held_by(outside) + max((held_by(weights_of(layer)) for layer in layers), default=0)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What takes steps: a model under its objective, as `accelerator` has prepared it with its optimizer."""

    accelerator: Accelerator
    scored: nn.Module
    adam: torch.optim.Optimizer
    chosen: Sequence[nn.Parameter]
    clip: float
    layers: Sequence[nn.Module] = ()  # that processes may share by themselves

    def __post_init__(self) -> None:
        for group in self.adam.param_groups:  # real steps, after which the weights are what they were
            group["lr"] = 0.0

    def take(self, batches: Sequence[Batch]) -> None:
        """One step, at a rate of zero."""
        taken = take(self.accelerator, self.scored, self.chosen, batches, clip=self.clip, told=())
        if not taken.empty:
            stepped(self.adam)
        self.adam.zero_grad()


def held(steps: Steps, batch: Batch, *, waiting: int, accumulate: int) -> Held:
    """What steps that add up `accumulate` micro-batches such as this one hold, `waiting` of which are there at once."""
    steps.take([batch])  # what is made once is there from now on
    model, ledger, ends = steps.accelerator.unwrap_model(steps.scored), Ledger(steps.scored.parameters()), []
    end = steps.scored.register_forward_hook(lambda *_: ends.append((ledger.live, ledger.casts)))
    try:
        with ledger:
            backward(steps.accelerator, steps.scored, [batch])
            alone, gradients = ledger.highest(), held_by([parameter.grad for parameter in steps.chosen])
            backward(steps.accelerator, steps.scored, [batch])
            added = ledger.highest()
            rescale(steps.chosen, divisor=torch.ones((), device=steps.accelerator.device), clip=steps.clip)
            stepped(steps.adam)
            last = ledger.highest()
    finally:
        end.remove()
        steps.adam.zero_grad()
    kept, casts = ends[0]
    temporary = max(0, added - kept - gradients)
    turns = min(gradients, max(0, kept + gradients + temporary - alone)) if accumulate == 1 else 0
    return Held(
        weights=held_by(weights_of(model)),
        layer=whole_at_once(model, steps.layers),
        gradients=gradients,
        optimizer=held_by(dict(steps.adam.state)),
        casts=casts,
        batches=waiting * held_by(batch),
        activations=kept - casts,
        temporary=temporary + max(0, last - (kept + gradients + temporary - turns)),
        turns=turns,
    )


def held_in_rows(steps: Steps, rows: Sequence[range], batch: Batch, *, waiting: int, accumulate: int) -> list[Held]:
    """What each process of a pipeline holds in such steps, of whose micro-batches as many are on their way in it as
    there are processes from it to the last."""
    steps.take([batch])
    scored = steps.accelerator.unwrap_model(steps.scored)
    weights, places, found = holders(scored.model, rows), range(len(rows)), list[Held]()
    buffers, carried = held_by([*scored.buffers()]), dict[str, Tensor]()
    passes = []
    for place in places:
        carried, *counted = _passes(scored, rows, place, batch, carried)
        passes.append(counted)
    with Ledger() as ledger:
        rescale(steps.chosen, divisor=torch.ones((), device=steps.accelerator.device), clip=steps.clip)
        steps.adam.step()
    for place, (kept, casts, temporary, alone) in zip(places, passes, strict=True):
        mine = [one for one, holding in weights.items() if isinstance(one, nn.Parameter) and place in holding]
        gradients, many = held_by([one.grad for one in mine]), min(accumulate, len(rows) - place)
        turns = min(gradients, max(0, kept + gradients + temporary - alone)) if accumulate == 1 else 0
        found.append(
            Held(
                weights=held_by(mine) + buffers,
                layer=0,
                gradients=gradients,
                optimizer=held_by([dict(steps.adam.state).get(one) for one in mine]),
                casts=many * casts,
                batches=waiting * held_by(batch),
                activations=many * (kept - casts),
                temporary=max(temporary, ledger.most - many * kept),
                turns=turns,
            )
        )
    steps.adam.zero_grad()
    return found


def _passes(
    scored: Scored, rows: Sequence[range], place: int, batch: Batch, carried: Carried
) -> tuple[dict[str, Tensor], int, int, int, int]:
    """What a process says of a batch; bytes that its forward pass keeps, those of them that are casts, what is beside
    them at most, and the most of all where there are no gradients yet."""

    def score(model: nn.Module, batch: Batch) -> Tensor:
        loss: Tensor = scored.objective(model, batch)[0]
        return loss

    tops, said = [], dict[str, Tensor]()
    with Ledger(scored.parameters()) as ledger:
        for _ in range(2):
            before = ledger.live, ledger.casts
            received = {name: one.detach().clone().requires_grad_(one.requires_grad) for name, one in carried.items()}
            with scored.precise(batch):
                made = passed(scored.model, rows, place, batch, received, score)
            kept, casts = ledger.live - before[0], ledger.casts - before[1]
            learns = [one for one in made.values() if one.requires_grad]
            if learns:
                torch.autograd.backward(learns, [torch.ones_like(one) for one in learns])
            tops.append(ledger.highest() - before[0])
            said = {name: one.detach().requires_grad_(one.requires_grad) for name, one in made.items()}
            del received, made, learns
    return said, kept, casts, max(0, tops[1] - kept), tops[0]
