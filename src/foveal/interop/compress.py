"""The drop-in for transformers: a vision-language model that reads a budget of visual tokens an image.

The model stays what it is, with its own processor, generate() and caches. What its language model is about to read is
made shorter: visual tokens, their places, masks, positions and DeepStack levels alike.
"""

from collections.abc import Iterable
from operator import index
from typing import Any, SupportsIndex, TypeVar

from torch import nn

from foveal.core.errors import InputError
from foveal.interop.compression import Compression, standing
from foveal.interop.pictures import FAMILIES
from foveal.interop.spending import Purse

M = TypeVar("M", bound=nn.Module)


def compress(
    model: M, *, budget: SupportsIndex, strategy: str = "foveal", quiet: Iterable[int] = (), **settings: Any
) -> M:
    """The model itself, a transformers one, which from now on reads at most `budget` visual tokens of each image.

    `strategy` and its `settings` are those of foveal.relevance. Tokens `quiet` in the prompt ask nothing, besides those
    that the model's config names (give a tokenizer's `all_special_ids`). `model.foveal.last` tells what was read, and
    `restore()` of the model, or of `model.foveal`, undoes it; so does a later call, of a model around it or in it too.
    Raises InputError for a model of another family, several models in one, a budget below 1, an unknown strategy or
    setting, one that is learned by training, a seed of more than 64 bits, and tokens by other than their numbers.
    """
    hushed, seed = numbers(quiet), settings.get("seed", 0)
    if isinstance(seed, int) and not -(2**63) <= seed < 2**64:
        raise InputError(f"a seed of {seed} is beyond 64 bits; give one from 0 to {2**64 - 1}")
    purse = Purse(budget, strategy, settings)
    if hears := getattr(purse.allocator(purse.budget), "hears", 0):
        raise InputError(
            f"strategy {strategy!r} with hears={hears} hears what it has been taught, and foveal.compress teaches "
            "nothing; leave hears out, or train a checkpoint that foveal.load takes"
        )
    head, base, language = _parts(model)
    for old in standing(base):
        old.restore()
    hushed |= _special(base.config, getattr(head, "generation_config", None))
    Compression(purse, owner=model, head=head, base=base, language=language, quiet=hushed)
    return model


def numbers(quiet: Any) -> frozenset[int]:
    """Tokens by their numbers. Raises InputError for anything else, and for numbers of more than 64 bits."""
    try:
        found = frozenset(map(index, quiet))
    except TypeError:
        found = None
    if found is None or not all(-(2**63) <= number < 2**63 for number in found):
        raise InputError(f"quiet={quiet!r:.60} names no tokens; give their numbers, as tokenizer.all_special_ids does")
    return found


def _parts(model: Any) -> tuple[Any, Any, Any]:
    """The head (None: there is none), what puts text and images together, and the language model under it."""
    every, wanted = dict(model.named_modules()) if isinstance(model, nn.Module) else {}, model
    found = {name: base for name, base in every.items() if _language(base) is not None}
    if len(found) > 1:
        raise InputError(
            f"{len(found)} models that could be compressed, {' and '.join(map(repr, found))}; compress each by itself"
        )
    for base in found.values():
        heads = [module for module in every.values() if base in module.children() and hasattr(module, "loss_function")]
        if not heads or hasattr(heads[0], "prepare_inputs_for_generation"):
            return (heads[0] if heads else None), base, _language(base)
        wanted = heads[0]  # which reads more than words out of it, and would find fewer tokens there
    kind = getattr(getattr(wanted, "config", None), "model_type", type(wanted).__name__)
    raise InputError(f"a model of kind {kind!r} is not known here; foveal.compress takes {', '.join(FAMILIES)}")


def _language(base: nn.Module) -> nn.Module | None:
    """The language model of what puts text and images together, of a family that is known; None: it is no such."""
    known = getattr(getattr(base, "config", None), "model_type", None) in FAMILIES
    return (base._modules.get("language_model") or base._modules.get("text_model")) if known else None


def _special(*configs: Any) -> frozenset[int]:
    """Tokens that the configs name: ends, padding, images."""
    found: set[int] = set()
    for config in (*configs, getattr(configs[0], "text_config", None)):
        for name, value in (config.to_dict() if config is not None else {}).items():
            if name.endswith("_token_id") and value is not None:
                found.update(value if isinstance(value, list) else [value])
    return frozenset(found)
