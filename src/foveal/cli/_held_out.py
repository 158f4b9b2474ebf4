"""How well a run does on examples that it was not trained on, in one number: as `foveal eval --json` calls it, or the
`loss` of what its last stage learns by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from foveal.cli._recipe import Recipe
from foveal.core.errors import InputError, unknown
from foveal.core.example import Example
from foveal.data.places import files, fingerprint

LOSS = "loss"
Told = Callable[[str, int], Any]  # a context manager that yields what counts what is finished


@dataclass(frozen=True, kw_only=True)
class Held:
    """A held-out split, of the data that are trained on or of another `path`, and how much of it is asked.

    `limit` counts questions, pictures or examples, whatever is scored.
    """

    split: str = "val"
    path: str | None = None
    limit: int | None = 1000
    batch: int = 64
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        for name in ("limit", "batch", "max_new_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} is {value}; give 1 or more")

    def place(self, folder: Path) -> Path:
        """Where it lies: in the `folder` of the data that are trained on, if nowhere else."""
        return folder if self.path is None else Path(self.path)


def way(recipe: Recipe) -> str:
    """What is scored of a recipe's run: answers, boxes, pictures, or what it was pretrained for."""
    from foveal.cli._scored import answers
    from foveal.weights.directory import described

    made = described(Path(recipe.init["from"])) or {} if "from" in recipe.init else {}
    model = {**(made.get("model") or {}), **recipe.model}
    if ({**(made.get("processor") or {}), **recipe.processor}).get("detection") is not None:
        return "boxes"
    if model.get("assembly") == "autoencoder":
        return "pictures"
    return "answers" if answers(model) else "pretraining"


def check_metric(name: str, recipe: Recipe) -> None:
    """Raises InputError for a metric that a run of this recipe has none of."""
    from foveal.cli._scored import WAYS
    from foveal.evaluation.measure import metrics

    of = {
        "answers": ("exact_match", "mean_over_kinds", *metrics()),
        "boxes": ("AP", "AP50", "AP75"),
        "pictures": ("psnr",),
        "pretraining": (),
    }
    found = way(recipe)
    if name not in (known := (*of[found], LOSS)):
        raise unknown(f"metric of {recipe.name}, where {WAYS[found]}:", name, set(known))


def check_apart(recipe: Recipe, folder: Path, asked: Mapping[str, Held | None]) -> None:
    """Raises InputError for a split that is not there, and for one that is trained on or stands for two things."""
    known = {fingerprint([file]): "training" for file in _trained(recipe, folder)}
    for what, held in asked.items():
        for file in files(held.place(folder), held.split) if held is not None else ():
            if (before := known.setdefault(fingerprint([file]), what)) != what:
                raise InputError(
                    f"{what} is to be on {file}, which holds what {before} is on; name another split or path"
                )


def content(recipe: Recipe, folder: Path, held: Held, *more: Held) -> str:
    """The fingerprint of what is trained on and held out."""
    found = [file for one in (held, *more) for file in files(one.place(folder), one.split)]
    return fingerprint([*_trained(recipe, folder), *found])


def _trained(recipe: Recipe, folder: Path) -> list[Path]:
    from foveal.cli._examples import paths

    return [file for path in paths(recipe.data) or [folder] for file in files(path, recipe.data.split)]


def better(metric: str, one: float, other: float) -> bool:
    """Whether a score is better than another."""
    return one < other if metric == LOSS else one > other


def scored(run: Path, held: Held, metric: str, *, folder: Path, recipe: Recipe, progress: Told) -> dict[str, Any]:
    """The `score` of a run directory, its 95% `interval` where there is one, and all that `foveal eval` tells of it.

    Takes the errors of scoring.
    """
    from foveal.cli import _detection, _metrics, _reconstruction
    from foveal.cli._evaluate import Wanted, evaluate

    data, asked = held.place(folder), way(recipe)
    common: Any = {"split": held.split, "limit": held.limit, "batch": held.batch}
    if metric == LOSS:
        return _of(loss(run, held, data=data, recipe=recipe), LOSS)
    if asked == "boxes":
        told = _detection.detection(run, data, results=None, sampling=None, spending=None, progress=progress, **common)
        return _of(told, metric)
    if asked == "pictures":
        return _of(_reconstruction.reconstruction(run, data, progress=progress, **common), metric)
    wanted = Wanted(run=run, data=data, max_new_tokens=held.max_new_tokens, **common)
    if metric in ("exact_match", "mean_over_kinds"):
        return _of(evaluate(wanted, progress=progress).plain(), metric)
    told = _metrics.measured(metric, wanted, named=True, progress=progress)
    first = next(iter(told["figures"].values()))
    return {"score": first["value"], "interval": first["interval"], "told": told}


def _of(told: dict[str, Any], metric: str) -> dict[str, Any]:
    intervals = {"exact_match": told.get("interval"), "mean_over_kinds": told.get("mean_over_kinds_interval")}
    return {"score": told[metric], "interval": intervals.get(metric), "told": told}


def loss(run: Path, held: Held, *, data: Path, recipe: Recipe) -> dict[str, Any]:
    """The mean loss of the last stage's objective over held-out examples, each as often as the stage would see it.

    Batches are as large as the stage's; what the objective draws is the same each time.
    """
    import torch

    from foveal.cli._cost import order_of
    from foveal.cli._runs import open_run
    from foveal.cli._show import no_bar
    from foveal.cli._training import Batches
    from foveal.training.objective import objective
    from foveal.training.step import Scored, Sums

    loaded, stage = open_run(run), recipe.training.stages[-1]
    examples = held_examples(recipe, held, data)
    batches = Batches(loaded, recipe, examples, say=lambda line: None, bar=no_bar)(stage)
    order = order_of(recipe, replace(stage, sources=()), examples)
    visits = min(len(order), held.limit or len(order))
    device = next(loaded.model.parameters()).device
    whole, sums = Scored(loaded.model, objective(stage.objective), precision=stage.precision), Sums(device)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for start in range(0, visits, stage.batch_size):
            rows = [order.at(place) for place in range(start, min(visits, start + stage.batch_size))]
            groups = [[examples[row] for row in group] for group in rows]
            sums.add(whole(batches(groups, start).to(device)))
    if not float(sums.count):
        raise InputError(f"nothing in the split {held.split} of {data} carries a loss; name another split, or a path")
    parts = {name: float(part / of) for name, (part, of) in sums.parts.items() if float(of)}
    return {LOSS: float(sums.loss / sums.count), "parts": parts, "count": float(sums.count), "visits": visits}


def held_examples(recipe: Recipe, held: Held, data: Path) -> Sequence[Example]:
    """The held-out examples that the last stage could learn from; raises InputError where there are none."""
    from foveal.cli import _detection, _needs
    from foveal.data.format import read

    last = replace(recipe, training=replace(recipe.training, stages=(replace(recipe.training.stages[-1], sources=()),)))
    found = _detection.shaped(recipe.processor, read(data, split=held.split), data)
    if not found:
        raise InputError(f"{data} holds no examples in its split {held.split!r}; nothing to score on")
    _needs.check(last, found)
    return _needs.answered(last, found, lambda line: None)
