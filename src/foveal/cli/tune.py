"""`foveal tune`: a search for settings, whose trials Ray Tune carries out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from foveal.cli._trial import Task
    from foveal.cli._tuning import Trial, Tuning


def command(
    config: str = typer.Argument(help="A YAML file: a recipe, and a search over some of its keys (docs/tune.md)."),
    settings: list[str] | None = typer.Argument(
        None, metavar="[KEY=VALUE]...", help="Settings over the file's, such as trials=20."
    ),
    out: Path | None = typer.Option(None, "--out", help="Where it is kept.", show_default="searches/CONFIG"),
    as_json: bool = typer.Option(False, "--json", help="Print results.json instead of a table."),
) -> None:
    """Search for settings that do best on held-out data. What is done is not done again."""
    import shlex
    import sys

    from foveal.cli import _search, _show, _tuned, _tuning
    from foveal.cli._alone import alone
    from foveal.training.stop import Interrupted

    _search.check_ray()
    wanted = _tuning.read(config, settings or [])
    trials = _tuning.trials(wanted)
    seats = _search.Seats.of(wanted)
    console = _show.console(quiet=True)
    place = (out or Path("searches") / Path(config).stem).resolve()
    task, trials = _task(wanted, trials, place, seats.threads, console)
    with alone(place):
        console.print(f"{len(trials) - len(_search.left(trials, task))} of {len(trials)} trials are done")
        try:
            with _tuned.watched(console, lambda: _tuned.Found(wanted, trials, task)):
                _search.search(trials, task, wanted, seats)
        except Interrupted as stopped:
            console.print(f"stopped; what is done is kept, go on with: {shlex.join(['foveal', *sys.argv[1:]])}")
            raise typer.Exit(stopped.exit_code) from None
        found = _tuned.Found(wanted, trials, task)
        found.score_test(lambda what, total: _show.bar(console, what, total))
        results = found.write()
    if as_json:
        _show.print_json({"results": task.shown(results), **found.plain()})
    else:
        _tuned.show(_show.console(), found, results)
    found.check_best()


def _task(wanted: "Tuning", trials: "list[Trial]", out: Path, threads: int, console: Any) -> "tuple[Task, list[Trial]]":
    """What trials are handed, and these as trials on the data as they are now.

    Raises InputError for data, splits and a place that cannot be.
    """
    from foveal.cli import _examples, _held_out, _show
    from foveal.cli._trial import Task

    recipe = trials[0].recipe
    _held_out.check_metric(wanted.metric, recipe)
    folder = _examples.data_folder(recipe, say=console.print, bar=lambda what, total: _show.bar(console, what, total))
    _held_out.check_apart(recipe, folder, {"evaluation": wanted.evaluation, "test": wanted.test})
    trials = [trial.on(_held_out.content(trial.recipe, folder, wanted.evaluation)) for trial in trials]
    if wanted.metric == _held_out.LOSS:
        _held_out.held_examples(recipe, wanted.evaluation, wanted.evaluation.place(folder))
    given: Any = {"metric": wanted.metric, "evaluation": wanted.evaluation, "shares": wanted.shares}
    task = Task(out=out, home=Path.cwd(), folder=folder.resolve(), threads=threads, **given)
    task.check(trials)
    return task, trials
