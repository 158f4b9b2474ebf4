"""The model that a recipe trains, with its processor: made for its data, or what it starts from."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.cli import _codes, _detection, _objectives, _regions
from foveal.cli._recipe import SIGHT, Recipe, component, worded
from foveal.core.config import parse
from foveal.core.errors import InputError
from foveal.core.example import Example

if TYPE_CHECKING:
    from foveal.preprocess.processor import Processor
    from foveal.weights.run import Run


def model_of(recipe: Recipe, data: Sequence[Example]) -> "Run":
    """The fresh model with its processor, or what it starts from."""
    return _started(recipe) if "from" in recipe.init else _fresh(_codes.adopted(recipe), data)


def _started(recipe: Recipe) -> "Run":
    """The model and processor of a run, with what the recipe adds or, without images, takes away."""
    import torch

    import foveal
    from foveal.inference import exported
    from foveal.models.budget import endow, unspent
    from foveal.models.looking_over import look_over
    from foveal.weights.run import Run

    if exported.matches(Path(recipe.init["from"])):
        raise InputError(f"init.from {recipe.init['from']} is an exported run, which learns no more; name another")
    started = foveal.load(recipe.init["from"], dtype=torch.float32)  # a stage says what is computed in half of it
    torch.manual_seed(recipe.seed)  # what is added is fresh
    if recipe.text_only:
        started.model = unspent(started.model)
        started.model.vision = started.model.connector = None
        started.model._modules.pop("deeper", None)
        none = dict.fromkeys(SIGHT)
        started.model.config = replace(started.model.config, **none)
    elif recipe.model.get("vision") is not None:  # before who spends, who may ask for its attention
        look_over(started.model, recipe.model["vision"])
        started.external.pop("vision", None)
    if recipe.model.get("allocator") is not None and not recipe.text_only:
        endow(started.model, recipe.model["allocator"])
    kept = () if recipe.text_only else ("external", "origin", "beside")
    return Run(started.model, started.processor, **{name: getattr(started, name, None) for name in kept})


def _fresh(recipe: Recipe, data: Sequence[Example]) -> "Run":
    """A model whose weights nobody has trained but those that `init` names, and a processor made for the data."""
    import torch

    import foveal

    processor = _processor(recipe, data)
    words = len(processor.tokenizer) if processor.speller is None else processor.speller.vocabulary
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


def _processor(recipe: Recipe, data: Sequence[Example]) -> "Processor":
    """The processor of the recipe's settings, with the words, classes and answers of the data."""
    from foveal.preprocess.processor import Processor, ProcessorConfig

    settings = _detection.named(recipe.processor, data)
    if isinstance(settings.get("answers"), int):
        settings["answers"] = _answers(data, settings["answers"])
    if (width := recipe.model.get("features")) is not None:
        settings["region_files"] = {**(settings.get("region_files") or {}), "width": width}
    mask = any(_objectives.masking(stage) is not None for stage in recipe.training.stages)
    special = [word for word in settings.get("around", ()) if word]
    tokenizer = _tokenizer(settings.pop("tokenizer", "words"), data, mask=mask, special=special)
    _codes.check(recipe.model, len(tokenizer))
    config = _regions.pinned(parse(ProcessorConfig, settings, where="recipe.processor"))
    return Processor(tokenizer=tokenizer, config=config)


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
    heads["answer"] = {**component(heads["answer"]), "labels": len(answers)}
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
