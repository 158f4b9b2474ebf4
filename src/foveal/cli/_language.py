"""A language model that is trained already in the place of a recipe's own, by one setting."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveal.core.lookup import names

_OWN = ("language", "head")  # what such a model brings, and so what no stage need teach


def adopted(given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe, as plain mappings, whose `model.language` may name a source: smollm2-135m, a run, or a directory.

    The source brings weights, settings, head, words, and its chat template and context. Stages that teach the language
    model alone are left out where others remain. Raises InputError for an unknown source.
    """
    model = given.get("model")
    source = model.get("language") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(source, str) or source in names("language"):
        return dict(given)
    from foveal.weights.pretrained import language_parts, place

    parts = language_parts(source)
    processor = {**(given.get("processor") or {}), "tokenizer": source, **_spoken(place(source), parts["language"])}
    changed = {
        "model": {**model, **parts},
        "init": {**(given.get("init") or {}), "language": source},
        "processor": processor,
    }
    training = given.get("training")
    if isinstance(training, Mapping) and isinstance(training.get("stages"), list):
        left = [stage for stage in training["stages"] if not _teaches_language(stage)]
        changed["training"] = {**training, "stages": left or training["stages"]}
    return {**given, **changed}


def _teaches_language(stage: Any) -> bool:
    if not isinstance(stage, Mapping) or stage.get("lora") or not isinstance(parts := stage.get("train"), list):
        return False
    then = stage.get("then")
    for one in then if isinstance(then, list) else ():
        parts = [*parts, *(one.get("train") or [] if isinstance(one, Mapping) else [])]
    return bool(parts) and all(str(part).split(".")[0] in _OWN for part in parts)


def _spoken(directory: Path, language: Mapping[str, Any]) -> dict[str, Any]:
    """The template that it was taught with, and how much it can read."""
    from foveal.preprocess import store
    from foveal.weights.directory import described

    if (run := described(directory)) is not None:
        own = run.get("processor") or {}
        return {name: own[name] for name in ("template", "context") if name in own}
    template = {"template": "tokenizer"} if store.tokenizer(directory).chat_template else {}
    return {"context": language["context"], **template}
