"""What a comparison found, put together: `results.json`, `report.html`, and a table for who waits."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from foveal.cli import _cells, _examples, _report
from foveal.cli._comparison import Comparison, Job
from foveal.core.config import dump
from foveal.core.errors import InputError
from foveal.evaluation import summary
from foveal.evaluation.baselines import Majority
from foveal.evaluation.cells import DONE, SCHEMA
from foveal.evaluation.comparison import Dispute, Page, Said, page
from foveal.evaluation.measure import metric
from foveal.evaluation.questions import Question
from foveal.evaluation.score import Scores, is_right, score
from foveal.evaluation.summary import BLIND, Gap, Row

if TYPE_CHECKING:
    from rich.console import Console

DISPUTES, ASIDE = 8, 8  # questions that are shown, and answers beside each
EDGE = 320  # pixels of a picture's longer side
HEAVY = ("answers", "looks")  # what the cells keep and the results leave out


class Found:
    """The records of a comparison, scored."""

    def __init__(self, wanted: Comparison, jobs: Sequence[Job], place: _cells.Place) -> None:
        self.wanted, self.jobs, self.place = wanted, jobs, place
        self.data = _examples.data_folder(jobs[0].recipe, say=place.say, bar=place.bar)
        self.asked: tuple[Question, ...] = _cells.questions_of(jobs[0])
        self.records = [place.record(job).told for job in jobs]
        self.rows: list[Row] = summary.rows(self.asked, self.records, metric=wanted.evaluation.metric)
        self.gaps: list[Gap] = summary.gaps(self.asked, self.rows)
        self.baselines = self._baselines()

    def _baselines(self) -> dict[str, Scores]:
        from foveal.cli._evaluate import training_questions

        training, source = training_questions(self.data, self.wanted.evaluation.split)
        majority = Majority.of(training if source else self.asked)
        given = {"majority": majority.answers(self.asked), "same words": majority.answers_by_question(self.asked)}
        return {name: score(self.asked, answers) for name, answers in given.items()}

    @property
    def figure(self) -> str:
        """What the metric's figure is called that stands beside exact match; nothing where none is wanted."""
        name = self.wanted.evaluation.metric
        return metric(name).FIGURES[0].replace("_", " ") if name else ""

    @property
    def failures(self) -> list[dict[str, str]]:
        """What did not come to its end, and why."""
        told = []
        for job, record in zip(self.jobs, self.records, strict=True):
            parts = [("training", record.get("training", {"state": "missing", "error": "not begun"}))]
            parts += [(f"{cell['strategy']} {cell['wanted'] or ''}".strip(), cell) for cell in record.get("cells", ())]
            for what, part in parts:
                if part["state"] != DONE:
                    told.append({"what": f"{job.name}: {what}", "state": part["state"], "error": part["error"]})
        return told

    def plain(self) -> dict[str, Any]:
        """All of it as JSON tells it; answers stay with the cells."""
        trainings = []
        for record in self.records:
            cells = [{key: part for key, part in cell.items() if key not in HEAVY} for cell in record.get("cells", ())]
            trainings.append({**record, "cells": cells})
        gaps = [
            {
                "ours": gap.ours.name,
                "theirs": gap.theirs.name,
                "length": gap.ours.length,
                **summary.rate(gap.rate),
                "sure": gap.sure,
            }
            for gap in self.gaps
        ]
        baselines = {
            name: {"exact_match": summary.rate(one.exact_match), "mean_over_kinds": summary.rate(one.mean_over_kinds)}
            for name, one in self.baselines.items()
        }
        return {
            "schema": SCHEMA,
            "comparison": dump(self.wanted),
            "questions": len(self.asked),
            "scenes": len({question.scene for question in self.asked}),
            "asked": _cells.fingerprint(self.asked),
            "rows": [summary.plain(row) for row in self.rows],
            "baselines": baselines,
            "significance": gaps,
            "failures": self.failures,
            "trainings": trainings,
        }

    def write(self, commands: Sequence[str]) -> tuple[Path, Path]:
        """Write both files; InputError where that is not possible."""
        results, report = self.place.out / "results.json", self.place.out / "report.html"
        try:
            results.write_text(json.dumps(self.plain(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            report.write_text(page(self._page(commands)), encoding="utf-8")
        except OSError as error:
            raise InputError(f"cannot write into {self.place.out} ({error.strerror}); give another --out") from None
        return results, report

    def _page(self, commands: Sequence[str]) -> Page:
        scenes, seeds = len({question.scene for question in self.asked}), len(self.wanted.seeds)
        systems = len({row.system for row in self.rows})
        pictures = f"{scenes:,} pictures" if scenes != 1 else "one picture, of which no interval can tell,"
        summed = (
            f"{systems} systems, {seeds} training{'s' if seeds > 1 else ''} each, on the same pictures; then the same "
            f"{len(self.asked):,} questions about {pictures} of the split {self.wanted.evaluation.split}."
        )
        losses = {
            job.name: {name: [(x, y) for x, y in points] for name, points in record["training"]["losses"].items()}
            for job, record in zip(self.jobs, self.records, strict=True)
            if record.get("training", {}).get("losses") and record["seed"] == self.wanted.seeds[0]
        }
        return Page(
            title=_sentence(self.wanted.about) or "A comparison",
            summary=summed,
            rows=self.rows,
            figure=self.figure,
            gaps=self.gaps,
            baselines=self.baselines,
            losses=losses,
            disputes=self._disputes(),
            failures=self.failures,
            made=self._made(),
            commands=commands,
            attribution=_report.attribution(self.data),
        )

    def _made(self) -> dict[str, str]:
        made = [record["made"] for record in self.records if "made" in record]
        orders: dict[tuple[int, str], set[str]] = {}
        for record in self.records:
            if order := record.get("training", {}).get("order"):
                orders.setdefault((record["seed"], "all"), set()).add(order)
        same = "the same for all" if all(len(found) == 1 for found in orders.values()) else "not the same for all"
        told = {
            "order of the pictures": f"{same}, by the first of the last stage" if orders else "",
            "revision": ", ".join(sorted({str(one["revision"]) for one in made})),
            "versions": "; ".join(sorted({_versions(one["versions"]) for one in made})),
            "hardware": "; ".join(sorted({one["hardware"] for one in made})),
            "data": f"{self.data.name}, split {self.wanted.evaluation.split}: {json.dumps(dump(self.wanted.data))}",
        }
        return {name: value for name, value in told.items() if value}

    def _disputes(self) -> list[Dispute]:
        """Questions on which answers differ most, of those that every row was watched at."""
        split = []
        first = [row for row in self.rows if row.strategy != BLIND and row.length == self.rows[0].length]
        for number in _cells.looked_at(self.asked):
            right = [is_right(self.asked[number], row.answers[0][number]) for row in first]
            if 0 < sum(right) < len(right):
                split.append((abs(2 * sum(right) - len(right)), number))
        return [self._dispute(number, first) for _, number in sorted(split)[:DISPUTES]]

    def _dispute(self, number: int, rows: Sequence[Row]) -> Dispute:
        from foveal.data.media import strip

        question = self.asked[number]
        image = strip(question.example.images[0])
        size = image.size
        image.thumbnail((EDGE, EDGE))
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=84, optimize=True)
        watched = [row for row in rows if self._look(row, number)]
        chosen = sorted(rows, key=lambda row: (row.strategy != summary.WHOLE, row not in watched))[:ASIDE]
        said = tuple(self._said(row, number, size) for row in chosen)
        return Dispute(jpeg=stream.getvalue(), question=question.text, truth=question.truth, said=said)

    def _said(self, row: Row, number: int, size: tuple[int, int]) -> Said:
        answer, look = row.answers[0][number], self._look(row, number)
        width, height = size
        boxes = [(x0 / width, y0 / height, x1 / width, y1 / height) for y0, x0, y1, x1 in look.get("boxes", ())]
        right = is_right(self.asked[number], answer)
        return Said(name=row.name, answer=answer, right=right, boxes=boxes, shares=look.get("shares", ()))

    def _look(self, row: Row, number: int) -> Mapping[str, Any]:
        """Where the first training of a row looked for an answer; nothing where it did not choose by such."""
        for record in self.records:
            if (
                record.get("system") != row.system
                or record["seed"] != row.seeds[0]
                or summary.length(record) != row.length
            ):
                continue
            for cell in record.get("cells", ()):
                if (cell["strategy"], cell["wanted"]) == row.key[2:]:
                    return cell.get("looks", {}).get(str(number), {})
        return {}


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def show(console: "Console", found: Found) -> None:
    """A line for each row (its FLOPs are those of a question), then what failed."""
    from foveal.cli import _show
    from foveal.evaluation.chart import number

    lengths = len({row.length for row in found.rows}) > 1
    seeds = len(found.wanted.seeds) > 1
    more = [found.figure] if found.figure else []
    heads = ["system", "chosen by", "tokens", *more, "exact", "95%", "flips", "FLOPs", *(["seeds"] if seeds else [])]
    lines = []
    for row in found.rows:
        named = f"{row.system} ({row.length})" if lengths else row.system
        flips = "" if row.flips is None else f"{100 * row.flips:.1f}%"
        figure = [f"{100 * row.figure.value:.1f}%"] if row.figure else []
        line = [named, row.strategy, f"{row.tokens:.0f}", *figure, *_shares(row.scores), flips]
        line.append(number(row.flops) if row.flops else "")
        lines.append(line + ([str(len(row.seeds))] if seeds else []))
    bare, rest = ["", "", *[""] * len(more)], [""] * (len(heads) - 5 - len(more))
    lines += [[name, *bare, *_shares(scores), *rest] for name, scores in found.baselines.items()]
    console.print(_show.table(heads, lines, left=["chosen by"], keys=3))
    for one in found.failures:
        console.print(f"{one['state']}: {one['what']}: {one['error']}", style="dim")


def _shares(scores: Scores) -> list[str]:
    """Exact match and its interval, in percent."""
    exact = scores.exact_match
    return [f"{100 * exact.value:.1f}%", f"{100 * exact.low:.1f}-{100 * exact.high:.1f}"]


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]
