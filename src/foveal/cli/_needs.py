"""What the stages of a recipe need of its data, told before anything is trained."""

from collections.abc import Callable, Sequence

from foveal.cli._examples import paths
from foveal.cli._objectives import objective_of, wants
from foveal.cli._recipe import Recipe, seeing
from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.training.config import Stage

PLAIN = ("demo", "ovis")  # recipes that learn from questions and answers on pictures, of whatever kind


def check(recipe: Recipe, data: Sequence[Example]) -> None:
    """Raises InputError for a stage that asks for what the data lack, and names its setting and other recipes."""
    from foveal.evaluation.questions import captions
    from foveal.training.order import copies

    for number, stage in enumerate(recipe.training.stages):
        _reached(number, stage)

        def some(stage: Stage = stage) -> None:
            if not copies(data, stage.kinds).any():
                raise InputError("its kinds leave no example to train on")

        needs: dict[str, Callable[[], object]] = {"kinds": some}
        needs["sources"] = lambda stage=stage: (_apart(recipe, stage), copies(data, {}, stage.sources))
        if stage.images == "told" and not recipe.text_only:
            needs["images"] = lambda: captions(data)
        for setting, need in needs.items():
            try:
                need()
            except InputError as error:
                raise InputError(
                    f"stage {stage.name!r}: {error}; change training.stages.{number}.{setting} (or the data), "
                    f"or take a recipe that asks for nothing of the kind, such as {' or '.join(PLAIN)}"
                ) from None


def _reached(number: int, stage: Stage) -> None:
    """Raises InputError for a stage without images that at some time trains what nothing but images reaches."""
    for _, phase in stage.phases() if stage.images != "shown" else ():
        parts = dict.fromkeys((*phase.train, *(() if phase.lora is None else (phase.lora.part,))))
        if all(map(seeing, parts)):
            raise InputError(
                f"stage {stage.name!r} has images {stage.images} and trains {', '.join(parts)} alone, which nothing "
                f"but images reaches; train language or head too, or change training.stages.{number}.images"
            )


def _apart(recipe: Recipe, stage: Stage) -> None:
    """Raises InputError for a source of the stage that several data sets are called by."""
    for name in stage.sources:
        places = [str(path) for path in paths(recipe.data) if path.stem == name]
        if len(places) > 1:
            raise InputError(f"the source {name!r} is {' and '.join(places)}; rename all but one of these data sets")


def answered(recipe: Recipe, data: Sequence[Example], say: Callable[[str], None]) -> list[Example]:
    """The examples without those that lack the answer which a stage would learn from; it is said how many these are.

    Raises InputError for a stage that would be left with none, and takes the errors of `check` for what is left.
    """
    mute: dict[int, Example] = {}
    for number, stage in enumerate(recipe.training.stages):
        if not wants(stage).answers:
            continue
        seen = _seen(stage, data)
        silent = {row: example for row, example in seen.items() if not _said(example)}
        if silent and len(silent) == len(seen):
            raise InputError(
                f"stage {stage.name!r}: none of its {len(seen):,} examples has an answer to learn from; give them "
                f"assistant messages, or change training.stages.{number}.kinds"
            )
        mute |= silent
    left = [example for row, example in enumerate(data) if row not in mute]
    if mute:
        first = str(mute[min(mute)].id)
        say(f"left out of training: {len(mute):,} of {len(data):,} examples, without an answer (first {first!r})")
        check(recipe, left)
    return left


def facts(recipe: Recipe, data: Sequence[Example]) -> None:
    """Raises InputError for data without any boxes where a stage learns from them."""
    for number, stage in enumerate(recipe.training.stages):
        name, _ = objective_of(stage)
        if wants(stage).boxes and not any(example.boxes for example in _seen(stage, data).values()):
            raise InputError(
                f"stage {stage.name!r}: the objective {name!r} learns from boxes and its examples have none; give them "
                f"boxes, or change training.stages.{number}.objective"
            )


def _seen(stage: Stage, data: Sequence[Example]) -> dict[int, Example]:
    """The examples that a stage sees, by their numbers."""
    from foveal.training.order import copies

    wanted = copies(data, stage.kinds, stage.sources)
    return {row: example for row, (example, often) in enumerate(zip(data, wanted, strict=True)) if often}


def _said(example: Example) -> bool:
    """Whether an assistant says anything in it, or shows a picture; training reads no answers that stand beside."""
    said = [message["content"] for message in example.messages if message.get("role") == "assistant"]
    parts = [part for content in said for part in ([content] if isinstance(content, str) else content)]
    texts = [part if isinstance(part, str) else part.get("text", part["type"]) for part in parts]
    return any(text.strip() for text in texts)
