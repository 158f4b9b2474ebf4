"""The report of a comparison: one file that opens without a network, whose tables sort and which prints well."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from foveal.evaluation.chart import Mark, chart, number
from foveal.evaluation.plot import Point, curve
from foveal.evaluation.score import Rate, Scores
from foveal.evaluation.style import COMPARED, SHEET, SORTING
from foveal.evaluation.summary import BLIND, Gap, Row, front


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one row answered of a picture, and where it looked: `boxes` as fractions of the picture."""

    name: str
    answer: str
    right: bool
    boxes: Sequence[tuple[float, float, float, float]] = ()
    shares: Sequence[Sequence[int]] = ()


@dataclass(frozen=True, kw_only=True)
class Dispute:
    """A question on which systems disagree, with its picture (a JPEG)."""

    jpeg: bytes
    question: str
    truth: str
    said: tuple[Said, ...]


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the report shows; a part that is empty is left out. `figure` is the name of the rows' own."""

    title: str
    summary: str
    rows: Sequence[Row]
    gaps: Sequence[Gap] = ()
    baselines: Mapping[str, Scores] = field(default_factory=dict)
    losses: Mapping[str, Mapping[str, Sequence[Point]]] = field(default_factory=dict)
    disputes: Sequence[Dispute] = ()
    failures: Sequence[Mapping[str, str]] = ()
    made: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()
    attribution: str = ""
    figure: str = ""


def page(report: Page) -> str:
    """The report as HTML."""
    parts = [f"<header><h1>{escape(report.title)}</h1><p class='lede'>{escape(report.summary)}</p></header>"]
    for length in dict.fromkeys(row.length for row in report.rows):
        mine = [row for row in report.rows if row.length == length]
        parts.append(
            _section(f"Trained for {length} each", _table(mine, report.baselines, report.figure) + _charts(mine))
        )
        parts.append(_section(f"By kind of question ({length})", _heat(mine, report.baselines)))
    parts += [
        _section("What is sure", _gaps(report.gaps)),
        _section("How they learned", _losses(report.losses)),
        _section("Where they disagree", "".join(map(_dispute, report.disputes))),
        _section("What did not run", _failures(report.failures)),
        _section("How to make it again", _again(report)),
        f"<footer><p>{escape(report.attribution)}</p></footer>" if report.attribution else "",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{SHEET}{COMPARED}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<script>{SORTING}</script>\n</body>\n</html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}\n</section>" if body else ""


def _grid(heads: Sequence[str], lines: Sequence[Sequence[tuple[str, Any]]], caption: str, kind: str = "") -> str:
    """A table that sorts: each cell is what is shown, and what it sorts by."""
    top = "".join(f'<th scope="col"><button type="button">{escape(head)}</button></th>' for head in heads)
    rows = []
    for line in lines:
        (first, by), *rest = line
        cells = "".join(f'<td data-by="{escape(str(key))}">{shown}</td>' for shown, key in rest)
        rows.append(f'<tr><th scope="row" data-by="{escape(str(by))}">{first}</th>{cells}</tr>')
    return (
        f'<div class="wide"><table class="sorts {kind}"><caption>{caption}</caption><thead><tr>{top}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _table(rows: Sequence[Row], baselines: Mapping[str, Scores], figure: str = "") -> str:
    more = [figure] if figure else []
    heads = ["system", "family", "chosen by", "tokens", *more, "exact match", "mean over kinds", "flips",
             "FLOPs a question", "FLOPs of training", "seconds to ask all", "seeds"]  # fmt: skip
    lines = [
        [
            (escape(row.system), row.system),
            (escape(row.family), row.family),
            (escape(row.strategy.replace("_", " ")), row.strategy),
            (f"{row.tokens:,.0f}", row.tokens),
            *([_cell(row.figure)] if row.figure else [("", -1)] * len(more)),
            _cell(row.scores.exact_match),
            _cell(row.scores.mean_over_kinds),
            ("", -1) if row.flips is None else (f"{row.flips:.1%}", row.flips),
            (number(row.flops) if row.flops else "", row.flops),
            ("" if row.strategy == BLIND else number(row.training_flops), row.training_flops),
            (f"{row.seconds:,.1f}", row.seconds),
            (str(len(row.seeds)), len(row.seeds)),
        ]
        for row in rows
    ]
    blank = ("", -1)
    for name, scores in baselines.items():
        rates = [_cell(scores.exact_match), _cell(scores.mean_over_kinds)]
        lines.append(
            [(escape(name.replace("_", " ")), name), blank, blank, ("0", 0), *[blank] * len(more), *rates, *[blank] * 5]
        )
    return _grid(heads, lines, "Exact match with its 95% interval (bootstrap over scenes and trainings). Flips: those "
                 "answered otherwise than with all tokens. A FLOP is a multiplication or an addition.")  # fmt: skip


def _cell(rate: Rate) -> tuple[str, Any]:
    return f"{rate.value:.1%} <small>({100 * rate.low:.1f}-{100 * rate.high:.1f})</small>", rate.value


def _charts(rows: Sequence[Row]) -> str:
    drawn = []
    for cost, across in (("tokens", "visual tokens of a picture"), ("flops", "FLOPs of a question")):
        seen = [row for row in rows if row.strategy != BLIND and getattr(row, cost) > 0]
        best = front(seen, cost)
        marks = [
            Mark(name=row.name, group=row.system, x=getattr(row, cost), rate=row.scores.exact_match, best=row in best)
            for row in seen
        ]
        title = f"Accuracy over {across}; the line joins those that no other beats at the same or a lower cost"
        drawn.append(f"<figure class='chart'><figcaption>{title}</figcaption>{chart(marks, across=across)}</figure>")
    return "".join(drawn)


def _heat(rows: Sequence[Row], baselines: Mapping[str, Scores]) -> str:
    kinds = sorted({kind for row in rows for kind in row.scores.kinds})
    named = [*((row.name, row.scores) for row in rows), *((name.replace("_", " "), s) for name, s in baselines.items())]
    lines = [
        [(escape(name), name)]
        + [
            (f'<span class="heat" style="--heat:{100 * scores.kinds[kind].value:.0f}%" '
             f'title="95%: {scores.kinds[kind].low:.1%} to {scores.kinds[kind].high:.1%}">'
             f"{100 * scores.kinds[kind].value:.0f}</span>", scores.kinds[kind].value)
            if kind in scores.kinds
            else ("", -1)
            for kind in kinds
        ]
        for name, scores in named
    ]  # fmt: skip
    return _grid(["", *(kind.replace("_", " ") for kind in kinds)], lines, "Exact match in percent.", "heats")


def _gaps(gaps: Sequence[Gap]) -> str:
    if not gaps:
        return ""
    lines = [
        [
            (escape(gap.ours.name), gap.ours.name),
            (escape(gap.theirs.name), gap.theirs.name),
            (escape(gap.ours.length), gap.ours.length),
            (f"{100 * gap.rate.value:+.1f}", gap.rate.value),
            (f"{100 * gap.rate.low:+.1f} to {100 * gap.rate.high:+.1f}", gap.rate.low),
            ("yes" if gap.sure else "no", int(gap.sure)),
        ]
        for gap in gaps
    ]
    heads = ["system", "against", "trained", "points ahead", "95%", "sure"]
    return _grid(heads, lines, "Paired bootstrap over scenes and trainings on the same questions. Sure: the interval "
                 "leaves zero out; of twenty such lines about one does so by chance.", "texts")  # fmt: skip


def _losses(losses: Mapping[str, Mapping[str, Sequence[Point]]]) -> str:
    drawn = [
        f"<figure class='chart'><figcaption>{escape(name)}</figcaption>{curve(of)}</figure>"
        for name, of in losses.items()
    ]
    return f'<div class="pair">{"".join(drawn)}</div>' if drawn else ""


def _dispute(dispute: Dispute) -> str:
    source = f"data:image/jpeg;base64,{b64encode(dispute.jpeg).decode()}"
    said = "".join(_said(one, source) for one in dispute.said)
    return (
        f'<article class="dispute"><h3>{escape(dispute.question)} <span class="truth">truth: {escape(dispute.truth)}'
        f'</span></h3><div class="answers"><figure><img src="{source}" alt="The picture"></figure>{said}</div>'
        "</article>"
    )


def _said(one: Said, source: str) -> str:
    kind, sign = ("right", "&#10003;") if one.right else ("wrong", "&#10007;")
    looked = ""
    if one.boxes:
        cells = "".join(
            f'<rect x="{x0:.4f}" y="{y0:.4f}" width="{x1 - x0:.4f}" height="{y1 - y0:.4f}"/>'
            for x0, y0, x1, y1 in one.boxes
        )
        looked = (
            f'<span class="looked"><img src="{source}" alt=""><svg viewBox="0 0 1 1" preserveAspectRatio="none" '
            f'role="img" aria-label="{len(one.boxes)} tokens">{_warmth(one.shares)}{cells}</svg></span>'
        )
    return (
        f'<figure class="{kind}">{looked}<figcaption>{escape(one.name)}: <span class="sign" aria-hidden="true">{sign}'
        f'</span> <span class="hidden">{kind}: </span><b>{escape(one.answer) or "(silence)"}</b></figcaption></figure>'
    )


def _warmth(shares: Sequence[Sequence[int]]) -> str:
    """Relevance as a glow over the picture: a cell for each patch that has some."""
    rows, columns = len(shares), len(shares[0]) if shares else 0
    return "".join(
        f'<path class="warm" style="opacity:{0.006 * share:.2f}" '
        f'd="M{x / columns:.4f} {y / rows:.4f}h{1 / columns:.4f}v{1 / rows:.4f}h-{1 / columns:.4f}Z"/>'
        for y, line in enumerate(shares)
        for x, share in enumerate(line)
        if share >= 5
    )


def _failures(failures: Sequence[Mapping[str, str]]) -> str:
    lines = [[(escape(one[key]), one[key]) for key in ("what", "state", "error")] for one in failures]
    return _grid(["what", "state", "why"], lines, "", "texts") if lines else ""


def _again(report: Page) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.made.items())
    commands = f"<pre>{escape(chr(10).join(report.commands))}</pre>" if report.commands else ""
    return f'{commands}<dl class="made">{rows}</dl>' if rows or commands else ""
