"""What `foveal eval` scores of a run, and the options that say nothing about it: refused, not passed over."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveal.core.errors import InputError

WAYS = {
    "drawings": "drawings are counted",
    "boxes": "boxes are scored",
    "pictures": "pictures are brought back",
    "pretraining": "the tasks of pretraining are scored",
    "budgets": "answers under a budget are scored",
    "answers": "answers in words are scored",
}
OPTIONS = {
    "report": ("is a page of answers with all tokens", ("answers",)),
    "out": ("holds drawings or found boxes", ("drawings", "boxes")),
    "pretraining": ("scores what a pretrained encoder tells", ("pretraining",)),
    "controls": ("is of answers under a budget", ("budgets",)),
    "draws": ("is of answers under a budget", ("budgets",)),
}


def way(run: Path | None, given: Mapping[str, Any], *, drawn: bool, spent: bool) -> str:
    """Which of the `WAYS` a run is scored in.

    Raises InputError for a given option that says nothing about it, a budget too, and for a run that answers nothing.
    """
    chosen = _way(run, drawn=drawn, pretraining=given["pretraining"], spent=spent)
    if spent and (given["pretraining"] or chosen in ("drawings", "pictures")):
        raise InputError("a budget is spent on answers and on boxes, and neither is scored here; leave it out")
    for name, (means, ways) in OPTIONS.items():
        if given.get(name) and chosen not in ways:
            raise InputError(f"--{name} {means}, and here {WAYS[chosen]}; leave it out")
    if chosen in ("budgets", "answers") and _pairs(run):
        raise InputError(
            f"{run} tells which texts and images belong together and answers no question; score it with foveal eval "
            "--pretraining"
        )
    return chosen


def _way(run: Path | None, *, drawn: bool, pretraining: bool, spent: bool) -> str:
    from foveal.cli import _detection, _reconstruction

    if drawn:
        return "drawings"
    if _detection.detects(run):
        return "boxes"
    if _reconstruction.reconstructs(run):
        return "pictures"
    return "pretraining" if pretraining else "budgets" if spent else "answers"


def option(run: Path) -> str | None:
    """What `eval` is to be told beside a run, as it is typed; None: it scores nothing that the run has a head for."""
    told = options(_model(run))
    return None if told is None else "".join(f" {word}" for word in told)


def options(model: Mapping[str, Any]) -> tuple[str, ...] | None:
    """What `eval` is to be told of a run that is made of these components; None: it scores none of its heads."""
    from foveal.cli._pretraining import PAIR, TASKS

    if answers(model):
        return ()
    heads = model.get("heads") or {}
    return None if heads.keys().isdisjoint((*TASKS, PAIR)) else ("--pretraining",)


def answers(model: Mapping[str, Any]) -> bool:
    """Whether what is made of these components can be asked."""
    heads = model.get("heads") or {}
    return model.get("assembly") not in ("masked", "two_tower") or not heads.keys().isdisjoint(("answer", "choice"))


def _pairs(run: Path | None) -> bool:
    return run is not None and _model(run).get("assembly") == "two_tower"


def _model(run: Path) -> Mapping[str, Any]:
    """What a run's model is made of, as its file says; nothing for what is no run."""
    from foveal.weights.directory import described

    return (described(run) or {}).get("model") or {}
