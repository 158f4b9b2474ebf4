"""`foveal compare`: systems trained on the same data in the same order, asked the same, and one report of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from foveal.cli._comparison import Job


def command(
    config: str = typer.Argument(help="A comparison that ships with Foveal (quick, families, ...), or a YAML file."),
    settings: list[str] | None = typer.Argument(
        None, metavar="[KEY=VALUE]...", help="Settings over the comparison's, such as seeds=[0,1]."
    ),
    data: Path | None = typer.Option(None, "--data", help="Train and ask on this data set, not on the comparison's."),
    out: Path | None = typer.Option(None, "--out", help="Where it is kept.", show_default="comparisons/CONFIG"),
    ablate: bool = typer.Option(False, "--ablate", help="Compare each system with those that differ in one setting."),
    count: int = typer.Option(
        1, "--jobs", help="Train so many at a time, each in a process (and on a device) of its own."
    ),
    only: list[str] | None = typer.Option(None, "--only", help="Carry out the training of this name alone; no report."),
    known: Path | None = typer.Option(None, "--known", help="Take over trainings that are done in this directory."),
    report: bool = typer.Option(False, "--report", help="Train and ask nothing; report what is done so far."),
    as_json: bool = typer.Option(False, "--json", help="Print results.json instead of a table."),
) -> None:
    """Compare systems at the same data, order and length of training. What is done is not done again."""
    import json
    import shlex

    from foveal.cli import _cells, _comparison, _jobs, _show
    from foveal.cli._compared import Found, show
    from foveal.training.stop import Interrupted

    _check_alone()
    own = [] if data is None else [f"data={json.dumps({'path': str(data)})}"]
    wanted = _comparison.read(config, [*own, *(settings or [])])
    place = out or Path("comparisons") / Path(config).stem
    jobs = _named(_comparison.jobs(wanted, ablate=ablate), only)
    console = _show.console(quiet=True)

    def bar(what: str, total: int | None) -> Any:
        return _show.bar(console, what, total)

    at = _cells.Place(out=place, say=console.print, bar=bar, known=known)
    arguments = ["compare", config, *(settings or []), "--out", str(place)]
    arguments += [*(["--data", str(data)] if data is not None else []), *(["--ablate"] if ablate else [])]
    arguments += ["--known", str(known)] if known is not None else []
    again = shlex.join(["foveal", *arguments])
    try:
        if report:
            jobs = _cells.done(jobs, at)
        elif only:
            for job in jobs:
                _cells.carry(job, at)
            return
        else:
            _jobs.carry_all(jobs, at, arguments=arguments, count=count)
    except Interrupted as stopped:
        console.print(f"stopped; what is done is kept, go on with: {again}", soft_wrap=True)
        raise typer.Exit(stopped.exit_code) from None
    found = Found(wanted, jobs, at)
    results, page = found.write([again])
    if as_json:
        _show.print_json({"results": str(results), "report": str(page), **found.plain()})
        return
    show(_show.console(), found)
    _show.console().print(f"\nresults: {results}\nreport: {page}")


def _check_alone() -> None:
    """Raises InputError under a launcher: lengths, data and what is known of a training are those of one process."""
    import os

    from foveal.core.errors import InputError

    if (count := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise InputError(
            f"{count} processes were launched, and a comparison trains each system in one; start it without a "
            "launcher, and give --jobs to train several systems at once"
        )


def _named(jobs: "list[Job]", only: list[str] | None) -> "list[Job]":
    """The trainings of these names, or all; raises InputError for a name of none."""
    from foveal.core.errors import InputError

    if not only:
        return jobs
    known = {job.name: job for job in jobs}
    for name in only:
        if name not in known:
            raise InputError(f"--only {name} names no training; give one of: {', '.join(known)}")
    return [known[name] for name in only]
