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

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.cli import _codes, _detection, _language, _objectives, _regions, _sight
from foveal.core.config import dump, later, override, parse
from foveal.core.errors import InputError, unknown, yaml_fault
from foveal.core.example import Example
from foveal.core.parsing import from_yaml
from foveal.data.motion import MotionConfig
from foveal.data.portraits import PortraitConfig
from foveal.data.scenes import SceneConfig
from foveal.training.config import Stage, Then, TrainingConfig, check_seed

if TYPE_CHECKING:
    from foveal.weights.run import Run

_SIGHT = ("vision", "connector", "allocator", "features")  # what a model without images lacks


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The examples: starter scenes, portraits or videos, made when first needed, or data sets by directory or file.

    Of several data sets, each is a source by the name of its directory or file, and stages may choose among them.
    """

    scenes: SceneConfig | None = None
    portraits: PortraitConfig | None = None
    count: int = 9000
    path: str | tuple[str, ...] | None = None
    split: str = "train"
    motion: MotionConfig | None = later(None)

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.scenes, self.portraits, self.motion, self.path)) != 1:
            raise InputError(
                "a recipe's data are 'scenes', 'portraits' or 'motion' (made here) or a 'path'; give one of them"
            )
        if self.count < 1:
            raise InputError(f"data.count is {self.count}; make 1 or more")
        places = Counter(Path(path) for path in paths(self))
        if self.path is not None and not places:
            raise InputError("data.path names no data set; give a directory or a file, or several of them")
        for place, count in places.items():
            if count > 1:
                raise InputError(f"data.path names {place} {count} times; name it once ('kinds' see it oftener)")


@dataclass(frozen=True, kw_only=True)
class ProcessorRecipe:
    """Where the tokenizer comes from (`words`: made of the data's words; `smollm2-135m`; a directory), and settings."""

    tokenizer: str = "words"
    settings: Mapping[str, Any] = field(default_factory=dict)


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
    import yaml

    path = Path(recipe) if recipe.endswith((".yaml", ".yml")) else _shipped() / f"{recipe}.yaml"
    if not path.is_file():
        if path.parent != _shipped():
            raise InputError(f"there is no recipe file {recipe}; name a YAML file or one of: {', '.join(names())}")
        raise unknown("recipe", recipe, names())
    try:
        given = from_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not YAML: {yaml_fault(error)}") from None
    if not isinstance(given, dict):
        raise InputError(f"{path} holds no mapping; a recipe has model, data and training")
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
    return dict(model) if given is None else {**model, "language": {"vocabulary": words, **_component(given)}}


def _component(given: Mapping[str, Any] | str) -> dict[str, Any]:
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
        model={key: value for key, value in recipe.model.items() if key not in _SIGHT},
        init={key: value for key, value in recipe.init.items() if key not in _SIGHT},
        training=replace(recipe.training, stages=tuple(stages), features=None),
    )


def seeing(part: str) -> bool:
    """Whether a part of the model is gone where it has no sight."""
    return part.split(".")[0] in (*_SIGHT, "deeper")


def _unseeing(stage: Stage, *, adapted: bool) -> tuple[tuple[str, ...], tuple[Then, ...]]:
    """What a stage trains, and trains then, beside sight; with nothing adapted, what learns first begins."""

    def left(parts: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(part for part in parts if not seeing(part))

    train, then = left(stage.train), [replace(one, train=left(one.train)) for one in stage.then]
    if not adapted:
        then = [one for one in then if one.train]
        train = train or (then.pop(0).train if then else ())
    return train, tuple(then)


def data_folder(recipe: Recipe, *, say: Any, bar: Any) -> Path:
    """The directory of the recipe's data; starter scenes are made once and kept in the user's cache.

    `say(line)` tells what is done, `bar(what, total)` shows how far. Raises InputError for data that are not there.
    """
    if recipe.data.path is not None:
        return paths(recipe.data)[0]
    from foveal.data.generate import MARK
    from foveal.training.processes import processes
    from foveal.weights.smollm2 import user_cache

    makers = {"scenes": make_scenes, "portraits": make_portraits, "motion": make_motion}
    kind, make = next(one for one in makers.items() if getattr(recipe.data, one[0]) is not None)
    described = json.dumps({kind: dump(getattr(recipe.data, kind)), "count": recipe.data.count}, sort_keys=True)
    folder = user_cache() / kind / hashlib.sha256(described.encode()).hexdigest()[:16]
    with processes(recipe.training.device).main_process_first():
        if not (folder / MARK).is_file():
            say(f"making {recipe.data.count:,} {kind} in {folder}")
            try:
                make(recipe.data, folder, bar=bar)
            except InputError:
                if (folder / MARK).is_file():  # another training has made the same meanwhile, and may read it
                    return folder
                if any(folder.glob("*")):
                    raise InputError(f"{folder} holds something else than data made here; remove it") from None
                raise
    return folder


def make_scenes(data: DataConfig, folder: Path, *, bar: Any) -> None:
    """Write a recipe's starter scenes to a directory, by a process for each core."""
    from foveal.core.machine import cores
    from foveal.data.generate import tasks, write_scenes

    assert data.scenes is not None
    with bar("scenes", sum(last - first for _, first, last in tasks(data.count, data.scenes))) as advance:
        write_scenes(folder, data.scenes, count=data.count, workers=cores(), progress=advance)


def make_portraits(data: DataConfig, folder: Path, *, bar: Any) -> None:
    """Write a recipe's starter portraits to a directory."""
    from foveal.data.portraits import write_portraits

    assert data.portraits is not None
    with bar("portraits", data.count) as advance:
        write_portraits(folder, data.portraits, count=data.count, progress=advance)


def make_motion(data: DataConfig, folder: Path, *, bar: Any) -> None:
    """Write a recipe's starter videos to a directory, by a process for each core."""
    from foveal.core.machine import cores
    from foveal.data.motion import write_motion

    assert data.motion is not None
    with bar("videos", data.count) as advance:
        write_motion(folder, data.motion, count=data.count, workers=cores(), progress=advance)


def examples(recipe: Recipe, folder: Path) -> list[Example]:
    """The training examples. Raises InputError with file and line for one that is wrong."""
    from foveal.data.format import read as read_examples

    found: list[Example] = []
    for path in paths(recipe.data) or [folder]:
        read = read_examples(path, split=recipe.data.split)
        if not read:
            raise InputError(f"{path} holds no examples in its split {recipe.data.split!r}; nothing to train on")
        read = _detection.shaped(recipe.processor, read, path)
        found += [replace(example, meta={**example.meta, "source": path.stem}) for example in read]
    return found


def paths(data: DataConfig) -> list[Path]:
    """Where the data sets are that a recipe names; none where they are made here."""
    given = (data.path,) if isinstance(data.path, str) else data.path or ()
    return [Path(path) for path in given]


def model_of(recipe: Recipe, data: Sequence[Example]) -> "Run":
    """The fresh model with its processor, or what it starts from."""
    import torch

    import foveal
    from foveal.models.budget import endow, unspent
    from foveal.models.looking_over import look_over
    from foveal.preprocess.processor import Processor, ProcessorConfig
    from foveal.weights.run import Run

    if "from" in recipe.init:
        started = foveal.load(recipe.init["from"])
        if recipe.text_only:
            started.model = unspent(started.model)
            started.model.vision = started.model.connector = None
            started.model._modules.pop("deeper", None)
            none = dict.fromkeys(_SIGHT)
            started.model.config = replace(started.model.config, **none)
        elif recipe.model.get("vision") is not None:  # before who spends, who may ask for its attention
            look_over(started.model, recipe.model["vision"])
            started.external.pop("vision", None)
        if recipe.model.get("allocator") is not None and not recipe.text_only:
            endow(started.model, recipe.model["allocator"])
        kept = () if recipe.text_only else ("external", "origin", "beside")
        return Run(started.model, started.processor, **{name: getattr(started, name, None) for name in kept})
    recipe = _codes.adopted(recipe)
    settings = _detection.named(recipe.processor, data)
    if isinstance(settings.get("answers"), int):
        settings["answers"] = _answers(data, settings["answers"])
    mask = any(_objectives.masking(stage) is not None for stage in recipe.training.stages)
    if (width := recipe.model.get("features")) is not None:
        settings["region_files"] = {**(settings.get("region_files") or {}), "width": width}
    special = [word for word in settings.get("around", ()) if word]
    tokenizer = _tokenizer(settings.pop("tokenizer", "words"), data, mask=mask, special=special)
    _codes.check(recipe.model, len(tokenizer))
    config = _regions.pinned(parse(ProcessorConfig, settings, where="recipe.processor"))
    processor = Processor(tokenizer=tokenizer, config=config)
    words = len(tokenizer) if processor.speller is None else processor.speller.vocabulary
    model = worded(recipe.model, words)
    if words > (known := (model.get("language") or {}).get("vocabulary", words)):
        raise InputError(
            f"the tokenizer has {words} words, the model's vocabulary {known}; "
            "leave model.language.vocabulary out, or raise it"
        )
    heads = _heads(recipe.model, processor)
    torch.manual_seed(recipe.seed)
    built = foveal.build({"model": {**model, **heads}, "init": recipe.init})
    built.processor = processor
    return built


def _answers(data: Sequence[Example], most: int) -> list[str]:
    """The most frequent answers of the data, as VQA has its vocabulary; captions are none.

    Raises InputError where there is no answer to take, or none is wanted.
    """
    if most < 1:
        raise InputError(f"processor.answers is {most}; give how many of the data's answers to choose among, 1 or more")
    found = Counter(example.answer for example in data if example.meta.get("kind") != "caption")
    del found[""]
    if not found:
        raise InputError("the data hold no answers to choose among; give examples an assistant message, not captions")
    return [answer for answer, _ in sorted(found.items(), key=lambda one: (-one[1], one[0]))[:most]]


def _heads(model: Mapping[str, Any], processor: Any) -> dict[str, Any]:
    """The heads, that for answers as wide as the answer vocabulary."""
    heads, answers = dict(model.get("heads") or {}), processor.config.answers
    if "answer" not in heads or answers is None:
        return {}
    heads["answer"] = {**_component(heads["answer"]), "labels": len(answers)}
    return {"heads": heads}


def _tokenizer(source: str, data: Sequence[Example], *, mask: bool, special: Sequence[str]) -> Any:
    from foveal.preprocess import store
    from foveal.preprocess.words import word_tokenizer
    from foveal.weights.smollm2 import smollm2

    if source == "smollm2-135m":
        return store.tokenizer(smollm2())
    if source != "words":
        return store.tokenizer(Path(source))
    texts = {part["text"] for example in data for part in _texts(example)}
    texts |= {choice for example in data for choice in example.choices}
    labels = {box.label for example in data for box in example.boxes}
    return word_tokenizer(sorted(texts), phrases=sorted(labels), mask=mask, special=special)


def _texts(example: Example) -> Iterator[Mapping[str, Any]]:
    for message in example.messages:
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        yield from (part for part in parts if part["type"] == "text")
