"""What a stage's objective wants of the batches that it gets."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from foveal.core.errors import InputError
from foveal.training.config import Stage

if TYPE_CHECKING:
    from foveal.training.wants import Wants

_BLIND = ("causal", "masked")  # assemblies that learn without images too


def objective_of(stage: Stage) -> tuple[str, Mapping[str, Any]]:
    """The name of a stage's objective, and its settings."""
    given = {"name": stage.objective} if isinstance(stage.objective, str) else stage.objective
    return str(given.get("name")), {key: value for key, value in given.items() if key != "name"}


def wants(stage: Stage) -> "Wants":
    """What the objective of a stage wants."""
    from foveal.training.objective import wants as wanted

    return wanted(stage.objective)


def masking(stage: Stage) -> dict[str, float] | None:
    """What the objective wants hidden, as settings of the processor's masking; None where it says nothing of it."""
    from foveal.preprocess.masking import Masking

    hidden = wants(stage).hidden
    return None if hidden is None else {one.name: 0.0 for one in fields(Masking) if one.name not in hidden}


def blind(stage: Stage) -> str | Mapping[str, Any] | None:
    """The objective without images; None where nothing is left of it."""
    left = wants(stage).blind
    name, settings = objective_of(stage)
    return {"name": name, **settings, **left} if left else None if left is None else stage.objective


def check_blind(assembly: str) -> None:
    """Raises InputError for an assembly that learns nothing without images."""
    if assembly not in _BLIND:
        raise InputError(
            f"a {assembly} model learns nothing without images; leave --text-only (or text_only) out, or take a recipe "
            f"whose model.assembly is {' or '.join(_BLIND)}"
        )
