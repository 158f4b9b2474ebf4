"""Low-rank adapters (LoRA, 2106.09685) through peft: put on for a stage, and merged when it ends."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from typing import Any, TypeVar

from torch import nn

from foveal.core.errors import InputError, unknown
from foveal.training.config import Lora

Model = TypeVar("Model", bound=nn.Module)


@contextmanager
def adapted(model: nn.Module, lora: Lora | None) -> Iterator[set[str]]:
    """The model carries adapters within, and their sum with its weights afterwards; yields the weights' names."""
    if lora is None:
        yield set()
        return
    attach(model, lora)
    try:
        yield {f"{name}.weight" for name, module in model.named_modules() if hasattr(module, "get_base_layer")}
    except BaseException:
        with suppress(RuntimeError, ValueError):  # shares of weights, and what is no number, have no sum
            merge(model)
        raise
    merge(model)


def check(model: nn.Module, lora: Lora | None) -> None:
    """Raises InputError for a part that is none of the model's, and for a target that ends no linear map's name."""
    if lora is None:
        return
    parts = dict(model.named_modules())
    if lora.part not in parts:
        raise unknown("part of the model for lora", lora.part, parts.keys() - {""})
    maps = [name for name, module in parts[lora.part].named_modules() if isinstance(module, nn.Linear)]
    for target in lora.targets:
        if not any(f".{name}".endswith(f".{target}") for name in maps):
            raise unknown(f"linear map in {lora.part}:", target, {name.rsplit(".", 1)[-1] for name in maps})


def attach(model: nn.Module, lora: Lora) -> None:
    """Give every linear map of `lora.part` whose name ends in a target its adapter, zero at first, in place.

    Raises InputError without peft, and for what `check` refuses.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InputError("lora wants the package peft; install it with: pip install 'foveal[lora]'") from None
    check(model, lora)
    part = model.get_submodule(lora.part)
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides it by the rank: a float is as good
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
    )
    wished = {parameter: parameter.requires_grad for parameter in part.parameters()}
    inject_adapter_in_model(settings, part)
    for parameter, learns in wished.items():  # peft freezes all else: that is the stage's to say
        parameter.requires_grad_(learns)


def merge(model: nn.Module) -> None:
    """Add every adapter to the weights beneath it, and take the adapters off."""
    for parent, name, adapted in _adapted(model):
        adapted.merge(safe_merge=True)
        setattr(parent, name, adapted.get_base_layer())
    for module in model.modules():
        vars(module).pop("peft_config", None)  # else peft takes the next stage's adapters for second ones


def merged(model: Model) -> Model:
    """The model where it carries no adapters, else a copy with all of them merged."""
    if not _adapted(model):
        return model
    own = deepcopy(model)
    merge(own)
    return own


def _adapted(model: nn.Module) -> list[tuple[nn.Module, str, Any]]:
    children = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    return [place for place in children if hasattr(place[2], "get_base_layer")]
