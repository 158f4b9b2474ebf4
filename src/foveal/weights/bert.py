"""What checkpoints built on BERT (1810.04805) share: names of its parts, and words with regions beside them."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, VisualTokens
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


def masked_words(head: str) -> list[Rule]:
    """The rules of a head of this name that predicts words."""
    return [
        (f"heads.{head}.transform.*", "cls.predictions.transform.dense.*"),
        (f"heads.{head}.norm.*", "cls.predictions.transform.LayerNorm.*"),
        (f"heads.{head}.bias", ("cls.predictions.bias", "cls.predictions.decoder.bias")),
        (f"heads.{head}.table", "cls.predictions.decoder.weight"),
    ]


def share(heads: nn.ModuleDict, names: Iterable[str], parts: Iterable[str]) -> None:
    """Give those of the heads that are there the same parts, where a reference has one for all of them."""
    first, *others = [heads[name] for name in names if name in heads] or [None]
    for part in parts:
        for head in others:
            setattr(head, part, getattr(first, part))


def beside(
    input_ids: Int[Tensor, "B L"],
    features: Float[Tensor, "rows R E"],
    boxes: Float[Tensor, "boxes places box"],
    *,
    names: tuple[str, str],
    words: Shaped[Tensor, "texts known"] | None = None,
    seen: Shaped[Tensor, "images shown"] | None = None,
    types: Int[Tensor, "lines kinds"] | None = None,
) -> Batch:
    """Every row's words, then its regions with their boxes, padding and all.

    `names` are those that the reference gives to features and boxes; the masks say which words and which regions count.
    Raises InputError for counts that differ.
    """
    rows, count, length = len(input_ids), features.shape[1], input_ids.shape[1]
    known = torch.ones_like(input_ids) if words is None else words
    kinds = torch.zeros_like(input_ids) if types is None else types
    regions = torch.arange(len(features) * count, device=input_ids.device).view(-1, count)
    shown = torch.ones_like(regions) if seen is None else seen
    parts = {names[0]: features, names[1]: boxes, "a mask": shown, "a mask of words": known, "token types": kinds}
    for what, given in parts.items():
        if len(given) != rows:
            raise InputError(f"{len(given)} rows of {what} but {rows} of input_ids; give one to each text")
    for what, given, wanted, others in (
        ("boxes", boxes, count, f"regions in {names[0]}"),
        ("entries of a mask", shown, count, f"regions in {names[0]}"),
        ("entries of a mask of words", known, length, "tokens in input_ids"),
        ("token types", kinds, length, "tokens in input_ids"),
    ):
        if given.shape[1] != wanted:
            raise InputError(f"{given.shape[1]} {what} but {wanted} {others}; give one to each")
    return _joined(input_ids, features, boxes, valid=torch.cat([known, shown], 1).bool(), types=kinds, slots=regions)


def _joined(
    words: Int[Tensor, "B L"],
    features: Float[Tensor, "B R E"],
    boxes: Float[Tensor, "B R box"],
    *,
    valid: Shaped[Tensor, "B L+R"],
    types: Int[Tensor, "B L"],
    slots: Int[Tensor, "B R"],
) -> Batch:
    places = torch.arange(words.shape[1], device=words.device).expand_as(words)
    none = torch.zeros_like(slots)
    visual = VisualTokens.on_layout(
        features.flatten(0, 1), Layout(counts=(features.shape[1],) * len(words), grids=(None,) * len(words))
    )
    return Batch(
        input_ids=torch.cat([words, none], 1),
        valid=valid,
        prompt=valid,
        image_slot=torch.cat([torch.full_like(words, -1), slots], 1),
        positions=torch.cat([places, none], 1),
        types=torch.cat([types, none], 1),
        visual=replace(visual, boxes=boxes.flatten(0, 1)),
        owner=torch.arange(len(words), device=words.device),
        full=bool(valid.all()),
    )
