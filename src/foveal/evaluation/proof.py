"""A page that says what a run keeps under budgets of visual tokens, and which aims it meets: every number computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from foveal.evaluation.aims import ALL, OURS, Aim, Row, Table, above_smaller, best, cell, cheap, faster, kept
from foveal.evaluation.latency import Latency
from foveal.evaluation.questions import Question
from foveal.evaluation.score import Rate, Scores
from foveal.evaluation.spending import Spent, changed, lost

AT = 0.11  # the share of the tokens by which accuracy and times are judged


@dataclass(frozen=True, kw_only=True)
class Proof:
    """All that the page shows. `budgets` are tokens by their share of all; `times` are by the side of a picture.

    Times that are not there say why. `text_only` are the scores of a twin without images, where there is one.
    """

    asked: Sequence[Question]
    rows: Sequence[Spent]
    budgets: Mapping[float, int]
    text_only: Scores | None = None
    times: Mapping[int, Mapping[Row, Latency] | str] = field(default_factory=dict)
    commands: Sequence[str] = ()
    made: Mapping[str, str] = field(default_factory=dict)
    limits: Sequence[str] = ()


def page(proof: Proof) -> str:
    """The page, in Markdown."""
    table = Table.of(proof.asked, proof.rows)
    scenes = len({question.scene for question in proof.asked})
    shares = ", ".join(f"{share:.0%} ({tokens})" for share, tokens in proof.budgets.items())
    parts = [
        "# Relevance under budgets: what holds",
        f"One run, {len(proof.asked):,} questions about {scenes:,} scenes that it has not seen, asked with all visual "
        f"tokens of a picture and with {shares} of them, by every strategy. This page is the output of its command;\n"
        "nothing on it is typed by hand. Numbers are percent right (exact match) with 95% intervals: bootstrap over "
        "scenes, and\nover the draws of what is drawn by lots.",
        _block("", proof.commands),
        _section("What this is not", "\n".join(f"- {one}" for one in proof.limits)),
        _section("Aims", _aims(aims(proof, table))),
        _section("All questions", _overall(proof, table)),
        *(_section(f"By kind, {tokens} tokens", _kinds(proof, table, tokens)) for tokens in proof.budgets.values()),
        _section("Agreement with all tokens", _agreement(proof, table)),
        _section("Another question steers", _controls(proof, table)),
        *(_section(f"Time and memory at {side:,} px", _times(found)) for side, found in proof.times.items()),
        _section("What could not be", _refused(proof.rows)),
        _section("How it was made", "\n".join(f"- {name}: {value}" for name, value in proof.made.items())),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def aims(proof: Proof, table: Table) -> list[Aim]:
    """Every aim, judged; times at the largest side that was tried."""
    share = min(proof.budgets, key=lambda one: abs(one - AT))
    budget = proof.budgets[share]
    side = max(proof.times, default=1024)
    times = proof.times.get(side, "not measured")
    spent = (
        {}
        if isinstance(times, str)
        else dict(zip(proof.budgets, (b for name, b in times if name == OURS), strict=True))
    )
    return [
        best(table),
        best(table, more=True),
        above_smaller(table),
        kept(table, budget, share),
        faster(times, side, spent.get(share)),
        cheap(times, side, spent.get(share)),
    ]


def grid(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _aims(found: Sequence[Aim]) -> str:
    met = {True: "**met**", False: "**missed**", None: "not measured"}
    return grid(["aim", "", "how far"], [[one.aim, met[one.met], one.told] for one in found])


def _overall(proof: Proof, table: Table) -> str:
    lines = [["all", *[_rate(table.rate(("all", None), ALL))] * len(proof.budgets)]]
    if proof.text_only is not None:
        lines.append(["text only (a twin without images)", *[_rate(proof.text_only.exact_match)] * len(proof.budgets)])
    for name in _strategies(proof.rows):
        cells = [_maybe(table, (name, tokens), ALL) for tokens in proof.budgets.values()]
        lines.append([_named(table, name), *cells])
    heads = ["strategy", *(f"{share:.0%}: {tokens} tokens" for share, tokens in proof.budgets.items())]
    twin = "" if proof.text_only is not None else "\n\nText only: no twin of this run was trained without images."
    return grid(heads, lines) + twin


def _kinds(proof: Proof, table: Table, tokens: int) -> str:
    kinds = table.kinds[1:]
    names = [name for name in _strategies(proof.rows) if (name, tokens) in table.rows]
    lines = [["all", *(_rate(table.rate(("all", None), kind)) for kind in kinds)]]
    if proof.text_only is not None:
        lines.append(["text only", *(_rate(cell(proof.text_only, kind)) for kind in kinds)])
    lines += [[_named(table, name), *(_rate(table.rate((name, tokens), kind)) for kind in kinds)] for name in names]
    counts = [table.rate(("all", None), kind).count for kind in kinds]
    heads = [f"{kind.replace('_', ' ')} ({count})" for kind, count in zip(kinds, counts, strict=True)]
    return grid(["strategy", *heads], lines)


def _agreement(proof: Proof, table: Table) -> str:
    whole = table.rows["all", None]
    lines = []
    for name in _strategies(proof.rows):
        cells = []
        for tokens in proof.budgets.values():
            row = table.rows.get((name, tokens))
            apart = "n/a" if row is None or row.divergence is None else f"{row.divergence:.2f}"
            cells += ["n/a" if row is None else f"{100 * changed(row, whole):.1f}", apart]
        lines.append([name, *cells])
    heads = [f"{tokens}: {what}" for tokens in proof.budgets.values() for what in ("flips", "KL")]
    told = (
        "Flips: answers in percent that are others than with all tokens. KL: divergence of an answer's first word from "
        "all tokens, in nats."
    )
    return f"{told}\n\n{grid(['strategy', *heads], lines)}"


def _controls(proof: Proof, table: Table) -> str:
    lines = []
    for (name, tokens), row in table.rows.items():
        for control, one in row.controls.items():
            found = lost(proof.asked, row, one)
            told = ["0", "n/a"] if found is None else [f"{found.exact_match.count}", _gap(found.exact_match)]
            lines.append([name, str(tokens), control.replace("_", " "), *told])
    if not lines:
        return "Not asked for."
    told = (
        "The question that is answered stays; what says where to look is another: that of another scene (shuffled), "
        "none\n(empty), or the same about another thing (of questions that name one). Points lost, paired; what no "
        "question steers\nbehind the connector has no such control."
    )
    return f"{told}\n\n{grid(['strategy', 'tokens', 'steered by', 'questions', 'points lost'], lines)}"


def _times(found: Mapping[Row, Latency] | str) -> str:
    if isinstance(found, str):
        return f"n/a: {found}"
    lines = [
        [
            name,
            "all" if tokens is None else str(tokens),
            *(f"{1000 * seconds:,.1f}" for seconds in (one.encoder, one.scorer, one.prefill, one.total)),
            f"{one.faster:.2f}x",
            f"{one.share:.1%}",
            f"{one.held:,}",
        ]
        for (name, tokens), one in found.items()
    ]
    heads = ["strategy", "tokens", "encoder, ms", "scorer, ms", "prefill, ms", "first token, ms", "faster", "scorer's "
             "share", "KV bytes"]  # fmt: skip
    told = (
        "One question at a time, sides in turn; medians over rounds, and the median of the paired ratios. Opening a "
        "picture is\nnot in it; the connector is with the encoder, and what is chosen within the language model with "
        "the prefill. KV bytes:\nkeys and values of the prompt."
    )
    return f"{told}\n\n{grid(heads, lines)}"


def _refused(rows: Sequence[Spent]) -> str:
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.refused is not None:
            reasons.setdefault(row.refused, []).append(row.strategy)
    return "\n".join(f"- n/a: {reason}" for reason in reasons)


def _strategies(rows: Sequence[Spent]) -> list[str]:
    """Ours first, then as they were asked for."""
    names = dict.fromkeys(row.strategy for row in rows if row.strategy != "all")
    return [*(name for name in names if name == OURS), *(name for name in names if name != OURS)]


def _named(table: Table, name: str) -> str:
    """The strategy, with how many tokens a layer reads where it is more than the budget, and how often it was drawn."""
    rows = [(key, row) for key, row in table.rows.items() if key[0] == name]
    more = [f"{row.tokens:,.0f}" for key, row in rows if table.reads_more(key)]
    draws = max((len(row.answers) for _, row in rows), default=1)
    told = [f"{draws} draws"] * (draws > 1) + [f"a layer reads {', '.join(more)}"] * bool(more)
    return f"{name} ({'; '.join(told)})" if told else name


def _maybe(table: Table, key: Row, kind: str) -> str:
    return _rate(table.rate(key, kind)) if key in table.scores else "n/a"


def _rate(rate: Rate) -> str:
    return f"{100 * rate.value:.1f} ({100 * rate.low:.0f}-{100 * rate.high:.0f})"


def _gap(rate: Rate) -> str:
    return f"{100 * rate.value:+.1f} ({100 * rate.low:+.1f} to {100 * rate.high:+.1f})"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _block(name: str, lines: Sequence[str]) -> str:
    inside = "\n".join(lines)
    return f"```{name}\n{inside}\n```" if lines else ""
