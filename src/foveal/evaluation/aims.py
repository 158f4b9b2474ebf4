"""What is asked of a strategy under budgets, whether it is met, and by how much it is missed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from foveal.evaluation.latency import Latency
from foveal.evaluation.questions import Question
from foveal.evaluation.score import Lead, Rate, Scores
from foveal.evaluation.spending import Spent, ahead, scores

ALL = "all questions"
KEPT, FASTER, SHARE = 0.97, 3.0, 0.03  # of full accuracy; times to the first token; the scorer's of its time
OURS, SMALLER = "foveal", "downsample"
Row = tuple[str, int | None]


@dataclass(frozen=True, kw_only=True)
class Aim:
    """An aim, whether it is met (None: not measured), and how far."""

    aim: str
    met: bool | None
    told: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """The scores of every row that there is, by strategy and budget."""

    asked: Sequence[Question]
    rows: Mapping[Row, Spent]
    scores: Mapping[Row, Scores]

    @classmethod
    def of(cls, asked: Sequence[Question], rows: Sequence[Spent]) -> "Table":
        """Score what was answered at budgets; a price is none."""
        there: dict[Row, Spent] = {}
        for row in rows:
            if row.refused is None and not isinstance(row.budget, str):
                there[row.strategy, row.budget] = row
        return cls(asked=asked, rows=there, scores={key: scores(asked, row) for key, row in there.items()})

    @property
    def budgets(self) -> list[int]:
        """The budgets, the largest first."""
        return sorted({budget for _, budget in self.rows if budget is not None}, reverse=True)

    @property
    def kinds(self) -> list[str]:
        """All questions, and each kind."""
        return [ALL, *next(iter(self.scores.values())).kinds]

    def rate(self, key: Row, kind: str) -> Rate:
        """A row's rate on a kind."""
        return cell(self.scores[key], kind)

    def reads_more(self, key: Row) -> bool:
        """Whether layers read more than the budget, on average."""
        tokens, budget = self.rows[key].tokens, key[1]
        return tokens is not None and budget is not None and tokens > budget


def cell(found: Scores | Lead, kind: str) -> Rate:
    """The rate of a kind, or of all questions."""
    return found.exact_match if kind == ALL else found.kinds[kind]


def best(table: Table, *, more: bool = False) -> Aim:
    """Whether ours is best, or within the interval of the best, at every budget on every kind.

    Beside those that read at most the budget, or with `more`, beside all.
    """
    among = "all, those too that read more in early layers" if more else "those that read at most the budget"
    aim = f"foveal best, or within the interval of the best, at every budget on every kind: among {among}"
    if not any(name == OURS for name, _ in table.rows):
        return Aim(aim=aim, met=None, told="not measured")
    firsts, within, below = 0, 0, []
    for budget in table.budgets:
        keys = [key for key in table.rows if key[1] == budget and (more or not table.reads_more(key))]
        for kind in table.kinds:
            ours = table.rate((OURS, budget), kind)
            first = max(keys, key=lambda key: (table.rate(key, kind).value, key[0] == OURS))
            top = table.rate(first, kind)
            if ours.value >= top.value:
                firsts += 1
            elif ours.value >= top.low:
                within += 1
            else:
                below.append((top.low - ours.value, f"{kind.replace('_', ' ')} at {budget} ({first[0]})"))
    count = firsts + within + len(below)
    told = f"best in {firsts}, within in {within}, below in {len(below)} of {count}{_worst(below)}"
    return Aim(aim=aim, met=not below, told=told)


def above_smaller(table: Table) -> Aim:
    """Whether ours is above image downsampling at every budget on every kind."""
    aim = "foveal above image downsampling at every budget on every kind"
    budgets = [one for one in table.budgets if {(OURS, one), (SMALLER, one)} <= table.rows.keys()]
    if not budgets:
        return Aim(aim=aim, met=None, told="not measured")
    leads = {one: ahead(table.asked, table.rows[OURS, one], table.rows[SMALLER, one]) for one in budgets}
    found = {(kind, budget): cell(lead, kind) for budget, lead in leads.items() for kind in table.kinds}
    sure = sum(rate.low > 0 for rate in found.values())
    below = [
        (-rate.value, f"{kind.replace('_', ' ')} at {budget}")
        for (kind, budget), rate in found.items()
        if rate.value < 0
    ]
    equal = sum(rate.value == 0 for rate in found.values())
    above = len(found) - len(below) - equal
    told = f"above in {above}, of these {sure} surely, equal in {equal}, below in {len(below)} of {len(found)}"
    return Aim(aim=aim, met=above == len(found), told=told + _worst(below))


def kept(table: Table, budget: int, share: float) -> Aim:
    """Whether ours keeps enough of the accuracy of all tokens at a budget, which is a share of them."""
    aim = f"at {share:.0%} of the tokens at least {KEPT:.0%} of full accuracy"
    if (OURS, budget) not in table.rows:
        return Aim(aim=aim, met=None, told="not measured")
    ours, whole = table.rate((OURS, budget), ALL).value, table.rate(("all", None), ALL).value
    if not whole:
        return Aim(aim=aim, met=None, told="with all tokens nothing is answered right")
    missed = "" if ours / whole >= KEPT else f"; {100 * (KEPT - ours / whole):.1f} points short"
    return Aim(aim=aim, met=not missed, told=f"{100 * ours:.1f} of {100 * whole:.1f} right: {ours / whole:.1%}{missed}")


def faster(found: Mapping[Row, Latency] | str, side: int, budget: int | None) -> Aim:
    """Whether the first token comes soon enough on pictures of a side; a text in the place of times says why not."""
    aim = f"first token at least {FASTER:g}x faster at {side:,} px, encoder and scorer in it"
    if isinstance(found, str):
        return Aim(aim=aim, met=None, told=found)
    one = found[OURS, budget]
    missed = "" if one.faster >= FASTER else f"; {FASTER - one.faster:.2f} short"
    return Aim(aim=aim, met=not missed, told=f"{one.faster:.2f}x with {budget} tokens{missed}")


def cheap(found: Mapping[Row, Latency] | str, side: int, budget: int | None) -> Aim:
    """Whether scorer and allocator take little of the time to the first token."""
    aim = f"scorer and allocator under {SHARE:.0%} of the time to the first token at {side:,} px"
    if isinstance(found, str):
        return Aim(aim=aim, met=None, told=found)
    share = found[OURS, budget].share
    missed = "" if share < SHARE else f"; {100 * (share - SHARE):.1f} points over"
    return Aim(aim=aim, met=not missed, told=f"{share:.1%} with {budget} tokens{missed}")


def _worst(below: Sequence[tuple[float, str]]) -> str:
    if not below:
        return ""
    gap, where = max(below)
    return f"; furthest below by {100 * gap:.1f} points: {where}"
