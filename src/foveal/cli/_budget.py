"""The budget of visual tokens as options of commands."""

from typing import Any

import typer

from foveal.core.errors import InputError

BUDGET = typer.Option(None, "--budget", help="The most visual tokens of a picture that the language model reads.")
BUDGETS = typer.Option(
    None, "--budget", help="Score with at most so many visual tokens a picture, such as 64 or 128,64."
)
STRATEGIES = typer.Option("foveal", "--strategy", help="How they are chosen, such as foveal,random.")
DRAWS = typer.Option(1, "--draws", help="With --budget: how often a strategy of lots is drawn.")
CONTROLS = typer.Option(False, "--controls", help="With --budget: also let other questions say where to look.")
STRATEGY = typer.Option("foveal", "--strategy", help="How these are chosen.", show_default="foveal")


def spending(budget: int | None, strategy: str) -> dict[str, Any]:
    """What an answer is to cost, as settings of `answer`; none where no budget is given."""
    if budget is None:
        if strategy != "foveal":
            raise InputError(f"--strategy {strategy} spends a budget and there is none; give --budget, such as 64")
        return {}
    return {"budget": budget, "strategy": strategy}


def many(budgets: str | None, strategies: str, *, draws: int = 1, controls: bool = False) -> list[tuple[str, int]]:
    """Every strategy with every budget, out of lists with commas.

    Raises InputError for what is no number, and for settings of budgets where there are none.
    """
    if budgets is None:
        spending(None, strategies)
        if draws != 1 or controls:
            name = "--controls is" if controls else f"--draws {draws} is"
            raise InputError(f"{name} of budgets and there is none; give --budget, such as 64")
        return []
    try:
        numbers = [int(one) for one in budgets.split(",")]
    except ValueError:
        raise InputError(f"--budget {budgets} holds what is no number; give one or several, such as 64,128") from None
    return [(name.strip(), number) for name in strategies.split(",") for number in numbers]
