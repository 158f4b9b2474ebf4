"""`foveal export`: a model as graphs that another engine runs, tried beside the model itself."""

from pathlib import Path
from typing import Any

import typer

_RUN = typer.Argument(None, metavar="RUN", help="A run or checkpoint directory.", show_default="starter model")
_IMAGE = typer.Option(
    None, "--image", help="A picture of a size to be read; several by several --image.", show_default="noise"
)


def command(
    run: Path | None = _RUN,
    to: str = typer.Option("onnx", "--to", help="The engine: onnx (ONNX Runtime), openvino or aoti (AOTInductor)."),
    out: Path | None = typer.Option(None, "--out", help="Where to.", show_default="RUN-ENGINE"),
    image: list[str] | None = _IMAGE,
    size: int = typer.Option(768, "--size", help="Without --image: the side of the picture that is made, in pixels."),
    prompt: str = typer.Option("What is in the picture?", "--prompt", help="The question by which it is tried."),
    max_new_tokens: int = typer.Option(16, "--max-new-tokens", help="How many tokens are written to try it."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Write a model as graphs, and show how far what they say is from what the model says.

    What is written is asked as a run is: foveal ask PICTURE "..." --run OUT. It reads as many words and earlier tokens
    as the model does, in any number of rows, and pictures of the sizes that it was exported with.
    """
    from foveal.cli import _show
    from foveal.cli._exported import TOLERANCE, Wish, export
    from foveal.core.errors import InputError

    if max_new_tokens < 1:
        raise InputError(f"--max-new-tokens {max_new_tokens}; give 1 or more")
    place = out or Path(f"{run.resolve().name if run is not None else 'starter'}-{to}")
    console = _show.console(quiet=as_json)
    wish = Wish(
        run=run, engine=to, out=place, images=tuple(image or ()), size=size, prompt=prompt, new=max_new_tokens
    )  # fmt: skip
    told = export(wish)
    same = all(case["difference"] <= TOLERANCE and case["alike"] == case["tokens"] for case in told["asked"])
    told["same"] = same
    if as_json:
        _show.print_json(told)
    else:
        show(told, console)
    if not same:
        raise typer.Exit(1)


def show(told: dict[str, Any], console: Any) -> None:
    """The graphs with their sizes, and what both sides said."""
    from rich.table import Table

    table = Table("graph", "MB")
    for name, size in told["bytes"].items():
        table.add_row(name, f"{size / 1e6:.1f}")
    console.print(table)
    asked = Table("asked about", "visual tokens", "largest difference", "tokens alike")
    for case in told["asked"]:
        alike = f"{case['alike']}/{case['tokens']}"
        asked.add_row(case["asked"], str(case["visual_tokens"]), f"{case['difference']:.0e}", alike)
    console.print(asked)
    console.print(f"The difference is of logits, by their spread. Graphs: {told['computed_by']}.", soft_wrap=True)
    if not told["same"]:
        console.print("[red]The two do not say the same: do not use what was written.[/red]")
    else:
        console.print(f'foveal ask picture.jpg "What is this?" --run {told["out"]}', soft_wrap=True, highlight=False)
