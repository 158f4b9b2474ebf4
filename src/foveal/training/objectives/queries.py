"""What queries learn before a language model reads them: contrast, writing and matching, by three masks (2301.12597).

Contrast is exact over any split of a step; the foreign texts and images of the matching are drawn from each batch by
itself, the likelier the better they fit.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.preprocess.masking import BELONGS, FOREIGN
from foveal.training.across import Across, Compared
from foveal.training.objectives import contrastive, next_token
from foveal.training.objectives.matching import Parts, compared
from foveal.training.settings import check_weights
from foveal.training.wants import Wants

WANTS = Wants(assemblies=("two_tower",), blind=None)


@dataclass(frozen=True, kw_only=True)
class Config:
    """The weight of one word and of one pair that may be foreign, beside that of one row in contrast; 0: left out.

    A `share` of the rows is matched: each as it is, with a foreign image, and with a foreign text.
    """

    words: float = 0.1
    matching: float = 0.33
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"queries.share is {self.share}; give a share above 0 and up to 1, or matching 0")
        check_weights("queries", words=self.words, matching=self.matching)


def wants(settings: Config) -> Wants:
    """The head of the contrast, and those of the parts that are not left out."""
    beside = {"write": settings.words, "matching": settings.matching}
    return replace(WANTS, heads=("pair", *(name for name, weight in beside.items() if weight)))


def embed(
    model: nn.Module, batch: Batch, *, words: float = 0.1, matching: float = 0.33, share: float = 1.0
) -> tuple[Float[Tensor, "B N K"], Int[Tensor, "B 2"], Any]:
    """The vectors and keys of each row, as in contrast, and the model's pairs that they come from."""
    pairs = model.pairs(batch)  # type: ignore[operator]
    return model.vectors(pairs), contrastive.keys(batch), pairs  # type: ignore[operator]


def beside(
    model: nn.Module,
    batch: Batch,
    vectors: Float[Tensor, "B N K"],
    keys: Int[Tensor, "B 2"],
    pairs: Any,
    *,
    words: float = 0.1,
    matching: float = 0.33,
    share: float = 1.0,
) -> Compared:
    """The weighted losses of the words that are written and of the pairs that are matched, and their weights' sum."""
    losses: list[tuple[float, Tensor, int]] = []
    parts: dict[str, tuple[Tensor, int]] = {}
    if words:
        loss, count = next_token.score(model.write(pairs), batch)  # type: ignore[operator]
        losses, parts = [(words, loss, count)], {"words": (loss, count)}
    if matching:
        loss, count, told = matched(model, pairs, contrastive.likeness(vectors.detach(), keys), share=share)
        losses, parts = [*losses, (matching, loss, count)], {**parts, **told}
    total = sum((weight * loss for weight, loss, _ in losses), start=vectors.new_zeros(()))
    return total, sum(weight * count for weight, _, count in losses), parts


def matched(
    model: nn.Module, pairs: Any, logits: Float[Tensor, "B B"], *, share: float = 1.0
) -> tuple[Tensor, int, Parts]:
    """The cross-entropy of rows as they are, of texts with a foreign image, and of images with a foreign text.

    Of the batch's rows the first `share` are asked, which are any; what is foreign comes from all.
    """
    own = torch.arange(max(1, round(share * len(logits))), device=logits.device)
    images, texts = foreign(logits.T)[: len(own)], foreign(logits)[: len(own)]
    told = model.match(pairs, torch.cat([own, images, own]), torch.cat([own, own, texts]))  # type: ignore[operator]
    return compared(told, torch.where(torch.arange(len(told), device=told.device) < len(own), BELONGS, FOREIGN))


def foreign(logits: Float[Tensor, "B B"]) -> Int[Tensor, " B"]:
    """For each row one of the others, drawn by how well they fit.

    Raises InputError where a row has no other: all are of its image or its text.
    """
    logits = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool, device=logits.device), -torch.inf)
    if bool((logits == -torch.inf).all(1).any()):
        raise InputError(
            f"a batch of {len(logits)} rows holds nothing foreign to one of them; "
            "raise the stage's batch_size, or leave matching out (0)"
        )
    return torch.multinomial(logits.softmax(1), 1)[:, 0]


queries = Across(embed=embed, compare=contrastive.compare, counted=(0,), beside=beside)
