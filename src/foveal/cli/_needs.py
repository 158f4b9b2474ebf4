"""What the stages of a recipe need of its data, told before anything is trained."""

from collections.abc import Callable, Sequence

from foveal.cli._recipe import Recipe
from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.training.config import Stage

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
