"""The budget of visual tokens as options of commands."""

from typing import TYPE_CHECKING, Any

import typer

from foveal.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foveal.relevance.pricing import Terms

_OURS = "foveal"  # chooses where no strategy is named
BUDGET = typer.Option(None, "--budget", help="The most visual tokens of a picture that the language model reads.")
BUDGETS = typer.Option(
    None, "--budget", help="Score with at most so many visual tokens a picture, such as 64 or 128,64."
)
STRATEGIES = typer.Option(None, "--strategy", help="How they are chosen, such as foveal,random.", show_default="foveal")
DRAWS = typer.Option(1, "--draws", help="With --budget: how often a strategy of lots is drawn.")
CONTROLS = typer.Option(False, "--controls", help="With --budget: also let other questions say where to look.")
STRATEGY = typer.Option(None, "--strategy", help="How these are chosen.", show_default="foveal")
PRICE = typer.Option(
    None, "--price", help="Instead: what a token must gain, as a share such as 0.001, or 0.001:64-400 for so many."
)
TOTAL = typer.Option(
    None, "--total", help="Instead: so many for all pictures of a batch, such as 128, or 128:16-100 for so many each."
)


def terms(price: str | None, total: str | None) -> "Terms | None":
    """A price or a total, each with the fewest and the most tokens of a picture behind a colon; None: neither.

    Raises InputError for both and for what is no number.
    """
    if price is None and total is None:
        return None
    from foveal.relevance.pricing import Terms

    if price is not None and total is not None:
        raise InputError(f"--price {price} and --total {total}; give one of the two")
    name, given = ("--total", total or "") if price is None else ("--price", price)
    number, _, between = given.partition(":")
    least, _, most = between.partition("-")
    try:
        ends = {"least": int(least), "most": int(most)} if between else {}
        worth = {"total": int(number)} if price is None else {"price": float(number)}
    except ValueError:
        example = "128 or 128:16-100" if price is None else "0.001 or 0.001:64-400"
        raise InputError(f"{name} {given} holds what is no number; give {example}") from None
    return Terms(**worth, **ends)  # type: ignore[arg-type]


def spending(
    budget: int | None, strategy: str | None, price: str | None = None, total: str | None = None
) -> dict[str, Any]:
    """What an answer is to cost, as settings of `answer`; none where none is given.

    Raises InputError for several, and for a strategy that has nothing to spend.
    """
    name = _OURS if strategy is None else strategy
    if (found := terms(price, total)) is not None:
        if budget is not None:
            raise InputError(f"--budget {budget} and a {found}; give one of the two")
        return {"budget": found, "strategy": name}
    if budget is None:
        if strategy == "all":  # also of a model that has a budget of its own
            return {"strategy": strategy}
        _check_given(strategy)
        return {}
    return {"budget": budget, "strategy": name}


def many(
    budgets: str | None,
    strategies: str | None,
    instead: tuple[str | None, str | None] = (None, None),
    *,
    draws: int = 1,
    controls: bool = False,
) -> "list[tuple[str, int | Terms]]":
    """Every strategy with every budget, each once, out of lists with commas, or `instead` at a price or of a total.

    Raises InputError for what is no number, and for settings of budgets where there are none.
    """
    if (found := terms(*instead)) is not None:
        if controls or budgets is not None:
            name = "--controls" if controls else f"--budget {budgets}"
            raise InputError(f"{name} and a {found}; give one of the two")
        return [(name, found) for name in _names(strategies)]
    if budgets is None:
        _check_given(strategies)
        if draws != 1 or controls:
            name = "--controls is" if controls else f"--draws {draws} is"
            raise InputError(f"{name} of budgets and there is none; give --budget, such as 64")
        return []
    try:
        numbers = [int(one) for one in budgets.split(",")]
    except ValueError:
        raise InputError(f"--budget {budgets} holds what is no number; give one or several, such as 64,128") from None
    return [(name, number) for name in _names(strategies) for number in dict.fromkeys(numbers)]


def _check_given(strategies: str | None) -> None:
    if strategies is not None:
        raise InputError(f"--strategy {strategies} spends a budget and there is none; give --budget, such as 64")


def _names(strategies: str | None) -> "list[str]":
    """The names in a list with commas, each once."""
    return list(dict.fromkeys(name.strip() for name in (_OURS if strategies is None else strategies).split(",")))


def one(spendings: "Sequence[tuple[str, int | Terms]]") -> tuple[str, int] | None:
    """The strategy and the budget of what is scored once; None: all tokens. Raises InputError for several and terms."""
    found = [(name, budget) for name, budget in spendings if isinstance(budget, int)]
    if len(found) != len(spendings) or len(found) > 1:
        raise InputError("boxes are scored under one budget at a time; give one, such as --budget 64")
    return found[0] if found else None
