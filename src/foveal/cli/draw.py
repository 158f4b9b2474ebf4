"""`foveal draw`: a picture out of words."""

from pathlib import Path

import typer

from foveal.cli import _sampling


def command(
    prompt: str = typer.Argument(metavar="PROMPT", help="What to draw, as the run was taught to be asked."),
    run: Path = typer.Option(..., "--run", help="A run or checkpoint directory that draws."),
    out: Path = typer.Option(Path("drawing.png"), "--out", help="The picture's file."),
    temperature: float = typer.Option(1.0, "--temperature", help="How freely codes are drawn."),
    top_p: float | None = _sampling.TOP_P,
    top_k: int | None = _sampling.TOP_K,
    seed: int = _sampling.SEED,
) -> None:
    """Draw a picture of what the words say."""
    from foveal.cli._runs import open_run
    from foveal.core.errors import InputError

    if not prompt.strip():
        raise InputError("the prompt is empty; say what to draw, such as 'Draw a fox.'")
    chosen = _sampling.sampling(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed, spelled=False)
    (picture,) = open_run(run).draw([prompt], sampling=chosen)
    try:
        picture.save(out)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {out}: {error}; name a file that ends in .png or .jpg") from None
    print(out)
