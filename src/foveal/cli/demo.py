"""`foveal demo`: a comparison in minutes on a laptop, one system of it trained here and now."""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from foveal.cli._compared import Found

COMPARISON = "quick"


def command(
    out: Path = typer.Argument("demo", help="The directory to fill: results.json, report.html, and what they are of."),
    fresh: bool = typer.Option(False, "--fresh/--resume", help="Begin anew where the directory holds a demo already."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object at the end."),
) -> None:
    """Train a small model on pictures made here and compare it with others. Ctrl-C can be resumed."""
    import shlex

    from rich.text import Text

    from foveal.cli import _cells, _comparison, _jobs, _show
    from foveal.cli._compared import Found, show
    from foveal.training.stop import Interrupted

    console, began = _show.console(quiet=as_json), time.perf_counter()
    again = shlex.join(["foveal", "demo", str(out)])

    def bar(what: str, total: int | None) -> Any:
        return _show.bar(console, what, total)

    def say(line: str) -> None:
        minutes, seconds = divmod(int(time.perf_counter() - began), 60)
        console.print(Text.assemble((f"{minutes}:{seconds:02d}", "dim"), f" {line}"))

    jobs = _comparison.jobs(wanted := _comparison.read(COMPARISON))
    place = _cells.Place(out=out, say=say, bar=bar, known=shipped())
    for job in jobs if fresh else ():  # what else may lie there is not ours
        place.record(job).file.unlink(missing_ok=True)
        shutil.rmtree(place.run(job), ignore_errors=True)
    try:
        _jobs.carry_all(jobs, place, arguments=(), count=1)
    except Interrupted as stopped:
        console.print(f"stopped; what is done is kept, go on with: {again}", soft_wrap=True)
        raise typer.Exit(stopped.exit_code) from None
    found = Found(wanted, jobs, place)
    results, report = found.write([again, f"foveal compare {COMPARISON}"])
    elapsed = time.perf_counter() - began
    if as_json:
        told = {"out": str(out), "results": str(results), "report": str(report), "total_seconds": round(elapsed, 1)}
        _show.print_json({**told, **found.plain()})
        return
    console.print()
    show(console, found)
    console.print(
        f"\n{int(elapsed) // 60}:{int(elapsed) % 60:02d} in all. Tables, charts, pictures and answers: {report}"
    )
    console.print(f"Ask it yourself: {_question(found)}", soft_wrap=True)


def shipped() -> Path:
    """Trainings of the demo's comparison that come with Foveal: all but the first system's."""
    return Path(__file__).parents[1] / "compared"


def _question(found: "Found") -> str:
    """The command that asks what was trained here the first question."""
    import shlex

    first = found.asked[0]
    run = found.place.run(found.jobs[0])
    return shlex.join(["foveal", "ask", str(first.example.images[0]), first.text, "--run", str(run)])
