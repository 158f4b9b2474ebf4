"""`foveal export`: a model as graphs that another engine runs, or behind a server, tried beside the model itself."""

from pathlib import Path
from typing import Any

import typer

_RUN = typer.Argument(None, metavar="RUN", help="A run or checkpoint directory.", show_default="starter model")
_IMAGE = typer.Option(
    None, "--image", help="A picture of a size to be read; several by several --image.", show_default="noise"
)
_TRITON = "triton"


def command(
    run: Path | None = _RUN,
    to: str = typer.Option(
        "onnx",
        "--to",
        help="The engine: onnx (ONNX Runtime), openvino, aoti (AOTInductor) or tensorrt; or triton, a server.",
    ),
    out: Path | None = typer.Option(None, "--out", help="Where to.", show_default="RUN-ENGINE"),
    image: list[str] | None = _IMAGE,
    size: int = typer.Option(768, "--size", help="Without --image: the side of the picture that is made, in pixels."),
    prompt: str = typer.Option("What is in the picture?", "--prompt", help="The question by which it is tried."),
    max_new_tokens: int = typer.Option(16, "--max-new-tokens", help="How many tokens are written to try it."),
    engine: str | None = typer.Option(
        None, "--engine", help="Of --to triton: torch, or one of the engines.", show_default="torch"
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Write a model as graphs, and show how far what they say is from what the model says.

    What is written is asked as a run is: foveal ask PICTURE "..." --run OUT. It reads as many words and earlier tokens
    as the model does, in any number of rows, and pictures of the sizes that it was exported with. Triton answers over
    what --to triton writes: tritonserver --model-repository OUT.
    """
    from foveal.cli import _exported, _exported_served, _show
    from foveal.core.errors import InputError, unknown
    from foveal.inference.sessions import engines

    if to not in (*engines(), _TRITON):
        raise unknown("engine", to, (*engines(), _TRITON))
    if engine is not None and to != _TRITON:
        raise InputError(f"--engine {engine} is of --to triton; leave it out, or give --to {engine}")
    if max_new_tokens < 1:
        raise InputError(f"--max-new-tokens {max_new_tokens}; give 1 or more")
    name = run.resolve().name if run is not None else "starter"
    computes = (engine or _exported_served.TORCH) if to == _TRITON else to
    place, images = out or Path(f"{name}-{to}"), tuple(image or ())
    wish = _exported.Wish(
        run=run, engine=computes, out=place, images=images, size=size, prompt=prompt, new=max_new_tokens
    )  # fmt: skip
    told = _exported_served.export(wish, name=name) if to == _TRITON else _exported.export(wish)
    alike = [case["difference"] <= _exported.TOLERANCE and case["alike"] == case["tokens"] for case in told["asked"]]
    served = told.get("served", {"asked": 0, "alike": 0})
    told["same"] = all(alike) and served["alike"] == served["asked"]
    if as_json:
        _show.print_json(told)
    else:
        show(told, _show.console(quiet=False))
    if not told["same"]:
        raise typer.Exit(1)


def show(told: dict[str, Any], console: Any) -> None:
    """The graphs with their sizes, and what both sides said."""
    from rich.table import Table

    table = Table("graph" if told["asked"] else "", "MB")
    for name, size in told["bytes"].items():
        table.add_row(name, f"{size / 1e6:.1f}")
    console.print(table)
    if told["asked"]:
        asked = Table("asked about", "visual tokens", "largest difference", "tokens alike")
        for case in told["asked"]:
            alike = f"{case['alike']}/{case['tokens']}"
            asked.add_row(case["asked"], str(case["visual_tokens"]), f"{case['difference']:.0e}", alike)
        console.print(asked)
        say(console, f"The difference is of logits, by their spread. Graphs: {told['computed_by']}.")
    if told.get("tried") is False:
        say(console, "TensorRT itself was not tried: there is none in this ONNX Runtime. Where it is, ask again there.")
    if (served := told.get("served")) is not None:
        by = "Triton over the repository" if served["by"] else "The run in it (there is no tritonserver here to ask)"
        say(console, f"{by} gave {served['alike']} of {served['asked']} answers as the model does.")
    if not told["same"]:
        console.print("The two do not say the same: do not use what was written.", style="red")
    elif served is not None:
        say(console, f"tritonserver --model-repository {told['out']}")
    else:
        say(console, f'foveal ask picture.jpg "What is this?" --run {told["out"]}')


def say(console: Any, line: str) -> None:
    """A line that is not cut."""
    console.print(line, soft_wrap=True, highlight=False)
