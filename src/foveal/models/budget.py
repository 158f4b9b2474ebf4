"""The same model under a budget of visual tokens: weights are shared, only what is spent differs."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex, TypeVar

from torch import nn

from foveal.core.config import dump
from foveal.core.errors import InputError
from foveal.core.interfaces import Allocator
from foveal.core.lookup import build, spec
from foveal.core.outside import known_as
from foveal.core.types import Batch, Grid, Layout
from foveal.models import seats
from foveal.models.parts import Sight
from foveal.relevance.pricing import Terms
from foveal.relevance.spending import budget_of, coarser, plain, undrawn

ROOM = "relevance.strategies"
S = TypeVar("S", bound=Sight)


def budgeted(model: S, budget: SupportsIndex | Terms | None, strategy: str = "foveal", **settings: object) -> S:
    """The model, spending at most `budget` visual tokens an image by a strategy; None: the model itself, or by the
    strategy `all` without a budget of its own.

    A model's own allocator of that strategy is the same one with another budget: its settings, and what it has learned
    and still learns. By terms, which `Sight.spent` takes, it spends the fewest tokens. Raises InputError for an unknown
    strategy or setting, a budget below 1, and a model without a connector or without what the strategy needs. The
    random stream stays as it was.
    """
    if budget is None:
        return unspent(model) if spec(ROOM, {"name": strategy}).name == "all" else model
    with undrawn():
        return _spending(model, budget, strategy, **settings)


def idle(model: Sight, strategy: str) -> str:
    """What is told of a strategy without a budget; nothing of the model's own, or of one that spends none."""
    own = allocator_of(model)
    if strategy in ("foveal", "all") or (own is not None and known_as(own) == strategy):
        return ""
    given = "there is none" if own is None else f"none is given, and {known_as(own)!r} has spent the model's own"
    return f"strategy {strategy!r} spends a budget and {given}; give a budget, such as 64"


def _spending(model: S, budget: SupportsIndex | Terms, strategy: str, **settings: object) -> S:
    if (reason := lacking(model, budget, strategy, **settings)) is not None:
        raise InputError(reason)
    allocator = allocated(model, budget, strategy, **settings)
    device = next(model.parameters()).device
    return _with(model, allocator.to(device).train(model.training))


def allocated(model: Sight, budget: SupportsIndex | Terms, strategy: str = "foveal", **settings: object) -> nn.Module:
    """Who would spend the budget, whether or not the model has what it needs; takes the other errors of `budgeted`."""
    if getattr(model, "connector", None) is None:
        raise InputError("a budget is spent behind a connector, and this model has none; ask it without one")
    number = budget_of(budget.fewest if isinstance(budget, Terms) else budget)
    described = coarser(_described(model, strategy), number)
    said = {name: plain(value) for name, value in settings.items()}
    said = coarser(said, number) if isinstance(budget, Terms) else said
    allocator = build(ROOM, spec(ROOM, {"name": strategy, **described, "budget": number, **said}))
    if described:
        known: Any = allocator_of(model)
        for kind in ("_modules", "_parameters", "_buffers"):
            own, learned = allocator.__dict__[kind], known.__dict__[kind]
            own.update({name: part for name, part in learned.items() if part is not None and own.get(name) is not None})
    return allocator


def _described(model: Sight, strategy: str) -> dict[str, Any]:
    """The settings of a model's own allocator; none where that is of another strategy, or is not there."""
    own = getattr(model.config, "allocator", None)
    if own is None or own.name != strategy or allocator_of(model) is None:
        return {}
    return dump(own.settings)


def lacking(model: Sight, budget: SupportsIndex | Terms, strategy: str, **settings: object) -> str | None:
    """What the model lacks that the strategy needs, in a line; None: nothing. Takes the errors of `allocated`."""
    allocator = allocated(model, budget, strategy, **settings)
    if isinstance(budget, Terms) and (reason := seats.unpriced(allocator, model.connector)) is not None:
        return reason
    return seats.refusal(allocator, **_parts(model))


def _parts(model: Sight) -> dict[str, Any]:
    return {name: getattr(model, name) for name in ("vision", "connector", "fusion", "language")}


def unspent(model: S) -> S:
    """The model without a budget, whatever its own; a view of it where it has one."""
    return model if allocator_of(model) is None else _with(model, None)


def bound(model: S, sizes: Sequence[Grid]) -> S:
    """The model, without its own budget where all of an image of any of these sizes is within it."""
    spender = allocator_of(model)
    if spender is None or seats.acts_within(spender) or hasattr(model.connector, "latents"):
        return model
    free = unspent(model)
    return free if model.plan(sizes).counts == free.plan(sizes).counts else model


def endow(model: Sight, allocator: Mapping[str, Any] | str) -> None:
    """Give a model an allocator of its own, in place; takes the errors of `budgeted`.

    What is not said of it stays as it is with the model's own of that strategy.
    """
    name = spec(ROOM, allocator).name
    said = {} if isinstance(allocator, str) else {key: value for key, value in allocator.items() if key != "name"}
    wanted = spec(ROOM, {"name": name, **_described(model, name), **said})
    settings = dict(vars(wanted.settings))  # those too that a config leaves unsaid
    model.allocator = _spending(model, settings.pop("budget"), wanted.name, **settings).allocator
    model.config = replace(model.config, allocator=wanted)  # type: ignore[attr-defined]


def spent(
    model: S, batch: Batch, budget: SupportsIndex | Terms | None, strategy: str = "foveal", **settings: object
) -> tuple[S, Batch]:
    """The model under a budget (None: its own, if it has one), and a batch that was laid out for all of its tokens,
    seen and laid out anew for these.

    Terms say what the images are worth in place of a budget. Takes the errors of `budgeted`; raises InputError for a
    strategy that changes what is encoded.
    """
    if batch.visual is None and budget is not None:
        return model, batch
    terms = budget if isinstance(budget, Terms) else None
    view = budgeted(model, budget, strategy, **settings)
    if (spender := allocator_of(view)) is None or batch.visual is None:
        return view, batch
    if seats.acts_before(spender):
        raise InputError(
            f"strategy {known_as(spender)!r} changes what is encoded, and this batch is laid out for that already; "
            "ask by answer(images, text), or take another strategy"
        )
    return view, view.spent(batch, budget=terms)


def unneeded(layout: Layout, budget: int | Terms | None) -> str:
    """What is to be said of a budget above the visual tokens of every picture; nothing of one that may cut some."""
    most = max(layout.counts, default=0)
    if not isinstance(budget, int) or not 0 < most < budget:
        return ""
    return f"a budget of {budget} for pictures of at most {most} visual tokens: all are read"


def either(budget: SupportsIndex | Terms | None, price: float | None) -> int | Terms | None:
    """What an answer may cost, by a budget or terms, or at a price a token. Raises InputError for both,
    and for a budget that is no whole number.
    """
    if price is None:
        return budget if budget is None or isinstance(budget, Terms) else budget_of(budget)
    if budget is not None:
        raise InputError(f"a budget of {budget} and a price of {price:g}; give one of the two")
    return Terms(price=plain(price))


def _with(model: S, allocator: nn.Module | None) -> S:
    view = copy.copy(model)
    others = {name: part for name, part in model._modules.items() if name != "allocator"}
    view.__dict__["_modules"] = others if allocator is None else {**others, "allocator": allocator}
    return view


def allocator_of(model: object) -> Allocator | None:
    """Who spends a model's budget; None: it keeps all."""
    return getattr(model, "_modules", {}).get("allocator")
