"""What a stage's objective wants of the batches that it gets."""

from collections.abc import Mapping
from typing import Any

from foveal.core.errors import InputError
from foveal.training.config import Stage

# What is hidden, by the objective alone that wants it and by its weight in `pretrain`.
_HIDDEN = {
    "words": ("masked_words", "words"),
    "regions": ("masked_regions", "regions"),
    "foreign": ("matching", "matching"),
}
SPENT = ("budgets", "evidence")  # those that lay batches out anew by themselves
_WHOLE = ("contrastive",)  # these want whole conversations with nothing hidden
_BLIND = ("causal", "masked")  # assemblies that learn without images too
_SIGHTED = ("cells", "masked_regions", "matching", "queries", *_WHOLE)  # nothing is left of these without images


def objective_of(stage: Stage) -> tuple[str, Mapping[str, Any]]:
    """The name of a stage's objective, and its settings."""
    given = {"name": stage.objective} if isinstance(stage.objective, str) else stage.objective
    return str(given.get("name")), {key: value for key, value in given.items() if key != "name"}


def masking(stage: Stage) -> dict[str, float] | None:
    """What the objective wants hidden, as settings of the processor's masking; None where that is nothing."""
    name, settings = objective_of(stage)
    wanted = {
        share
        for share, (alone, part) in _HIDDEN.items()
        if name == alone or (name == "pretrain" and settings.get(part, 1.0))
    }
    return {share: 0.0 for share in _HIDDEN if share not in wanted} if wanted or name in _WHOLE else None


def blind(stage: Stage) -> str | Mapping[str, Any] | None:
    """The objective without images; None where nothing is left of it."""
    name, settings = objective_of(stage)
    if name == "pretrain":
        return {"name": name, **settings, "regions": 0.0, "matching": 0.0} if settings.get("words", 1.0) else None
    return None if name in _SIGHTED else stage.objective


def check_blind(assembly: str) -> None:
    """Raises InputError for an assembly that learns nothing without images."""
    if assembly not in _BLIND:
        raise InputError(
            f"a {assembly} model learns nothing without images; leave --text-only (or text_only) out, or take a recipe "
            f"whose model.assembly is {' or '.join(_BLIND)}"
        )
