"""Transformer blocks over the encoder that a model has: what it sees by stays, and gets a class token and attention."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from foveal.core.config import dump
from foveal.core.errors import InputError
from foveal.core.lookup import build, spec

NAME = "hybrid_vit"


def look_over(model: Any, given: Mapping[str, Any] | str) -> None:
    """Put blocks over a model's encoder, in place, by settings of `hybrid_vit`; they begin as if they were not there.

    Raises InputError for another encoder, a stem that is named anew, and a model without an encoder.
    """
    told = {"name": given} if isinstance(given, str) else dict(given)
    own = model.config.vision
    if told.get("name") != NAME or "stem" in told or own is None or model.vision is None:
        raise InputError(
            f"model.vision of {told} over a run; give {NAME}, whose stem is the encoder of the run, and a run that has "
            "one"
        )
    wanted = spec("vision", {**told, "stem": {"name": own.name, **dump(own.settings)}})
    made: Any = build("vision", wanted)
    made.stem = model.vision
    device = next(model.parameters()).device
    model.vision, model.config = made.to(device).train(model.training), replace(model.config, vision=wanted)
