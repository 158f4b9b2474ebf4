"""The parts of an assembly out of its config, where widths meet."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from foveal.core.errors import InputError
from foveal.core.interfaces import Connector, Fusion, VisionEncoder
from foveal.core.lookup import build, kind, names
from foveal.core.outside import outside
from foveal.models import seats
from foveal.models.config import ModelConfig

M = TypeVar("M", bound=nn.Module)


def sight(config: ModelConfig, *, width: int, fusion: Fusion) -> tuple[VisionEncoder | None, Connector | None]:
    """The vision encoder and the connector to a language `width`, or nothing, as the config says.

    Raises InputError where a fusion that reads codes gets none or other ones, other fusions lack a connector or get
    another width without one, and where a connector wants a grid that the encoder lays no tokens on.
    """
    vision = build("vision", config.vision) if config.vision is not None else None
    width = getattr(fusion, "apart", width)  # sight may have a stream of its own width
    codes, read = getattr(vision, "codes", 0), getattr(fusion, "codes", 0)
    bare = config.connector is None
    if config.vision is not None and (read or bare) and (codes != read or not bare):
        raise InputError(
            f"fusion {config.part('fusion').name!r} reads {read or 'no'} codes, vision {config.vision.name!r} has "
            f"{codes or 'none'}, and the connector is {config.connector.name if config.connector else 'null'}; "
            "take 'vocabulary' with the codes of 'vq' and a connector of null, or give the fusion a connector"
        )
    if config.connector is None:
        if vision is not None and not read and vision.width != width:
            raise InputError(
                f"the connector is null, vision {config.part('vision').name!r} has width {vision.width}, and the "
                f"fusion reads {width}; take the connector linear or mlp, or equal widths"
            )
        return vision if vision is None else vision.requires_grad_(False), None  # no gradient passes a code
    width_in = vision.width if vision is not None else config.features
    connector = build("connectors", config.connector, width_in=width_in, width_out=width)
    if vision is not None and not getattr(vision, "on_grid", True):
        _check_gridless(config, connector, vision)
    return vision, connector


def _check_gridless(config: ModelConfig, connector: Connector, vision: Any) -> None:
    layout = vision.plan([(vision.image_size, vision.image_size)])
    try:
        connector.plan(layout)
    except InputError:
        raise InputError(
            f"vision {config.part('vision').name!r} lays its tokens on no grid, and connector "
            f"{config.part('connector').name!r} wants one; take mlp, or another encoder"
        ) from None


def check_reading(config: ModelConfig, *, fusion: Fusion, language: Any) -> None:
    """Raises InputError where one of fusion and language fills a memory and the other reads none, and where the fusion
    asks which tokens are valid of a language model that does not tell.
    """
    pair = config.part("fusion").name, config.part("language").name
    if getattr(fusion, "fills_memory", False) != getattr(language, "reads_memory", False):
        raise InputError(
            f"fusion {pair[0]!r} and language {pair[1]!r} differ on who looks at the images; "
            "take 'memory' with 'sequence_decoder', or neither"
        )
    if getattr(fusion, "reads_valid", False) and not getattr(language, "tells_valid", True):
        raise InputError(
            f"fusion {pair[0]!r} asks which tokens are valid, and language {pair[1]!r} does not tell; take "
            "'encoder' with this fusion"
        )


def deeper(config: ModelConfig, *, vision: VisionEncoder | None, width: int, fusion: Fusion) -> nn.ModuleList | None:
    """A connector to a language `width` for each level of the encoder that the fusion reads; None: it reads none.

    Raises InputError where the encoder gives another number of them.
    """
    if config.vision is None and config.connector is None:
        return None  # a model of words alone, such as the twin that is trained without images
    wanted, each = getattr(fusion, "levels", 0), config.levels or config.connector
    widths = getattr(vision, "level_widths", ())
    if len(widths) != wanted:
        raise InputError(
            f"fusion {config.part('fusion').name!r} reads {wanted or 'no'} levels of images and vision "
            f"{config.vision.name if config.vision else 'null'!r} gives {len(widths) or 'none'}; name as many in "
            "vision.levels as in fusion.after, with 'deepstack'"
        )
    if not wanted or each is None:
        return None
    return nn.ModuleList(build("connectors", each, width_in=one, width_out=width) for one in widths)


def language_for(config: ModelConfig, *needs: str) -> Any:
    """The language model. Raises InputError for one without what the assembly `needs` of it, naming those that have it,
    and for one without a table of words, which heads and allocators read.

    A Q-Former's queries and words are no stream that a fusion could reach.
    """
    wanted = config.part("language")

    def fits(name: str) -> bool:
        return all(hasattr(kind("language", name), need) for need in needs)

    if not fits(wanted.name):
        found = " or ".join(filter(fits, sorted({*names("language")} - {*outside("language")})))
        alone = ", or assembly: two_tower for queries beside words" if wanted.name == "qformer" else ""
        raise InputError(f"language {wanted.name!r} is unfit for a {config.assembly} model; take {found}{alone}")
    language = build("language", wanted)
    if getattr(getattr(language, "embedding", None), "weight", None) is None:
        raise InputError(
            f"language {wanted.name!r} is unfit for a {config.assembly} model: {type(language).__name__} lacks an "
            "embedding with a weight, the table of its words; give it one, as foveal.core.interfaces.LanguageModel says"
        )
    return language


def spender(config: ModelConfig, **parts: Any) -> nn.Module | None:
    """The allocator that the config names; None: all visual tokens are kept. Raises InputError for one in vain."""
    return None if config.allocator is None else seats.fit(build("relevance.strategies", config.allocator), **parts)


def unfilled(assemble: Callable[[ModelConfig], M], config: ModelConfig) -> M:
    """An assembly whose weights take no memory yet, for loading a checkpoint into."""
    with torch.device("meta"), _Undrawn():
        return assemble(config)


class _Undrawn(TorchFunctionMode):
    """Draws no weights: for those that have no memory, torch would first load its compiler."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init" or function in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))
