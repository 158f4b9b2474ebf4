"""The same model under a budget of visual tokens: weights are shared, only what is spent differs."""

import copy
from typing import TypeVar

from torch import nn

from foveal.core.config import dump
from foveal.core.errors import InputError
from foveal.core.interfaces import Allocator
from foveal.core.lookup import build, spec
from foveal.core.types import Batch
from foveal.models.parts import Sight

ROOM = "relevance.strategies"
S = TypeVar("S", bound=Sight)


def budgeted(model: S, budget: int | None, strategy: str = "foveal", **settings: object) -> S:
    """The model, spending at most `budget` visual tokens an image by a strategy; None: the model itself.

    A model's own allocator of that strategy is the same one with another budget: its settings, and what it has learned
    and still learns. Raises InputError for an unknown strategy or setting, a budget below 1, and a model without a
    connector.
    """
    if budget is None:
        return model
    if getattr(model, "connector", None) is None:
        raise InputError("a budget is spent behind a connector, and this model has none; ask it without one")
    known, own = model._modules.get("allocator"), getattr(model.config, "allocator", None)
    same = known is not None and own is not None and own.name == strategy
    described = dump(own.settings) if same else {}
    allocator = build(ROOM, spec(ROOM, {"name": strategy, **described, "budget": budget, **settings}))
    if same:
        for kind in ("_modules", "_parameters", "_buffers"):
            allocator.__dict__[kind] = known.__dict__[kind]
    device = next(model.parameters()).device
    return _with(model, allocator.to(device).train(model.training))


def unspent(model: S) -> S:
    """The model without a budget, whatever its own; a view of it where it has one."""
    return model if allocator_of(model) is None else _with(model, None)


def spent(model: S, batch: Batch, budget: int | None, strategy: str = "foveal", **settings: object) -> Batch:
    """A batch that was laid out for all of a model's tokens, seen and laid out anew for at most `budget` an image.

    Takes the errors of `budgeted`.
    """
    if budget is None or batch.visual is None:
        return batch
    view = budgeted(model, budget, strategy, **settings)
    return view.spent(batch, view.whole(batch))


def _with(model: S, allocator: nn.Module | None) -> S:
    view = copy.copy(model)
    others = {name: part for name, part in model._modules.items() if name != "allocator"}
    view.__dict__["_modules"] = others if allocator is None else {**others, "allocator": allocator}
    return view


def allocator_of(model: object) -> Allocator | None:
    """Who spends a model's budget; None: it keeps all."""
    return getattr(model, "_modules", {}).get("allocator")
