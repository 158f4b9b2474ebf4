"""What checkpoints built on BERT (1810.04805) share: names of its parts, and words with regions beside them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, VisualTokens
from foveal.weights.arguments import same
from foveal.weights.names import Rule

EMBEDDINGS: list[Rule] = [
    ("language.embedding.weight", "embeddings.word_embeddings.weight"),
    ("language.positions.weight", "embeddings.position_embeddings.weight"),
    ("language.types.weight", "embeddings.token_type_embeddings.weight"),
    ("language.input_norm.*", "embeddings.LayerNorm.*"),
    (None, "embeddings.position_ids"),
]
_SELF = {"attention.query": "self.query", "attention.key": "self.key", "attention.value": "self.value",
         "attention.out": "output.dense", "attention_norm": "output.LayerNorm"}  # fmt: skip


def block(
    ours: str, theirs: str, *, attention: str = "attention", up: str = "intermediate", down: str = "output"
) -> list[Rule]:
    """The rules of one block, whose attention and feed-forward lie in these parts of theirs."""
    own = {mine: f"{attention}.{yours}" for mine, yours in _SELF.items()}
    own |= {"feed.up": f"{up}.dense", "feed.down": f"{down}.dense", "feed_norm": f"{down}.LayerNorm"}
    return [(f"{ours}.{mine}.*", f"{theirs}.{yours}.*") for mine, yours in own.items()]


def masked_words(head: str, *, tied: bool = True) -> list[Rule]:
    """The rules of a head of this name that predicts words, by the table of words (`tied`) or one of its own."""
    bias = ("cls.predictions.bias", "cls.predictions.decoder.bias")
    return [
        (f"heads.{head}.transform.*", "cls.predictions.transform.dense.*"),
        (f"heads.{head}.norm.*", "cls.predictions.transform.LayerNorm.*"),
        (f"heads.{head}.bias", bias if tied else bias[::-1]),
        (f"heads.{head}.table", "cls.predictions.decoder.weight"),
    ]


def asked_for(state: Mapping[str, Tensor], *, tied: bool) -> dict[str, Tensor]:
    """The weights without the bias that a reference keeps beside its decoder's, and never asks where it is not tied."""
    idle = set() if tied or "cls.predictions.decoder.bias" not in state else {"cls.predictions.bias"}
    return {name: weight for name, weight in state.items() if name not in idle}


def share(heads: nn.ModuleDict, names: Iterable[str], parts: Iterable[str]) -> None:
    """Give those of the heads that are there the same parts, where a reference has one for all of them."""
    first, *others = [heads[name] for name in names if name in heads] or [None]
    for part in parts:
        for head in others:
            setattr(head, part, getattr(first, part))


def readable(given: Float[Tensor, "*rows E"], name: str, *, model: nn.Module, width: int, way: str = "") -> Tensor:
    """Numbers of regions in the precision of the model's weights, which features out of a file need not have.

    Raises InputError for another count of them than `width` (`way` says which ones are wanted), and for what is none.
    """
    way = way or "give such as the checkpoint was made with"
    same(f"numbers a region in {name}", given.shape[-1], "in the checkpoint's config", width, way=way)
    if not torch.compiler.is_compiling() and not bool(torch.isfinite(given).all()):
        bad = int((~torch.isfinite(given)).sum())
        raise InputError(f"{name} holds {bad} values that are no numbers; mend what made these features")
    return given.to(next(model.parameters()).dtype)


def beside(
    input_ids: Int[Tensor, "B L"],
    features: Float[Tensor, "rows R E"],
    boxes: Float[Tensor, "boxes places box"] | None = None,
    *,
    names: tuple[str, ...],
    words: Shaped[Tensor, "*known"] | None = None,
    seen: Shaped[Tensor, "images shown"] | None = None,
    types: Int[Tensor, "lines kinds"] | None = None,
    kinds: Int[Tensor, "sights sorts"] | None = None,
    places: Int[Tensor, "orders positions"] | None = None,
    alignment: Int[Tensor, "images shown A"] | None = None,
) -> Batch:
    """Every row's words, then its regions with their boxes, padding and all.

    `names` are those that the reference gives to features and boxes; the masks say which words and which regions
    count, `types` and `kinds` what words and regions are (0 without), `alignment` which words a region shows. Raises
    InputError for counts that differ.
    """
    rows, count = len(input_ids), features.shape[1]
    fit({names[-1]: boxes, names[0]: features, "an alignment": alignment}, (rows, count), f"regions in {names[0]}", 3)
    fit({"a mask": seen, "types of regions": kinds}, (rows, count), f"regions in {names[0]}")
    fit_words(input_ids, {"a mask of words": words, "token types": types, "positions": places})
    slots = torch.arange(rows * count, device=input_ids.device).view(rows, count)
    visual = VisualTokens.on_layout(features.flatten(0, 1), Layout(counts=(count,) * rows, grids=(None,) * rows))
    return joined(
        input_ids,
        visual if boxes is None else replace(visual, boxes=boxes.flatten(0, 1)),
        slots,
        words=words,
        seen=torch.ones_like(slots) if seen is None else seen,
        types=types,
        kinds=torch.zeros_like(slots) if kinds is None else kinds,
        places=places,
        alignment=None if alignment is None else alignment.flatten(0, 1),
    )


def fit(parts: Mapping[str, Tensor | None], wanted: tuple[int, int], of: str, axes: int = 2) -> None:
    """Raise InputError for a part, by its name, that has not so many rows, and an entry for each (named by `of`)."""
    rows, count = wanted
    for what, given in parts.items():
        if given is not None:
            same(f"axes of {what}", given.ndim, "axes in what it stands beside", axes, way="give it in rows")
            same(f"rows of {what}", len(given), "of input_ids", rows, way="give one to each text")
            same(f"entries of {what}", given.shape[1], of, count)


def fit_words(input_ids: Int[Tensor, "B L"], parts: Mapping[str, Tensor | None]) -> None:
    """The same for parts that have an entry for each word."""
    fit(parts, (input_ids.shape[0], input_ids.shape[1]), "tokens in input_ids")


def joined(
    input_ids: Int[Tensor, "B L"],
    visual: VisualTokens,
    slots: Int[Tensor, "B R"],
    *,
    words: Shaped[Tensor, "B L"] | None,
    seen: Shaped[Tensor, "B R"],
    types: Int[Tensor, "B L"] | None,
    kinds: Int[Tensor, "B R"],
    places: Int[Tensor, "B L"] | None = None,
    alignment: Int[Tensor, "S A"] | None = None,
) -> Batch:
    """The batch of every row's words and then its visual tokens, which stand where `slots` say (-1: none there)."""
    none = torch.zeros_like(slots)
    known = torch.ones_like(input_ids) if words is None else words
    sorts = torch.zeros_like(input_ids) if types is None else types
    order = torch.arange(input_ids.shape[1], device=slots.device).expand_as(input_ids) if places is None else places
    valid = torch.cat([known, seen], 1).bool()
    return Batch(
        input_ids=torch.cat([input_ids, none], 1),
        valid=valid,
        prompt=valid,
        image_slot=torch.cat([torch.full_like(input_ids, -1), slots], 1),
        positions=torch.cat([order, none], 1),
        types=torch.cat([sorts, kinds], 1),
        alignment=alignment,
        visual=visual,
        owner=torch.arange(len(input_ids), device=slots.device),
        begin=none.new_zeros(len(input_ids)),  # references pool the first place, padding or not
        full=bool(valid.all()),
    )
