"""`foveal plan`: what a training of a recipe will need, before it is launched."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer

from foveal.core.errors import InputError

GIB, MIB, TERA = 2**30, 2**20, 1e12
PARTS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer's state",
    "casts": "weights in half precision",
    "batches": "batches",
    "activations": "activations",
    "temporary": "the most beside them",
    "turns": "taken in turns",
}


def command(
    recipe: str = typer.Argument(help="A recipe that ships with Foveal, by name, or a YAML file."),
    settings: list[str] | None = typer.Argument(
        None, metavar="[KEY=VALUE]...", help="Settings over the recipe's, such as training.stages.0.batch_size=8."
    ),
    data: Path | None = typer.Option(None, "--data", help="Plan for this data set, not for the recipe's."),
    gpus: int = typer.Option(1, "--gpus", help="Devices that train together, each with batches of its own."),
    zero: int | None = typer.Option(
        None,
        "--zero",
        help="What they share: 1 the optimizer's state, 2 gradients too, 3 weights too; 0 nothing.",
        show_default="the recipe's training.zero",
    ),
    tensor: int | None = typer.Option(
        None, "--tensor", help="How many of them split each layer.", show_default="the recipe's training.tensor"
    ),
    pipeline: int | None = typer.Option(
        None,
        "--pipeline",
        help="How many of them hold the language model's layers together, some each.",
        show_default="the recipe's training.pipeline",
    ),
    memory: float | None = typer.Option(None, "--memory", help="Of a device, in GiB: say whether it fits."),
    speed: float | None = typer.Option(
        None, "--speed", help="Of a device, in TFLOP/s.", show_default="that of some steps here"
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Reckon what `foveal train` will need of each stage: samples, tokens, memory of a device, and time.

    Lengths are those of the stage's own data, in its order; memory is counted while real steps are taken on its largest
    batches. Data that the recipe makes are made as for training. Nothing is trained, and no run is written.
    """
    from functools import partial

    from foveal.cli import _recipe, _show
    from foveal.cli._planned import planned
    from foveal.cli._planner import Wish

    _check_numbers(gpus, zero=zero, memory=memory, speed=speed)
    wanted = _recipe.read(recipe, settings or [], data=data)
    own = wanted.training
    shares, splits, rows = (
        mine if given is None else given
        for mine, given in ((own.zero, zero), (own.tensor, tensor), (own.pipeline, pipeline))
    )
    _check_groups(gpus, zero=shares, tensor=splits, pipeline=rows)
    limit = None if memory is None else int(memory * GIB)
    wish = Wish(devices=gpus, zero=shares, tensor=splits, pipeline=rows, memory=limit, speed=speed)
    console = _show.console(quiet=True)
    told = planned(wanted, wish, say=_once(console.print), bar=partial(_show.bar, console))
    if as_json:
        return _show.print_json(told)
    show(told, _show.console())


def _once(say: Callable[[str], None]) -> Callable[[str], None]:
    """The same, which says no line twice: a stage is looked at several times."""
    said: set[str] = set()

    def say_once(line: str) -> None:
        if line not in said:
            say(line)
        said.add(line)

    return say_once


def _check_numbers(gpus: int, *, zero: int | None, memory: float | None, speed: float | None) -> None:
    if gpus < 1:
        raise InputError(f"--gpus {gpus}; give 1 or more")
    if zero not in (None, 0, 1, 2, 3):
        raise InputError(f"--zero {zero}; give 0 (nothing is shared), 1, 2 or 3")
    for name, value in {"--memory": memory, "--speed": speed}.items():
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"{name} {value:g}; give more than 0")


def _check_groups(gpus: int, *, zero: int, tensor: int, pipeline: int) -> None:
    if tensor < 1 or gpus % tensor:
        way = f"--gpus {tensor} or a multiple of it" if tensor > 0 else "1 or more"
        raise InputError(f"--tensor {tensor} with --gpus {gpus}; give {way}")
    if pipeline < 1:
        raise InputError(f"--pipeline {pipeline}; give 1 or more")
    if gpus % pipeline:
        raise InputError(f"--pipeline {pipeline} for --gpus {gpus}; give --gpus a multiple of {pipeline}")
    for name, other, plain in (("zero", zero, 0), ("tensor", tensor, 1)):
        if pipeline > 1 and other != plain:
            raise InputError(f"--pipeline {pipeline} and --{name} {other}; take one of them")


def show(told: dict[str, Any], console: Any) -> None:
    """A table of every stage, one of all, and for what they were reckoned."""
    from foveal.cli import _show

    for stage in told["stages"]:
        console.print(_show.table([stage["name"], "", ""], list(_rows(stage)), left=[""]))
        for line in _fitting(stage, told["for"]):
            console.print(line)
        console.print()
    heads = ["", "steps", "samples", "tokens", "memory, MiB", "TFLOP", "hours"]
    rows = [
        [one["name"], *_counts(one), f"{one['tokens']['all']:,}", _mib(one["memory"]["total"]),
         f"{one['operations'] * one['steps'] / TERA:,.3g}", f"{one['hours']:,.3g}"]
        for one in told["stages"]
    ]  # fmt: skip
    whole = told["total"]
    if whole["features"]:
        rows.append(["features", "", "", "", "", "", f"{whole['features']:,.3g}"])
    rows.append(
        ["total", *_counts(whole), f"{whole['tokens']:,}", _mib(whole["memory"]),
         f"{whole['operations'] / TERA:,.3g}", f"{whole['hours']:,.3g}"]
    )  # fmt: skip
    console.print(_show.table(heads, rows))
    console.print(_reckoned(told["for"]))


def _counts(one: dict[str, Any]) -> list[str]:
    return [f"{one['steps']:,}", f"{one['samples']:,}"]


def _rows(stage: dict[str, Any]) -> Iterator[list[str]]:
    """What is said of a stage: a number, and what it is of."""
    tokens, memory, looked = stage["tokens"], stage["memory"], stage["looked_at"]
    examples = f", {stage['examples']:,} examples" if stage["examples"] != stage["samples"] else ""
    yield ["samples", f"{stage['samples']:,}", f"in {stage['steps']:,} steps{examples}"]
    for kind in ("text", "visual"):
        mean, most = (tokens[kind][one] for one in ("mean", "most"))
        yield [f"{kind} tokens of a sample", f"{mean:,.1f}", f"at most {most:,} in a row"]
    some = "" if looked["batches"] >= looked["of"] else f", by {looked['batches']:,} of {looked['of']:,} batches"
    yield ["tokens of a step", f"{tokens['step']:,.0f}", f"on all devices{some}"]
    yield ["parameters", f"{stage['parameters']['all']:,}", f"{stage['parameters']['trained']:,} of them learn"]
    for part, name in PARTS.items():
        if memory[part]:
            sign = "-" if part == "turns" else ""
            yield [name, f"{sign}{_mib(memory[part])}", "MiB"]
    yield ["memory of a device", _mib(memory["total"]), "MiB"]
    yield ["operations of a step", f"{stage['operations'] / TERA:,.3g}", "TFLOP, on all devices"]
    yield ["time of a step", f"{stage['seconds']:,.3g}", "s, measured" if stage["measured"] else "s"]
    if (features := stage["features"]) is not None:
        yield ["features before it", f"{features['hours']:,.3g}", f"hours, of {features['images']:,} images"]
    yield ["time", f"{stage['hours']:,.3g}", "hours"]


def _fitting(stage: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    """Whether a stage fits, and what would."""
    if stage["fits"] is None:
        return
    total, limit = stage["memory"]["total"] / GIB, wanted["memory"] / GIB
    if stage["fits"]:
        yield f"{stage['name']}: fits, {total:,.2f} of {limit:,.2f} GiB"
        return
    ways = [f"{' '.join(way['settings'])} ({way['total'] / GIB:,.2f} GiB)" for way in stage["advice"]]
    what = f"these would: {', or '.join(ways)}" if ways else "and no smaller batch nor more devices would"
    yield f"{stage['name']}: does not fit, {total:,.2f} of {limit:,.2f} GiB; {what}"


def _reckoned(wanted: dict[str, Any]) -> str:
    """For what it was reckoned, in one line."""
    devices, zero, tensor = wanted["devices"], wanted["zero"], wanted["tensor"]
    what = "one device" if devices == 1 else f"{devices} devices"
    share = f", ZeRO {zero}" if zero and devices > tensor else ""
    share = f", in pipelines of {wanted['pipeline']}" if wanted["pipeline"] > 1 else share
    share = (
        f" (--zero {zero} makes no difference: there is none to share with)" if zero and devices == tensor else share
    )
    share = f", each layer split by {tensor}{share}" if tensor > 1 else share
    size = "" if wanted["memory"] is None else f" of {wanted['memory'] / GIB:,.2f} GiB"
    pace = f"at {wanted['speed'] or 0:g} TFLOP/s each"
    if wanted["speed"] is None:
        pace = f"at the speed of steps measured here ({wanted['device']}, threads {wanted['threads']})"
    apart = "" if devices == 1 else ", without the time in which they wait for one another"
    apart = ", with the filling and emptying of a pipeline and without messages" if wanted["pipeline"] > 1 else apart
    more = "" if wanted["device"] != "cpu" else "; kernels that oneDNN keeps on a processor are not in it"
    return f"reckoned for {what}{size}{share}, {pace}{apart}{more}; {wanted['hardware']}"


def _mib(count: int) -> str:
    return f"{count / MIB:,.1f}"
