"""A recipe: everything that one training run is made of, read from YAML and put together.

system: llava                 # the row of `foveal systems`, with its family (early, mid, late, hybrid) and paper
family: late
paper: "2304.08485"
seed: 0
model: {vision: {...}, connector: {...}, language: {...}, head: {...}}    # a component of each room; a language may
                              # be one that is trained already: smollm2-135m, a run or a checkpoint's directory
init: {vision: imagenet}      # weights to start from, by part; or {from: RUN}, which brings model and processor
processor: {tokenizer: words, template: plain, image: {size: 256}}       # answers: 500 for one that chooses answers,
                              # choices: 4 for one that picks among those of each question
data: {scenes: {size: 256}, count: 9000}                                  # or portraits, motion, or {path: DIRECTORY}
training: {stages: [{name: align, train: [connector], epochs: 1}, ...]}
evaluation: {split: test}
text_only: false              # true: the same run without images
reference: {parts: [language], model: {...}}             # the model as large as its paper's, and what of it to count
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from foveal.cli import _detection, _language, _objectives, _regions, _sight
from foveal.cli._examples import DataConfig
from foveal.core.config import dump, override, parse
from foveal.core.errors import InputError, unknown
from foveal.core.parsing import yaml_map
from foveal.training.config import Stage, Then, TrainingConfig, check_seed

SIGHT = ("vision", "connector", "allocator", "features")  # what a model without images lacks


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The model as large as its paper's: components in the place of the recipe's, and the parts that are counted."""

    parts: tuple[str, ...]
    model: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run, as its YAML says."""

    name: str
    data: DataConfig
    training: TrainingConfig
    system: str = ""
    family: str = ""
    paper: str = ""
    about: str = ""
    seed: int = 0
    model: Mapping[str, Any] = field(default_factory=dict)
    init: Mapping[str, str] = field(default_factory=dict)
    processor: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    text_only: bool = False
    reference: Reference | None = None

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share, beside its training settings."""
        wanted = ("data", "model", "init", "processor", "text_only")
        return {key: dump(getattr(self, key)) for key in wanted}


def names() -> list[str]:
    """The recipes that ship with Foveal."""
    return sorted(path.stem for path in _shipped().glob("*.yaml"))


def _shipped() -> Path:
    import foveal.recipes

    return Path(foveal.recipes.__path__[0])


def read(recipe: str, assignments: Sequence[str] = (), *, data: Path | None = None) -> Recipe:
    """A shipped recipe by name, or a YAML file, with `key=value` settings over it, and other `data` in its place.

    Raises InputError for an unknown recipe, key or component (with the nearest name), and a value of a wrong type.
    """
    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else _shipped() / f"{recipe}.yaml"
    if not path.is_file():
        if path.parent != _shipped():
            raise InputError(f"there is no recipe file {recipe}; name a YAML file or one of: {', '.join(names())}")
        raise unknown("recipe", recipe, names())
    given = yaml_map(path, holds="a recipe has model, data and training")
    chosen = override(given, assignments, Recipe.__dataclass_fields__)
    if data is not None:
        own = chosen.get("data")
        split = {"split": own["split"]} if isinstance(own, Mapping) and "split" in own else {}
        chosen["data"] = {"path": str(data), **split}
    return of(chosen, name=path.stem)


def of(given: Mapping[str, Any], *, name: str) -> Recipe:
    """A recipe out of plain mappings; every part of it is checked before anything is made."""
    from foveal.models import assembly
    from foveal.models.config import ModelConfig
    from foveal.preprocess.processor import ProcessorConfig

    if "name" in given:
        raise unknown("key in recipe:", "name", Recipe.__dataclass_fields__.keys() - {"name"})
    seed = given.get("seed", 0)
    if isinstance(seed, int):
        check_seed("seed", seed)
    training = given.get("training") or {}
    if isinstance(training, Mapping):
        given = {**given, "training": {"seed": seed, **training}}
    given = _sight.adopted(_language.adopted(given))
    recipe = parse(Recipe, {"name": name, **given}, where="recipe")
    if "from" in recipe.init:
        if recipe.model.keys() - {"allocator", "vision"} or recipe.processor or len(recipe.init) > 1:
            raise InputError(
                "init.from brings its own model and processor; leave those keys out of the recipe (a model.allocator "
                "may be added, and a model.vision that looks over its own: hybrid_vit)"
            )
    else:
        assembly.check(ModelConfig.parse(worded(recipe.model, 1)))
        made = ("tokenizer", "answers") if isinstance(recipe.processor.get("answers"), int) else ("tokenizer",)
        settings = {key: value for key, value in recipe.processor.items() if key not in made}
        _regions.check(parse(ProcessorConfig, _detection.named(settings), where="recipe.processor"))
    return blind(recipe) if recipe.text_only else recipe


def worded(model: Mapping[str, Any], words: int) -> dict[str, Any]:
    """A recipe's model whose language has so many words where it names no number; one without language as it is."""
    given = model.get("language")
    return dict(model) if given is None else {**model, "language": {"vocabulary": words, **component(given)}}


def component(given: Mapping[str, Any] | str) -> dict[str, Any]:
    return {"name": given} if isinstance(given, str) else dict(given)


def blind(recipe: Recipe) -> Recipe:
    """The same recipe without sight: no encoder, no connector, and no stage that trains those alone."""
    stages = []
    for stage in recipe.training.stages:
        lora = None if stage.lora is None or seeing(stage.lora.part) else stage.lora
        train, then = _unseeing(stage, adapted=lora is not None)
        rates = {part: rate for part, rate in stage.rates.items() if not seeing(part)}
        objective = _objectives.blind(stage)
        if objective is not None and (train or lora is not None):
            stages.append(replace(stage, train=train, then=then, lora=lora, rates=rates, objective=objective))
    if not stages:
        raise InputError("without images nothing is left to train; a stage must train the language model")
    return replace(
        recipe,
        text_only=True,
        model={key: value for key, value in recipe.model.items() if key not in SIGHT},
        init={key: value for key, value in recipe.init.items() if key not in SIGHT},
        training=replace(recipe.training, stages=tuple(stages), features=None),
    )


def seeing(part: str) -> bool:
    """Whether a part of the model is gone where it has no sight."""
    return part.split(".")[0] in (*SIGHT, "deeper")


def _unseeing(stage: Stage, *, adapted: bool) -> tuple[tuple[str, ...], tuple[Then, ...]]:
    """What a stage trains, and trains then, beside sight; with nothing adapted, what learns first begins."""

    def left(parts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(part for part in parts if not seeing(part))

    train, then = left(stage.train), [replace(one, train=left(one.train)) for one in stage.then]
    if not adapted:
        then = [one for one in then if one.train]
        train = train or (then.pop(0).train if then else ())
    return train, tuple(then)
