"""An objective by its name, and which models learn by it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, get_args, get_type_hints

from torch import nn

from foveal.core.errors import InputError
from foveal.core.lookup import Spec, module, names, spec
from foveal.models.assembly import ASSEMBLIES
from foveal.models.budget import allocator_of
from foveal.training.step import Objective

_ROOM = "training.objectives"


def objective(settings: str | Mapping[str, Any]) -> Objective:
    """An objective by name, or with its settings `{name: joint, cells: 0.1}`; InputError with the nearest name."""
    wanted = spec(_ROOM, settings)
    found = getattr(module(_ROOM, wanted.name), wanted.name)
    return partial(found, **{entry.name: getattr(wanted.settings, entry.name) for entry in fields(wanted.settings)})


def check(model: nn.Module, settings: str | Mapping[str, Any]) -> None:
    """Raises InputError for an objective that is for other assemblies, or wants a head or an allocator that is not."""
    wanted, config = spec(_ROOM, settings), getattr(model, "config", None)
    assembly = getattr(config, "assembly", None)
    if assembly is None:  # a model of another kind knows itself what it can
        return
    of = getattr(wanted.settings, "of", None)  # what the objective is made of must fit too
    fit = assemblies(wanted.name, of)
    if assembly not in fit:
        own = [
            name
            for name in names(_ROOM)
            if assembly in assemblies(name, getattr(module(_ROOM, name).Config, "of", None))
        ]
        made = [one for one in _made_of(wanted) if assembly in assemblies(wanted.name, one)]
        ways = [f"make it of {_one_of([repr(one) for one in made])}"] if made else []
        ways += [f"train it by the objective {_one_of([repr(one) for one in own])}"] if own else []
        ways += [f"give the model another assembly: {_one_of(fit)}"] if fit else []
        also = "" if of is None else f" of {of!r}"
        raise InputError(f"the objective {wanted.name!r}{also} teaches no {assembly} model; {', or '.join(ways)}")
    heads = getattr(model, "heads", None)
    for head in _heads(wanted):
        if heads is not None and head not in heads:
            raise InputError(
                f"the objective {wanted.name!r} teaches the head {head!r}, and the model has {', '.join(heads)}; "
                "name one so under model.heads, or give the objective another"
            )
    spends = getattr(module(_ROOM, wanted.name), "SPENDS", False)
    if spends and getattr(model, "connector", None) is not None and allocator_of(model) is None:
        raise InputError(
            f"the objective {wanted.name!r} spends a budget of visual tokens, and this model has nothing to spend it "
            "with; give it a model.allocator"
        )


def assemblies(name: str, of: str | None = None) -> tuple[str, ...]:
    """The assemblies that an objective's file is for, and that of what it is made `of`; all, where it names none."""
    found: tuple[str, ...] = getattr(module(_ROOM, name), "FOR", ASSEMBLIES)
    return found if of is None else tuple(one for one in found if one in assemblies(of))


def _made_of(wanted: Spec) -> tuple[str, ...]:
    """The objectives that one may be made `of`."""
    return get_args(get_type_hints(type(wanted.settings)).get("of"))


def _one_of(names: Sequence[str]) -> str:
    return " or ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def _heads(wanted: Spec) -> tuple[str, ...]:
    """The heads that an objective teaches, where it says so: by its own count, as its setting `head`, or as those of
    what it is made `of`."""
    if (of := getattr(wanted.settings, "of", None)) is not None:
        return _heads(spec(_ROOM, of))
    told = getattr(module(_ROOM, wanted.name), "heads", None)
    if told is not None:
        return told(wanted.settings)
    head = getattr(wanted.settings, "head", None)
    return (head,) if isinstance(head, str) else ()
