"""`foveal bench`: what an answer costs, with all visual tokens, under budgets, and beside transformers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from foveal.cli import _budget
from foveal.core.errors import InputError, unknown

if TYPE_CHECKING:
    from foveal.cli._benched import Wish

_RUN = typer.Argument(None, metavar="RUN", help="A run or checkpoint directory.", show_default="starter model")
_IMAGE = typer.Option(None, "--image", help="A picture to ask about; several by several --image.", show_default="noise")
PARTS = {
    "prepare": "prepare",
    "see": "see",
    "choose": "choose",
    "read": "read",
    "first": "first token",
    "token": "each later",
    "answer": "answer",
}
_DTYPES = ("float32", "bfloat16", "float16")


def command(
    run: Path | None = _RUN,
    against: str | None = typer.Option(None, "--against", help="Also by `huggingface`: transformers itself."),
    budget: str | None = _budget.BUDGETS,
    strategy: str | None = _budget.STRATEGIES,
    image: list[str] | None = _IMAGE,
    size: int = typer.Option(768, "--size", help="Without --image: the side of the picture that is made, in pixels."),
    prompt: str = typer.Option("What is in the picture?", "--prompt", help="The question."),
    max_new_tokens: int = typer.Option(16, "--max-new-tokens", help="How many tokens every answer has."),
    batch: int = typer.Option(1, "--batch", help="How many are asked together."),
    rounds: int = typer.Option(5, "--rounds", help="How often every side answers, after once that is not counted."),
    threads: int | None = typer.Option(None, "--threads", help="Of the processor.", show_default="torch's own"),
    dtype: str = typer.Option("float32", "--dtype", help="float32, bfloat16 or float16."),
    memory: bool = typer.Option(True, "--memory/--no-memory", help="Also load each side in a process of its own."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Time a model: pictures prepared and seen, the first token, each later one, and the most memory.

    Sides take turns in one run: the same checkpoint by transformers (--against huggingface), all visual tokens, and
    every budget. Each is told with its ratio to the first one, the median over rounds; below 1 is better.
    """
    import torch

    from foveal.cli import _benched, _show

    if dtype not in _DTYPES:
        raise unknown("dtype", dtype, _DTYPES)
    counts = {"--batch": batch, "--threads": threads, "--max-new-tokens": max_new_tokens, "--rounds": rounds}
    for name, number in counts.items():
        if number is not None and number < 1:
            raise InputError(f"{name} {number}; give 1 or more")
    if against is not None and against != _benched.THEIRS:
        raise unknown("side to compare with:", against, (_benched.THEIRS,))
    if against is not None and run is None:
        raise InputError("the starter model is none of transformers'; name a checkpoint's directory before --against")
    if "-" in (image or ()):
        raise InputError("--image - is read once, and every side opens its pictures; name a file")
    if threads is not None:
        torch.set_num_threads(threads)
    spendings = tuple(_budget.many(budget, strategy))
    wish = _benched.Wish(
        run=run, images=tuple(image or ()), size=size, prompt=prompt, new=max_new_tokens, rows=batch, dtype=dtype,
        against=against, spendings=spendings,
    )  # fmt: skip
    console = _show.console(quiet=as_json)
    told = measured(wish, rounds=rounds, memory=memory, console=console)
    if as_json:
        return _show.print_json(told)
    show(told, console)


def measured(wish: "Wish", *, rounds: int, memory: bool, console: Any) -> dict[str, Any]:
    """What every side costs, by which model, on what machine."""
    import gc

    import torch

    from foveal.cli import _benched, _show
    from foveal.cli._report import hardware
    from foveal.evaluation.bench import in_turns

    found = dict(_benched.sides(wish, _benched.names(wish)))
    sides = {name: found[name] for name in _benched.names(wish)}
    with _show.bar(console, "answers", (rounds + 1) * len(sides)) as advance:
        figures = in_turns({name: _counted(side, advance) for name, side in sides.items()}, rounds=rounds)
    threads = torch.get_num_threads()
    rows, equal = [{"side": name, **_about(side, figures[name])} for name, side in sides.items()], _equal(sides)
    del found, sides  # so that they are not held beside those whose memory is measured
    gc.collect()
    first = None
    for row in rows if memory else ():
        most = _benched.peak(wish, row["side"], threads)
        first = first or most
        row["memory"] = {"bytes": most, "ratio": most / first if most and first else None}
    told = {"run": str(wish.run or "starter"), "hardware": hardware(), "threads": threads, "dtype": wish.dtype}
    told |= {"rounds": rounds, "batch": wish.rows, "new": wish.new, "equal": equal}
    return {**told, "sides": rows}


def _counted(side: Any, advance: Any) -> Any:
    """The side, of which it is told whenever it has answered."""

    def answer() -> dict[str, float]:
        told = side()
        advance(1)
        return told

    return answer


def _about(side: Any, figures: Any) -> dict[str, Any]:
    """What a side read, how long each part took, and how many tokens a second it wrote, all rows together."""
    parts = {part: {"ms": 1000 * one.seconds, "ratio": one.ratio} for part, one in figures.items()}
    wish, told = side.wish, {"tokens": side.tokens, "visual_tokens": side.visual_tokens}
    speed = wish.rows * wish.new / figures["answer"].seconds if side.tokens else None
    return {**told, "parts": parts, "tokens_per_second": speed}


def _equal(sides: Any) -> int | None:
    """How many tokens of the first row Foveal and transformers wrote alike; None where transformers did not write."""
    from foveal.cli._benched import ALL, THEIRS

    if THEIRS not in sides or sides[ALL].said is None:
        return None
    ours, theirs = (sides[name].said[0].tolist() for name in (ALL, THEIRS))
    return sum(one == other for one, other in zip(ours, theirs, strict=False))


def show(told: dict[str, Any], console: Any) -> None:
    """The sides as a table, and below it by what they were measured."""
    from foveal.cli import _show

    first, parts = told["sides"][0], [part for part in PARTS if any(part in side["parts"] for side in told["sides"])]
    rows = []
    for side in told["sides"]:
        visual = "" if side["visual_tokens"] is None else str(side["visual_tokens"])
        row = [side["side"], str(side["tokens"] or ""), visual]
        row += [_cell(side["parts"].get(part), "ms", 1, first=side is first) for part in parts]
        row += [f"{side['tokens_per_second']:.1f}" if side["tokens_per_second"] else ""]
        row += [_cell(side["memory"], "bytes", 2**20, first=side is first)] if "memory" in side else []
        rows.append(row)
    heads = ["", "tokens", "visual", *(f"{PARTS[part]}, ms" for part in parts), "tokens/s"]
    heads += ["memory, MiB"] if "memory" in first else []
    console.print(_show.table(heads, rows))
    equal = "" if told["equal"] is None else f"; {told['equal']} of {told['new']} tokens equal"
    read = {side["tokens"] for side in told["sides"][:2]} if told["equal"] is not None else set()
    if len(read) > 1:  # where the checkpoint has no chat template, each asks in its own way
        equal += f"; their prompts differ ({' and '.join(map(str, sorted(read)))} tokens), and so may times"
    threads = f"{told['threads']} thread{'s' if told['threads'] > 1 else ''}"
    console.print(f"{told['hardware']}, {threads}, {told['dtype']}, {told['rounds']} rounds{equal}")


def _cell(part: dict[str, float | None] | None, unit: str, of: int, *, first: bool) -> str:
    """The figure, and its ratio to the first side's."""
    if part is None or (value := part[unit]) is None:
        return ""
    return f"{value / of:,.1f}" if first or part["ratio"] is None else f"{value / of:,.1f} ({part['ratio']:.2f}x)"
