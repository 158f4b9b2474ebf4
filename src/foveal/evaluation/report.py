"""A report in one file that opens without a network: how it learned, how well it answers, and what it saw."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from foveal.evaluation.plot import Point, curve, scale
from foveal.evaluation.score import Lead, Rate, Scores
from foveal.evaluation.style import SHEET

NAMES = {
    "text_only": "trained without images",
    "majority": "most frequent answer of the kind",
    "question_majority": "most frequent answer to the same words",
}
SHORT = {"text_only": "no images", "majority": "majority", "question_majority": "same words"}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer beside the truth."""

    question: str
    answer: str
    truth: str
    right: bool


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture (a JPEG) with what was asked of it."""

    jpeg: bytes
    about: str
    replies: tuple[Reply, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a report shows; a part that is empty is left out.

    `baselines` and `leads` (ours minus theirs) go by `text_only`, `majority`, `question_majority`; `ours` names what
    is scored beside them.
    """

    title: str
    summary: str
    scores: Scores
    baselines: Mapping[str, Scores] = field(default_factory=dict)
    leads: Mapping[str, Lead] = field(default_factory=dict)
    losses: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()
    made: Mapping[str, str] = field(default_factory=dict)
    attribution: str = ""
    ours: str = "exact match"


def page(report: Report) -> str:
    """The report as HTML: style, drawings and pictures inside, no script, nothing fetched."""
    sections = [
        f"<header><h1>{escape(report.title)}</h1><p class='lede'>{escape(report.summary)}</p></header>",
        _figures(report),
        _section("How it learned", _learned(report)),
        _section("How well it answers", _kinds(report)),
        _section("What it saw, and what it said", _gallery(report.pictures)),
        _section("How it was made", _made(report.made)),
        f"<footer><p>{escape(report.attribution)}</p></footer>" if report.attribution else "",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>{SHEET}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>\n{body}\n</section>" if body else ""


def _figures(report: Report) -> str:
    ours = report.scores.exact_match
    words = f"of {ours.count:,} questions answered exactly {_interval(ours)}"
    named = words if report.ours == Report.ours else f"{words}: {report.ours}"
    rows = [_figure(_percent(ours.value), named, "ours")]
    rows += [
        _figure(_percent(report.baselines[name].exact_match.value), NAMES[name])
        for name in ("text_only", "majority")
        if name in report.baselines
    ]
    if report.leads:
        name, closest = min(report.leads.items(), key=lambda entry: entry[1].exact_match.value)
        gap = closest.exact_match
        points = f"points ahead of the {SHORT[name]} baseline (95%: {100 * gap.low:+.1f} to {100 * gap.high:+.1f})"
        rows.append(_figure(f"{100 * gap.value:+.1f}", points))
    return f'<dl class="figures">{"".join(rows)}</dl>'


def _figure(number: str, words: str, kind: str = "") -> str:
    return f'<div class="{kind}"><dt>{escape(words)}</dt><dd>{number}</dd></div>'


def _learned(report: Report) -> str:
    if not report.losses:
        return ""
    note = "The mean loss of the stage's own objective, in nats."
    if len(report.losses) > 1:
        note += " Stages with different objectives do not compare."
    return curve(report.losses) + f'<p class="quiet">{note}</p>'


def _kinds(report: Report) -> str:
    names = [name for name in NAMES if name in report.baselines]
    heads = "".join(f'<th scope="col">{SHORT[name]}</th>' for name in names)
    rows = [
        _row("all questions", report.scores.exact_match, {n: report.baselines[n].exact_match for n in names}, "sum"),
        _row(
            "mean over kinds",
            report.scores.mean_over_kinds,
            {n: report.baselines[n].mean_over_kinds for n in names},
            "sum last",
        ),
    ]
    rows += [
        _row(kind.replace("_", " "), rate, {n: report.baselines[n].kinds[kind] for n in names})
        for kind, rate in sorted(report.scores.kinds.items(), key=lambda entry: -entry[1].value)
    ]
    return (
        f'<div class="wide"><table><caption>Exact match with its 95% interval (bootstrap over scenes). {_legend(names)}'
        '</caption><thead><tr><th scope="col">kind</th><th scope="col"><span class="hidden">drawn</span></th>'
        f'<th scope="col">{escape(report.ours)}</th>{heads}<th scope="col">questions</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _legend(names: Sequence[str]) -> str:
    marked = [name for name in names if name != "question_majority"]
    line = '<svg class="key" aria-hidden="true"><line class="mark {}" x1="50%" x2="50%" y1="3" y2="19"/></svg>{}'
    return " ".join(f'<span class="whole">{line.format(name, NAMES[name])}</span>' for name in marked)


def _row(title: str, rate: Rate, baselines: Mapping[str, Rate], kind: str = "") -> str:
    marks = {name: other.value for name, other in baselines.items() if name != "question_majority"}
    cells = "".join(f"<td>{_percent(other.value)}</td>" for other in baselines.values())
    return (
        f'<tr class="{kind}"><th scope="row">{escape(title)}</th><td class="draw">{scale(rate, marks)}</td>'
        f"<td>{_percent(rate.value)} <small>{_interval(rate)}</small></td>{cells}<td>{rate.count:,}</td></tr>"
    )


def _gallery(pictures: Sequence[Picture]) -> str:
    return f'<div class="gallery">{"".join(map(_shown, pictures))}</div>' if pictures else ""


def _shown(picture: Picture) -> str:
    replies = "".join(map(_reply, picture.replies))
    source = b64encode(picture.jpeg).decode()
    return (
        f'<figure><img src="data:image/jpeg;base64,{source}" alt="{escape(picture.about)}">'
        f"<figcaption><ol>{replies}</ol></figcaption></figure>"
    )


def _reply(reply: Reply) -> str:
    kind, sign = ("right", "&#10003;") if reply.right else ("wrong", "&#10007;")
    return (
        f'<li>{escape(reply.question)}<div class="reply {kind}"><span class="answer">'
        f'<span class="sign" aria-hidden="true">{sign}</span> <span class="hidden">{kind}: </span>'
        f"{escape(reply.answer) or '(silence)'}</span>"
        f'<span class="truth">truth: {escape(reply.truth)}</span></div></li>'
    )


def _made(made: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in made.items())
    return f'<dl class="made">{rows}</dl>' if rows else ""


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _interval(rate: Rate) -> str:
    return f"({100 * rate.low:.1f}-{100 * rate.high:.1f})"
