"""How a command is told to choose tokens: the best by default, or drawn."""

import math
from typing import Any

import typer

from foveal.core.errors import InputError

TEMPERATURE = typer.Option(None, "--temperature", help="Draw tokens at this temperature.", show_default="the best")
TOP_P = typer.Option(None, "--top-p", help="Draw from the best tokens that hold this probability together.")
TOP_K = typer.Option(None, "--top-k", help="Draw from this many best tokens.")
SEED = typer.Option(0, "--seed", help="Where drawing begins.")


def sampling(*, temperature: float | None, top_p: float | None, top_k: int | None, seed: int, spelled: bool) -> Any:
    """The choice that these options make: None (a model's own) where neither of the first three is given.

    What is `spelled` (objects, places) is drawn as Pix2Seq does, within `top_p`; words are drawn up to it and over.
    Raises InputError for a setting out of its range.
    """
    import torch

    from foveal.decode.constrained import nucleus
    from foveal.decode.sampling import sampler

    if not -(2**63) <= seed < 2**64:
        raise InputError(f"--seed {seed} is too large for a seed; give a number below 2**64")
    if temperature is not None and not math.isfinite(temperature):
        raise InputError(f"--temperature {temperature} draws nothing; give a number above 0, such as 0.7")
    torch.manual_seed(seed)  # a checkpoint's own settings may draw as well
    if temperature is None and top_p is None and top_k is None:
        return None
    heat = 1.0 if temperature is None else temperature
    if spelled:
        most = 1.0 if top_p is None else top_p
        return nucleus(top_p=most, top_k=top_k or 0, temperature=heat)
    return sampler(temperature=heat, top_k=top_k, top_p=top_p)


def check(drawing: Any, model: Any) -> None:
    """Raises InputError where tokens are to be drawn of a model that chooses its answers and writes none."""
    from foveal.decode.choose import Chooser

    if drawing is not None and isinstance(model, Chooser):
        raise InputError(
            "this run chooses the best of whole answers and draws no tokens; leave --temperature, --top-p and --top-k "
            "out"
        )
