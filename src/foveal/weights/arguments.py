"""The arguments that references are called with: those that change nothing, and numbers that must agree."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from foveal.core.errors import InputError, unknown

# Arguments of the references' classes that no wrapper needs, with the values that leave all as it is.
HARMLESS: dict[str, tuple[Any, ...]] = {
    "use_cache": (None, True, False),
    "return_dict": (None, True),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
    "past_key_values": (None,),
    "inputs_embeds": (None,),
    "image_embeds": (None,),
    "head_mask": (None,),
    "incremental_state": (None,),
    "positions": (None,),
    "logits_to_keep": (0,),
    "clear_conditioned_layers": (True,),
}


def heeded(given: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The arguments whose names are `known`, without the harmless others.

    Raises InputError for one that the reference does not have, and for a value that would change the answer.
    """
    names = set(known)
    for name, value in given.items():
        if name in names:
            continue
        if name not in HARMLESS:
            raise unknown("argument", name, names)
        if isinstance(value, Tensor) or value not in HARMLESS[name]:
            told = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise InputError(f"{name}={told} is not supported; leave it out")
    return {name: value for name, value in given.items() if name in names}


def unneeded(given: Mapping[str, Any], call: Callable[..., Any]) -> None:
    """The same of what is left over beside the arguments that a `call` names: none of it may change the answer."""
    named = [one.name for one in inspect.signature(call).parameters.values() if one.kind is not one.VAR_KEYWORD]
    if left := [name for name in given if name not in HARMLESS]:
        raise unknown("argument", left[0], named)
    heeded(given, ())


def aligned(words: Tensor, given: Mapping[str, Any]) -> None:
    """Raise InputError where what says something of each word has another shape than the words."""
    for name in ("attention_mask", "labels"):
        if isinstance(given.get(name), Tensor):
            mine, theirs = list(given[name].shape), list(words.shape)
            same(name, mine, "input_ids", theirs, way="give each word its own")


def in_table(words: Tensor, size: int) -> None:
    """Raise InputError for a word that a table of so many does not hold."""
    if not words.numel() or torch.compiler.is_compiling():
        return
    least, most = (int(one) for one in words.aminmax())
    if least < 0 or most >= size:
        raise InputError(
            f"input_ids from {least} to {most} but the model has {size} words; take the tokenizer of its checkpoint"
        )


def same(what: str, mine: Any, other: str, theirs: Any, *, way: str = "give one to each") -> None:
    """Raise InputError where two counts or shapes differ, with both and the way out."""
    if mine != theirs:
        raise InputError(f"{mine} {what} but {theirs} {other}; {way}")
