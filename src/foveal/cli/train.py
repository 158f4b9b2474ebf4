"""`foveal train`: a recipe, trained, resumed where it was interrupted, and saved as a run."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from foveal.cli._recipe import Recipe


def command(
    recipe: str = typer.Argument(help="A recipe that ships with Foveal, by name, or a YAML file."),
    settings: list[str] | None = typer.Argument(
        None, metavar="[KEY=VALUE]...", help="Settings over the recipe's, such as training.stages.0.rate=1e-4."
    ),
    data: Path | None = typer.Option(None, "--data", help="Train on this data set, not on the recipe's."),
    out: Path | None = typer.Option(None, "--out", help="The run directory.", show_default="runs/RECIPE"),
    fresh: bool = typer.Option(False, "--fresh/--resume", help="Begin anew where the directory holds a run already."),
    text_only: bool = typer.Option(
        False, "--text-only", help="Then train the same recipe without images, into text_only within the run."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Train a recipe. Ctrl-C writes a checkpoint; the same command goes on from there."""
    import shlex
    import sys
    from functools import partial

    from foveal.cli import _recipe, _show
    from foveal.cli._training import carry_out
    from foveal.training.processes import part, processes
    from foveal.training.stop import Interrupted

    wanted = _recipe.read(recipe, settings or [], data=data)
    place = out or Path("runs") / wanted.name
    console = _show.console(quiet=True)
    main = processes(wanted.training.device).is_main_process

    def bar(what: str, total: int | None) -> Any:
        return _show.bar(console, what, total)

    say = console.print if main else lambda line: None
    train = partial(carry_out, fresh=fresh, say=say, bar=bar)
    blind = _recipe.blind(wanted) if text_only and not wanted.text_only else None
    try:
        told = train(wanted, place, twin=blind is not None)
        if blind is not None:
            told["text_only"] = train(blind, place / "text_only")
    except Interrupted as stopped:
        kept = "its checkpoint is written" if stopped.checkpoint else "nothing was trained yet"
        again = shlex.join(word for word in ["foveal", *sys.argv[1:]] if word != "--fresh")
        count = processes(wanted.training.device).num_processes
        within = "" if count == 1 else f", in {count} processes, as they were launched"
        if main:
            console.print(f"stopped at step {stopped.step}, {kept}; go on with: {again}{within}", soft_wrap=True)
        raise typer.Exit(stopped.exit_code) from None
    part()
    if main and as_json:
        _show.print_json(told)
    elif main:
        for line in _ended(told, wanted, place):
            console.print(line)


def _ended(told: dict[str, Any], wanted: "Recipe", place: Path) -> Iterator[str]:
    """What is said at the end: what was trained, and the commands that ask and score it."""
    import shlex

    from foveal.cli import _scored

    minutes, seconds = divmod(round(told["seconds"]), 60)
    loss = "" if told["loss"] is None else f", loss {told['loss']:.3f}"
    yield f"{place}: {told['steps']:,} steps in {minutes}:{seconds:02d}{loss}"
    run = shlex.quote(str(place))
    if (question := _question(wanted)) is not None:
        yield f"ask it:   foveal ask {question} --run {run}"
    split, how = _held_out(Path(told["data"]), wanted.data.split), _scored.option(place)
    if split is not None and how is not None:
        yield f"score it: foveal eval --run {run} --data {shlex.quote(told['data'])}{split}{how}"


def _question(wanted: "Recipe") -> str | None:
    """A question that what was trained can be asked, as it is typed; None: it answers none."""
    model, settings = wanted.model, wanted.processor
    if not ("language" in model or "from" in wanted.init) or model.get("assembly") == "two_tower":
        return None
    if model.get("assembly") == "masked" and {"answer", "choice"}.isdisjoint(model.get("heads") or {}):
        return None
    if wanted.data.motion is not None:
        return 'VIDEO "What happens?"'
    if settings.get("detection") is not None:
        return "PICTURE detect"
    choices = "".join(f" | ANSWER {number + 1}" for number in range(settings.get("choices") or 0))
    return f'PICTURE "What is in the picture?{choices}"'


def _held_out(data: Path, trained: str) -> str | None:
    """What makes `eval` ask of questions that were not trained on, as it is written after --data; None: none are."""
    from foveal.data.places import splits

    left = [split for split in ("test", "val", *splits(data)) if split in splits(data) and split != trained]
    return None if not left else "" if left[0] == "test" else f" --split {left[0]}"
