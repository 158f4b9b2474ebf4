"""`foveal demo`: data, training, scores and a report in one go, in minutes on a laptop."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from foveal.cli._evaluate import Evaluation
    from foveal.cli._recipe import Recipe

TWIN_MINUTES = 1.5  # the run without images has shorter rows, so its steps take a fraction of the time


def command(
    out: Path = typer.Argument("demo", help="The directory to fill: data, run and report.html."),
    fresh: bool = typer.Option(False, "--fresh/--resume", help="Begin anew where the directory holds a demo already."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object at the end."),
) -> None:
    """Train a small model on pictures made here, score it, ask it, and write a report. Ctrl-C can be resumed."""
    from foveal.cli import _show
    from foveal.cli._runs import missing
    from foveal.training.stop import Interrupted

    console = _show.console(quiet=as_json)
    demo = _Demo(out, console=console, fresh=fresh)
    try:
        found = demo()
    except ModuleNotFoundError as error:
        raise missing(error) from None
    except Interrupted as stopped:
        console.print(f"stopped at step {stopped.step}; go on with: foveal demo {out}")
        raise typer.Exit(stopped.exit_code) from None
    if as_json:
        _show.print_json({"out": str(out), "report": str(demo.page), "total_seconds": demo.elapsed(), **found.plain()})
        return
    _tell(console, demo, found)


class _Demo:
    """The stages of a demo, each told as it begins."""

    def __init__(self, out: Path, *, console: "Console", fresh: bool) -> None:
        self.out, self.console, self.fresh = out, console, fresh
        self.data, self.run, self.page = out / "data", out / "run", out / "report.html"
        self.began, self.stage = time.perf_counter(), 0

    def __call__(self) -> "Evaluation":
        from foveal.cli import _recipe

        recipe = _recipe.read("demo")
        self._make(recipe)
        own = [f"training.features.folder={self.out / 'features'}"]  # kept beside the rest, and removed with it
        seeing = _recipe.read("demo", own, data=self.data)
        minutes = sum(stage.minutes or 0 for stage in recipe.training.stages)
        self._say(f"encoding the pictures, then training for {minutes:g} minutes")
        self._train(seeing, self.run)
        self._say("training the same without images, for the baseline")
        self._train(self._twin(seeing), self.run / "text_only")
        return self._score(recipe)

    def elapsed(self) -> float:
        """Seconds since the demo began."""
        return round(time.perf_counter() - self.began, 1)

    def _say(self, what: str) -> None:
        self.stage += 1
        minutes, seconds = divmod(int(self.elapsed()), 60)
        self.console.print(f"[bold]{self.stage}/4[/] {what} [dim]({minutes}:{seconds:02d})[/]", markup=True)

    def _make(self, recipe: "Recipe") -> None:
        """Pictures and questions, unless the very same are there."""
        import json

        from foveal.cli import _recipe
        from foveal.core.config import dump
        from foveal.data.generate import MARK

        self._say(f"making {recipe.data.count:,} pictures with questions in {self.data}")
        mark = self.data / MARK
        known = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() else {}
        wanted = json.loads(json.dumps({"count": recipe.data.count, "config": dump(recipe.data.scenes)}))
        if {name: known.get(name) for name in wanted} != wanted:
            _recipe.make_scenes(recipe.data, self.data, bar=self._bar)

    def _train(self, recipe: "Recipe", out: Path) -> None:
        from foveal.cli._training import carry_out

        carry_out(recipe, out, fresh=self.fresh, say=self.console.print, bar=self._bar)

    def _twin(self, recipe: "Recipe") -> "Recipe":
        """The recipe without images, for as many steps as the answers had with them."""
        from dataclasses import replace

        from foveal.cli import _recipe
        from foveal.cli._report import steps

        taken, blind = steps(self.run), _recipe.blind(recipe)
        stages = tuple(replace(stage, minutes=None, steps=taken[stage.name]) for stage in blind.training.stages)
        return replace(blind, training=replace(blind.training, stages=stages, max_minutes=TWIN_MINUTES))

    def _score(self, recipe: "Recipe") -> "Evaluation":
        import shutil

        from foveal.cli import _report
        from foveal.cli._evaluate import Wanted, evaluate

        split, limit = recipe.evaluation["split"], recipe.evaluation["limit"]
        self._say("asking about pictures that it never saw")
        found = evaluate(Wanted(run=self.run, data=self.data, split=split, limit=limit), progress=self._bar)
        title = "A vision-language model, trained here from scratch"
        summary = (
            f"It learned for {found.about['seconds'] / 60:.1f} minutes to see and to answer; its encoder had seen "
            f"ImageNet before. Then it was asked {len(found.asked):,} questions about {found.compared.scenes:,} "
            "pictures that it had never seen."
        )
        _report.write(self.page, found, run=self.run, data=self.data, split=split, title=title, summary=summary)
        shutil.rmtree(self.out / "features", ignore_errors=True)
        return found

    def _bar(self, what: str, total: int | None) -> Any:
        from foveal.cli import _show

        return _show.bar(self.console, what, total)


def _tell(console: "Console", demo: _Demo, found: "Evaluation") -> None:
    """The table, some answers, and where to go from here."""
    import shlex

    from foveal.cli import _report, _show
    from foveal.cli.eval import show

    console.print()
    show(console, found)
    replies = [picture.replies[0] for picture in _report.pictures(found.asked, found.answers)][:6]
    marks = {True: "right", False: "wrong"}
    rows = [[reply.question, reply.answer or "(silence)", reply.truth, marks[reply.right]] for reply in replies]
    console.print()
    console.print(_show.table(["question", "answer", "truth", ""], rows, left=["answer", "truth", ""]))
    first = found.asked[0].example.images[0]
    minutes, seconds = divmod(round(demo.elapsed()), 60)
    console.print(f"\n{minutes}:{seconds:02d} in all. The report, pictures and answers: {demo.page}")
    ask = shlex.join(["foveal", "ask", str(first), found.asked[0].text, "--run", str(demo.run)])
    console.print(f"Ask it yourself: {ask}")
