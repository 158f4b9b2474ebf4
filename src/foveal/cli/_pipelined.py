"""What a pipeline of Kubeflow can do with a recipe: train it at all, score its run, and export that."""

from foveal.cli import _deployed, _held_out, _scored
from foveal.cli._recipe import Recipe, worded
from foveal.cli.systems import MANY, begun
from foveal.core.errors import InputError
from foveal.deployment.kubeflow import After


def after(wanted: Recipe) -> tuple[After | None, list[str]]:
    """What steps come after its training (None: there is no pipeline), and what is told of those that do not."""
    if found := [*_deployed.claimed(wanted)]:
        (key, place), *_ = found
        return None, [f"no pipeline: {key} is {place}, which lies in the claim, and the steps of a pipeline have none"]
    model, notes, extras = begun(wanted), [], []
    if (score := _scored.options(model)) is None:
        notes.append("the pipeline does not score: the model has no head that foveal eval knows")
    elif _held_out.way(wanted) == "boxes":
        extras.append("detection")
    if (why := _whole(model)) is None:
        extras.append("onnx")
    else:
        notes.append(f"the pipeline does not export: {why}")
    return After(score=score, exports=why is None, extras=tuple(extras)), notes


def _whole(model: dict[str, object]) -> str | None:
    """Why what is made of these components is not exported as graphs; None: it is."""
    from foveal.inference.pieces import check
    from foveal.models.assembly import empty
    from foveal.models.config import ModelConfig

    try:
        check(empty(ModelConfig.parse(worded(model, MANY))))
    except InputError as error:
        return str(error)
    return None
