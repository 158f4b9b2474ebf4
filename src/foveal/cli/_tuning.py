"""A search for settings: what may differ between trials, by what they are judged, and how far they go, read from YAML.

about: what it is for
recipe: demo                                  # a recipe that ships, a YAML file, or a whole recipe
settings: {training.stages.1.minutes: 1}      # over the recipe, in every trial
data: {scenes: {size: 256}, count: 3000}      # in the place of the recipe's own; or {path: DIRECTORY}
search:                                       # keys of the recipe, and where their values are drawn from
  training.stages.1.rate: {log: [1.0e-4, 1.0e-2]}       # evenly over the orders of magnitude
  training.stages.1.weight_decay: {uniform: [0.0, 0.2]}
  model.language.depth: {integer: [2, 6]}               # both ends among them
  model.connector: {choice: [linear, {name: mlp, depth: 2}]}
metric: exact_match                           # as `foveal eval --json` calls it, or loss
evaluation: {split: val, limit: 1000}         # what trials are scored on; path: another data set
test: {split: test}                           # what the best is scored on, once
trials: 12
seed: 0                                       # of what is drawn
scheduler: asha                               # or none: every trial goes to its end
asha: {first: 0.25, factor: 2}                # scored at 1/4 and 1/2 of the last stage; half of them go on
parallel: 2                                   # trials at a time
threads: 1                                    # of each
gpus: 0.5                                     # of each
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from foveal.cli import _recipe
from foveal.cli._comparison import short, within
from foveal.cli._held_out import Held
from foveal.cli._recipe import Recipe
from foveal.core.config import dump, override, parse
from foveal.core.errors import InputError
from foveal.core.parsing import from_yaml, yaml_map
from foveal.training.config import check_seed

ROOTS = ("model", "init", "processor", "training", "seed")  # of a recipe, what makes one training another
_DIGITS = 4  # of a number that is drawn: it is to be typed again
_TRIES = 1000  # draws for each trial, after which nothing new is left to find


@dataclass(frozen=True, kw_only=True)
class Range:
    """Where the values of a setting are drawn from: give one."""

    log: tuple[float, float] | None = None
    uniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = None
    choice: tuple[Any, ...] | None = None

    def __post_init__(self) -> None:
        given = [name for name, value in vars(self).items() if value is not None]
        if len(given) != 1:
            raise InputError(f"a range by {' and '.join(given) or 'nothing'}; give log, uniform, integer or choice")
        if self.choice is not None:
            if not self.choice:
                raise InputError("a choice among nothing; give values")
            return
        low, high = self.log or self.uniform or self.integer or (0, 0)
        if not -math.inf < low < high < math.inf:
            raise InputError(f"a range from {low:g} to {high:g}; give the lower end first")
        if self.log is not None and low <= 0:
            raise InputError(f"a log range from {low:g}; give an end above 0")

    def draw(self, chance: Any) -> Any:
        """A value, by a generator of NumPy's."""
        if self.choice is not None:
            return self.choice[int(chance.integers(len(self.choice)))]
        if self.integer is not None:
            return int(chance.integers(*self.integer, endpoint=True))
        low, high = ends = self.uniform or self.log or (0.0, 0.0)
        drawn = chance.uniform(*ends) if self.log is None else math.exp(chance.uniform(*map(math.log, ends)))
        return min(max(low, float(f"{drawn:.{_DIGITS}g}")), high)


@dataclass(frozen=True, kw_only=True)
class Asha:
    """Asynchronous successive halving (1810.05934): a trial is looked at when the share `first` of its last stage is
    done, then at `factor` times that and so on; of those that came as far, the best of so many go on."""

    first: float = 0.25
    factor: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.first < 1:
            raise InputError(f"asha.first is {self.first:g}; give a share of the last stage, between 0 and 1")
        if self.factor < 2:
            raise InputError(f"asha.factor is {self.factor}; give 2 or more: of so many trials one goes on")

    @property
    def shares(self) -> tuple[float, ...]:
        """The shares of the last stage at which a trial is looked at, before its end."""
        made, share = [], self.first
        while share < 1 - 1e-9:
            made.append(share)
            share *= self.factor
        return tuple(made)


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """All of it, as its YAML says."""

    recipe: str | Mapping[str, Any]
    search: Mapping[str, Range]
    about: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] | None = None
    metric: str = "exact_match"
    evaluation: Held = field(default_factory=Held)
    test: Held | None = None
    trials: int = 8
    seed: int = 0
    scheduler: Literal["asha", "none"] = "none"
    asha: Asha = Asha()
    parallel: int = 1
    threads: int | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)
        if not self.search:
            raise InputError("a search over nothing; give keys of the recipe and ranges, as in training.stages.0.rate")
        for key in self.search:
            if key.split(".")[0] not in ROOTS:
                raise InputError(
                    f"search.{key} makes no other training of the same data; search below {', '.join(ROOTS)}"
                )
            if key in self.settings:
                raise InputError(f"{key} stands in settings and in search; leave one of them out")
        for name in ("trials", "parallel", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} is {value}; give 1 or more")
        if self.gpus is not None and not 0 <= self.gpus < math.inf:
            raise InputError(f"gpus is {self.gpus:g}; give 0 or more: a share of one is fine")

    @property
    def shares(self) -> tuple[float, ...]:
        """Where trials are looked at before their end."""
        return self.asha.shares if self.scheduler == "asha" else ()


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training: its number, what was drawn for it, and the recipe that comes of that."""

    number: int
    settings: Mapping[str, Any]
    recipe: Recipe
    key: str  # what it was made and judged by: another one is not gone on with
    asked: str = ""  # the same without the data

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"{self.number:03d}"

    def on(self, content: str) -> "Trial":
        """The same trial on data of this fingerprint, which is another one where they change."""
        key = hashlib.sha256(f"{self.key} {content}".encode()).hexdigest()[:16]
        return replace(self, key=key, asked=self.key)

    @property
    def marks(self) -> dict[str, Any]:
        """What it is known by in its record."""
        return {"key": self.key, "asked": self.asked, "number": self.number, "settings": dict(self.settings)}

    @property
    def told(self) -> str:
        """What was drawn, in words."""
        return ", ".join(f"{within(key)}={short(value)}" for key, value in self.settings.items())


def read(config: str, assignments: Sequence[str] = ()) -> Tuning:
    """A YAML file, with `key=value` settings over it; InputError for a bad one."""
    path = Path(config)
    if not path.is_file():
        raise InputError(f"there is no file {config}; name a YAML file with a recipe and a search (docs/tune.md)")
    given = yaml_map(path, holds="it is to have a recipe and a search")
    return parse(Tuning, override(given, assignments, Tuning.__dataclass_fields__), where="tuning")


def recipe_of(wanted: Tuning, drawn: Mapping[str, Any]) -> Recipe:
    """The recipe of a trial; takes the errors of a bad one."""
    told = assignments(wanted, drawn)
    if isinstance(wanted.recipe, str):
        return _recipe.read(wanted.recipe, told)
    return _recipe.of(override(wanted.recipe, told, Recipe.__dataclass_fields__), name="recipe")


def assignments(wanted: Tuning, drawn: Mapping[str, Any]) -> list[str]:
    """What is over the recipe in a trial, as `foveal train` takes it."""
    own = {} if wanted.data is None else {"data": wanted.data}
    return [f"{key}={_spelled(value)}" for key, value in {**own, **wanted.settings, **drawn}.items()]


def _spelled(value: Any) -> str:
    """A value as YAML reads it, without quotes where they say nothing."""
    plain = dump(value)
    return plain if isinstance(plain, str) and from_yaml(f"[{plain}]") == [plain] else json.dumps(plain)


def trials(wanted: Tuning) -> list[Trial]:
    """All trials, no two the same; the first of more are those of fewer. Raises InputError for a bad recipe."""
    made = []
    for number, drawn in enumerate(_drawn(wanted)):
        recipe = _tried(wanted, number, drawn)
        judged = [wanted.metric, dump(wanted.evaluation)]
        told = [drawn, recipe.identity(), dump(recipe.training), judged]
        key = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]
        made.append(Trial(number=number, settings=drawn, recipe=recipe, key=key))
    return made


def _tried(wanted: Tuning, number: int, drawn: Mapping[str, Any]) -> Recipe:
    """The recipe of a trial; what is wrong with it alone is told with what was drawn."""
    try:
        return recipe_of(wanted, drawn)
    except InputError as error:
        wrong = str(error)
    try:
        recipe_of(wanted, {})
    except InputError as error:
        if str(error) == wrong:
            raise
    told = ", ".join(f"{key}={short(value)}" for key, value in drawn.items())
    raise InputError(f"search: trial {number} ({told}): {wrong}")


def _drawn(wanted: Tuning) -> list[dict[str, Any]]:
    import numpy as np

    chance, found = np.random.default_rng(wanted.seed), dict[str, dict[str, Any]]()
    for _ in range(_TRIES * wanted.trials):
        one = {key: dump(place.draw(chance)) for key, place in wanted.search.items()}
        found.setdefault(json.dumps(one), one)
        if len(found) == wanted.trials:
            return list(found.values())
    raise InputError(f"trials is {wanted.trials}, and the search has {len(found)} in all; give trials up to that")
