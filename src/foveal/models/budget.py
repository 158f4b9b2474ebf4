"""The same model under a budget of visual tokens: weights are shared, only what is spent differs."""

import copy
from typing import TypeVar

from foveal.core.errors import InputError
from foveal.core.interfaces import Allocator
from foveal.core.lookup import build, spec
from foveal.models.parts import Sight

ROOM = "relevance.strategies"
S = TypeVar("S", bound=Sight)


def budgeted(model: S, budget: int | None, strategy: str = "foveal", **settings: object) -> S:
    """The model, spending at most `budget` visual tokens an image by a strategy; None: the model itself.

    What a model's own allocator of that strategy has learned is used. Raises InputError for an unknown strategy or
    setting, a budget below 1, and a model without a connector.
    """
    if budget is None:
        return model
    if getattr(model, "connector", None) is None:
        raise InputError("a budget is spent behind a connector, and this model has none; ask it without one")
    wanted = spec(ROOM, {"name": strategy, "budget": budget, **settings})
    allocator = build(ROOM, wanted)
    known = model._modules.get("allocator")
    if type(known) is type(allocator) and known is not None:
        allocator.load_state_dict(known.state_dict())
    view = copy.copy(model)
    device = next(model.parameters()).device
    view.__dict__["_modules"] = {**model._modules, "allocator": allocator.to(device).train(model.training)}
    return view


def allocator_of(model: object) -> Allocator | None:
    """Who spends a model's budget; None: it keeps all."""
    return getattr(model, "_modules", {}).get("allocator")
