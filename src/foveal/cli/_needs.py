"""What the stages of a recipe need of its data, told before anything is trained."""

from collections.abc import Callable, Sequence

from foveal.cli._objectives import SPENT, objective_of
from foveal.cli._recipe import Recipe
from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.training.config import Stage

_ANSWERS = ("next_token", "choose", "joint")  # objectives that learn from the answer of each example
_BOXES = ("cells", "match")  # those that learn from boxes
PLAIN = ("demo", "ovis")  # recipes that learn from questions and answers on pictures, of whatever kind


def check(recipe: Recipe, data: Sequence[Example]) -> None:
    """Raises InputError for a stage that asks for what the data lack, and names its setting and other recipes."""
    from foveal.evaluation.questions import captions
    from foveal.training.order import copies

    for number, stage in enumerate(recipe.training.stages):

        def some(stage: Stage = stage) -> None:
            if not copies(data, stage.kinds).any():
                raise InputError("its kinds leave no example to train on")

        needs: dict[str, Callable[[], object]] = {"kinds": some}
        needs["sources"] = lambda stage=stage: copies(data, {}, stage.sources)
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


def facts(recipe: Recipe, data: Sequence[Example]) -> None:
    """Raises InputError for an example without an answer that a stage learns from, and for data without any boxes."""
    from foveal.training.order import copies

    for number, stage in enumerate(recipe.training.stages):
        name, settings = objective_of(stage)
        wanted = copies(data, stage.kinds, stage.sources)
        seen = [example for example, visits in zip(data, wanted, strict=True) if visits]
        if name in _BOXES and not any(example.boxes for example in seen):
            raise InputError(
                f"stage {stage.name!r}: the objective {name!r} learns from boxes and its examples have none; give them "
                f"boxes, or change training.stages.{number}.objective"
            )
        of = settings.get("of", "next_token") if name in SPENT else name
        mute = [example for example in seen if not _answered(example)] if of in _ANSWERS else []
        if mute:
            more = f" (and {len(mute) - 1:,} more)" if len(mute) > 1 else ""
            raise InputError(
                f"stage {stage.name!r}: example {str(mute[0].id)!r} has no answer to learn from{more}; give it an "
                f"assistant message, leave it out of the data, or change training.stages.{number}.kinds"
            )


def _answered(example: Example) -> bool:
    """Whether an assistant says anything in it, a picture too, or its answers stand beside it."""
    said = [message["content"] for message in example.messages if message.get("role") == "assistant"]
    parts = [part for content in said for part in ([content] if isinstance(content, str) else content)]
    texts = [part if isinstance(part, str) else part.get("text", part["type"]) for part in parts]
    return any(text.strip() for text in texts) or bool(example.meta.get("answers"))
