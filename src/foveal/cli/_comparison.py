"""A comparison: which systems are trained and asked, how long, and by how many visual tokens, read from YAML.

about: what it is to show
data: {scenes: {size: 256}, count: 3000}      # the same for all, in the place of each recipe's own
systems:                                      # by name; settings go over the recipe's, as key=value does
  llava: {recipe: demo, settings: {seed: 1}, ablate: {model.connector.kernel: [1, 3]}}
settings: {training.stages.0.rate: 1.0e-3}    # over the recipe of every system
answer: {batch_size: 8, group: true}          # the last stage of each, so that all see the same in the same order
seeds: [0, 1, 2]
lengths: [{samples: 24000}, {flops: 1.0e+15}] # or steps: how long each is trained, each length by itself
tokens: [0.25, 0.11]                          # beside all: a share of a system's own visual tokens, or a number
strategies: [foveal, {name: average_pool}]    # how such are chosen
text_only: true                               # train each without images too
evaluation: {split: test, limit: 1000}
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from foveal.cli import _recipe
from foveal.cli._recipe import Recipe
from foveal.core.config import dump, later, override, parse
from foveal.core.errors import InputError, unknown
from foveal.core.lookup import spec
from foveal.core.parsing import yaml_map
from foveal.models.budget import ROOM
from foveal.training.config import Stage

LAST = "compared"  # what the last stage of every system is called: examples come in an order that goes by this name


@dataclass(frozen=True, kw_only=True)
class System:
    """One recipe with settings over it; `strategies` and `tokens` of its own; `ablate`: values of single settings."""

    recipe: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    strategies: tuple[str | Mapping[str, Any], ...] | None = None
    tokens: tuple[int | float, ...] | None = None
    ablate: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Length:
    """How long a system is trained: give one. A sample is a picture with its questions, where the stage groups them."""

    samples: int | None = None
    steps: int | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        given = {key: value for key, value in vars(self).items() if value is not None}
        if len(given) != 1 or min(given.values()) <= 0:
            raise InputError(f"a length of {given or 'nothing'}; give one of samples, steps and flops, more than 0")

    def __str__(self) -> str:
        name, number = next((key, value) for key, value in vars(self).items() if value is not None)
        return f"{number:g}{name}".replace("+", "")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What every system is asked; beside exact match a `metric` may stand, such as `anls` or `vqa`."""

    split: str = "test"
    limit: int | None = 1000
    batch: int = 64
    max_new_tokens: int = 16
    metric: str | None = later(None)

    def __post_init__(self) -> None:
        if self.metric is not None:
            from foveal.evaluation.measure import of_captions

            if of_captions(self.metric):
                raise InputError(f"metric {self.metric} scores captions, and systems are asked questions; leave it out")


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All of it, as its YAML says."""

    data: Mapping[str, Any]
    systems: Mapping[str, System]
    lengths: tuple[Length, ...]
    about: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    answer: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    tokens: tuple[int | float, ...] = (0.25, 0.11)
    strategies: tuple[str | Mapping[str, Any], ...] = ("foveal",)
    text_only: bool = True
    evaluation: Asked = Asked()

    def __post_init__(self) -> None:
        for name in ("systems", "seeds", "lengths"):
            if not getattr(self, name):
                raise InputError(f"a comparison without {name}; give one at least")


@dataclass(frozen=True, kw_only=True)
class Spending:
    """By which strategy how many visual tokens a picture are kept (a share of a system's own below 1; None: all)."""

    strategy: str = "all"
    settings: Mapping[str, Any] = field(default_factory=dict)
    tokens: int | float | None = None

    @property
    def name(self) -> str:
        """The strategy with its settings."""
        told = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        return f"{self.strategy} ({told})" if told else self.strategy


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training of one system, and all that is asked of it."""

    name: str
    system: str
    recipe: Recipe
    length: Length
    spendings: tuple[Spending, ...]
    evaluation: Asked
    text_only: bool

    @property
    def key(self) -> str:
        """What the training was made by: another one is not gone on with."""
        training = dump(self.recipe.training)
        for shares in ("zero", "tensor", "pipeline"):  # how processes share a model changes nothing of it
            del training[shares]
        told = {**self.recipe.identity(), "training": training, "length": dump(self.length)}
        return hashlib.sha256(json.dumps([told, self.text_only], sort_keys=True).encode()).hexdigest()[:16]


def names() -> list[str]:
    """The comparisons that ship with Foveal."""
    return sorted(path.stem for path in _shipped().glob("*.yaml"))


def _shipped() -> Path:
    import foveal.recipes

    return Path(foveal.recipes.__path__[0]) / "compare"


def read(config: str, assignments: Sequence[str] = ()) -> Comparison:
    """A shipped comparison by name, or a YAML file, with `key=value` settings over it; InputError for a bad one."""
    path = Path(config) if config.endswith((".yaml", ".yml")) else _shipped() / f"{config}.yaml"
    if not path.is_file():
        if path.parent != _shipped():
            raise InputError(f"there is no comparison {config}; name a YAML file or one of: {', '.join(names())}")
        raise unknown("comparison", config, names())
    given = yaml_map(path, holds="a comparison has data, systems and lengths")
    return parse(Comparison, override(given, assignments, Comparison.__dataclass_fields__), where="comparison")


def jobs(wanted: Comparison, *, ablate: bool = False) -> list[Job]:
    """Every training in turn: all systems of the first seed, then of the next. Takes the errors of bad recipes.

    With `ablate` each system is joined by those that differ from it in one setting.
    """
    systems = dict(_ablated(wanted.systems)) if ablate else dict(wanted.systems)
    many = len(wanted.lengths) > 1
    made = []
    for seed in wanted.seeds:
        for length in wanted.lengths:
            for name, system in systems.items():
                title = f"{name}-{length}-{seed}" if many else f"{name}-{seed}"
                made.append(
                    Job(
                        name="".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in title),
                        system=name,
                        recipe=_recipe_of(wanted, system, seed),
                        length=length,
                        spendings=_spendings(wanted, system),
                        evaluation=wanted.evaluation,
                        text_only=wanted.text_only,
                    )
                )
    return made


def _ablated(systems: Mapping[str, System]) -> Iterator[tuple[str, System]]:
    """Each system, and beside it the same with one setting changed. Raises InputError where none names any."""
    if not any(system.ablate for system in systems.values()):
        raise InputError("--ablate changes single settings and no system names any; give one 'ablate: {KEY: [VALUES]}'")
    for name, system in systems.items():
        if system.ablate:
            yield name, system
        for key, values in system.ablate.items():
            for value in values:
                yield f"{name} {within(key)}={short(value)}", replace(system, settings={**system.settings, key: value})


def within(key: str) -> str:
    """A setting's name without that of the recipe's part."""
    return key.removeprefix("model.").removeprefix("training.").removeprefix("processor.")


def short(value: Any) -> str:
    """A setting's value as a table shows it."""
    if isinstance(value, Mapping):
        return " ".join(str(part) if key == "name" else f"{key}={short(part)}" for key, part in value.items())
    return "+".join(map(short, value)) if isinstance(value, list | tuple) else str(value)


def _recipe_of(wanted: Comparison, system: System, seed: int) -> Recipe:
    """The recipe of a system, its last stage as all have it."""
    settings = {**wanted.settings, **system.settings, "data": wanted.data, "seed": seed}
    told = [f"{key}={json.dumps(dump(value))}" for key, value in settings.items()]
    recipe = _recipe.read(system.recipe, told)
    *stages, last = recipe.training.stages
    last = parse(Stage, {**dump(last), **wanted.answer, "name": LAST}, where="comparison.answer")
    return replace(recipe, training=replace(recipe.training, stages=(*stages, last), max_minutes=None))


def _spendings(wanted: Comparison, system: System) -> tuple[Spending, ...]:
    """All tokens, then every strategy at every number of them; InputError for an unknown strategy or setting."""
    strategies = wanted.strategies if system.strategies is None else system.strategies
    numbers = wanted.tokens if system.tokens is None else system.tokens
    made = [Spending()]
    for one in strategies:
        given = {"name": one} if isinstance(one, str) else dict(one)
        name = str(given.pop("name", ""))
        spec(ROOM, {"name": name, **given})
        for number in numbers:
            if not (isinstance(number, int) and number >= 1) and not 0 < number < 1:
                raise InputError(f"tokens {number} are neither a share below 1 nor a number of 1 or more; give such")
            made.append(Spending(strategy=name, settings=given, tokens=number))
    return tuple(made)


def paced(recipe: Recipe, length: Length, cost: Mapping[str, float]) -> Recipe:
    """The recipe with stages of so many steps that together they are as long as is wanted, in its own proportions.

    `cost` are the FLOPs of a sample in each stage. Raises InputError for stages whose proportions are not known.
    """
    stages = recipe.training.stages
    units = {unit for stage in stages for unit in ("steps", "epochs", "minutes") if getattr(stage, unit) is not None}
    if len(units) > 1:
        raise InputError(
            f"recipe {recipe.name} has stages by {' and '.join(sorted(units))}, whose proportions are not known; "
            "give all of them the same unit"
        )
    visits = {stage.name: stage.batch_size * stage.accumulate for stage in stages}
    weights = {s.name: (s.steps or 0) * visits[s.name] or s.epochs or s.minutes or 0.0 for s in stages}
    if length.samples is not None:
        total, each = float(length.samples), dict.fromkeys(weights, 1.0)
    elif length.steps is not None:
        total, each = float(length.steps), {name: 1 / count for name, count in visits.items()}
    else:
        total, each = float(length.flops or 0), dict(cost)
    scale = total / sum(weight * each[name] for name, weight in weights.items())
    steps = {name: max(1, round(scale * weight / visits[name])) for name, weight in weights.items()}
    made = tuple(replace(stage, steps=steps[stage.name], epochs=None, minutes=None) for stage in stages)
    return replace(recipe, training=replace(recipe.training, stages=made))
