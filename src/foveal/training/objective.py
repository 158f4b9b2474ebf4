"""An objective by its name, what it wants, and which models learn by it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any, get_args, get_type_hints

from torch import nn

from foveal.core.errors import InputError
from foveal.core.lookup import Spec, function, module, names, spec
from foveal.models.budget import allocator_of
from foveal.training.config import TrainingConfig
from foveal.training.step import Objective
from foveal.training.wants import Wants

_ROOM = "training.objectives"
_ALL = Wants(layers=True)  # of an outside package that says nothing


def objective(settings: str | Mapping[str, Any]) -> Objective:
    """An objective by name, or with its settings `{name: joint, cells: 0.1}`; InputError with the nearest name."""
    wanted = spec(_ROOM, settings)
    return partial(
        function(_ROOM, wanted.name),
        **{entry.name: getattr(wanted.settings, entry.name) for entry in fields(wanted.settings)},
    )


def wants(settings: str | Mapping[str, Any]) -> Wants:
    """What an objective with these settings wants, of what it is made `of` too; takes the errors of `objective`."""
    asked = spec(_ROOM, settings)
    told = getattr(module(_ROOM, asked.name), "wants", None)
    own: Wants = _own(asked.name) if told is None else told(asked.settings)
    if isinstance(head := getattr(asked.settings, "head", None), str):
        own = replace(own, heads=(head,))
    of = getattr(asked.settings, "of", None)
    if of is None:
        return own
    more = {"spends": own.spends, "layers": own.layers, "slopes": own.slopes}
    return replace(wants(of), assemblies=assemblies(asked.name, of), **more)


def check(model: nn.Module, settings: str | Mapping[str, Any]) -> None:
    """Raises InputError for an objective that is for other assemblies, or wants a head or an allocator that is not."""
    wanted, asked, config = wants(settings), spec(_ROOM, settings), getattr(model, "config", None)
    assembly = getattr(config, "assembly", None)
    if assembly is None:  # a model of another kind knows itself what it can
        return
    if assembly not in wanted.assemblies:
        of = getattr(asked.settings, "of", None)
        also = "" if of is None else f" of {of!r}"
        ways = ", or ".join(_ways(asked, wanted, assembly))
        raise InputError(f"the objective {asked.name!r}{also} teaches no {assembly} model; {ways}")
    heads = getattr(model, "heads", None)
    for head in wanted.heads:
        if heads is not None and head not in heads:
            raise InputError(
                f"the objective {asked.name!r} teaches the head {head!r}, and the model has {', '.join(heads)}; "
                "name one so under model.heads, or give the objective another"
            )
    if wanted.spends and getattr(model, "connector", None) is not None and allocator_of(model) is None:
        raise InputError(
            f"the objective {asked.name!r} spends a budget of visual tokens, and this model has nothing to spend it "
            "with; give it a model.allocator"
        )


def check_shared(training: TrainingConfig) -> None:
    """Raises InputError for an objective that cannot be trained while processes share a model, where they are to."""
    for stage in training.stages:
        shares = [("zero", training.zero, 0)] if training.zero else []
        shares += [("tensor", training.tensor, 1)] if training.tensor > 1 else []
        for key, value, off in shares if wants(stage.objective).slopes else []:
            raise InputError(
                f"training.{key} is {value}, and the objective of stage {stage.name!r} takes slopes within its "
                f"pass, when weights are shared out already; train it with training.{key}={off}"
            )
        if training.tensor > 1 and stage.lora is not None and stage.lora.dropout:
            raise InputError(
                f"training.tensor is {training.tensor}, and stage {stage.name!r} drops numbers before its adapters, of "
                "which each process has others; train it with lora.dropout=0 or training.tensor=1"
            )


def assemblies(name: str, of: str | None = None) -> tuple[str, ...]:
    """The assemblies that an objective's file is for, and that of what it is made `of`."""
    found = _own(name).assemblies
    return found if of is None else tuple(one for one in found if one in assemblies(of))


def _own(name: str) -> Wants:
    found: Wants = getattr(module(_ROOM, name), "WANTS", _ALL)
    return found


def _ways(asked: Spec, wanted: Wants, assembly: str) -> list[str]:
    """What would let a model of this assembly learn: the objective made of another, other objectives, or itself."""
    usual = {name: getattr(module(_ROOM, name).Config, "of", None) for name in names(_ROOM)}
    own = [name for name, of in usual.items() if assembly in assemblies(name, of)]
    made = [one for one in _made_of(asked) if assembly in assemblies(asked.name, one)]
    ways = [f"make it of {_one_of([repr(one) for one in made])}"] if made else []
    ways += [f"train it by the objective {_one_of([repr(one) for one in own])}"] if own else []
    return ways + ([f"give the model another assembly: {_one_of(wanted.assemblies)}"] if wanted.assemblies else [])


def _made_of(asked: Spec) -> tuple[str, ...]:
    """The objectives that one may be made `of`."""
    return get_args(get_type_hints(type(asked.settings)).get("of"))


def _one_of(names: Sequence[str]) -> str:
    return " or ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)
