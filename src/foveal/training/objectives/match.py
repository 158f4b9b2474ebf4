"""A word of the question looks at the cells that show what it names, and the answer looks at that word.

Two attention heads, told so; the truth is that of the cells objective (`Batch.targets["cells"]`). Left alone, a small
decoder finds these two steps last of all, for a few words are lost among hundreds of cells, and every question that
starts from a named thing waits for them. Comparisons leave it off unless every system has it.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch, Output
from foveal.layers.attention import Mask
from foveal.layers.masks import in_conversation
from foveal.training.objectives.next_token import exact
from foveal.training.settings import check_whole
from foveal.training.wants import Wants

WANTS = Wants(assemblies=("causal", "seq2seq"), boxes=True, cells=True, layers=True, blind=None)


@dataclass(frozen=True, kw_only=True)
class Config:
    """`layer` and `head` name the attention from word to cells; that from answer to word is the same of the next."""

    layer: int = 0
    head: int = 0

    def __post_init__(self) -> None:
        check_whole("match", 0, layer=self.layer, head=self.head)


def match(model: nn.Module, batch: Batch, *, layer: int = 0, head: int = 0) -> tuple[Tensor, int]:
    """The summed loss, in nats, of all words that some cell shows and of the answers about them, and their number."""
    return score(model, model(batch, keep="last", keep_hidden=True), batch, layer=layer, head=head)


def score(model: nn.Module, output: Output, batch: Batch, *, layer: int = 0, head: int = 0) -> tuple[Tensor, int]:
    """The same of an output with its hidden states.

    For each word: minus the log of the attention that falls on the cells that show it. For each answer, where it is
    begun: of that on such words of its question.
    """
    cells = batch.targets.get("cells")
    if cells is None or output.hidden_states is None:
        raise InputError("the batch names no cells; the match objective wants images with boxes in the data")
    seen = batch.image_slot >= 0
    shown = torch.where(seen, cells[batch.image_slot.clamp(min=0)] if len(cells) else IGNORE, IGNORE)
    ends = torch.zeros_like(seen) if batch.labels is None else batch.labels != IGNORE
    row, place = (batch.valid & ~seen & ~ends).nonzero().unbind(-1)
    right = visible(batch, row, place) & (shown[row] == batch.input_ids[row, place][:, None])
    named = torch.zeros_like(seen)
    named[row, place] = right.any(-1)
    start, begun = (ends[:, 1:] & ~ends[:, :-1]).nonzero().unbind(-1)
    losses = [
        _missed(model, output, batch, (layer, head), (row, place), right),
        _missed(model, output, batch, (layer + 1, head), (start, begun), visible(batch, start, begun) & named[start]),
    ]
    return sum((loss for loss, _ in losses), start=torch.zeros(())), sum(count for _, count in losses)


def visible(batch: Batch, row: Int[Tensor, " N"], place: Int[Tensor, " N"]) -> Bool[Tensor, "N L"]:
    """The earlier tokens of its conversation, and itself, that the token at each place of these rows sees."""
    seen = batch.valid[row] & (torch.arange(batch.valid.shape[1], device=row.device) <= place[:, None])
    segment, branch = (None if part is None else part[row] for part in (batch.segment, batch.branch))
    return in_conversation(seen[:, None], segment, branch, queries=place[:, None])[:, 0]


def _missed(
    model: nn.Module,
    output: Output,
    batch: Batch,
    where: tuple[int, int],
    seekers: tuple[Tensor, Tensor],
    right: Bool[Tensor, "N L"],
) -> tuple[Tensor, int]:
    """Minus the summed log of the attention of a layer and head that falls where it is right, and of how many."""
    layer, head = where
    made: Any = model
    states, layers = output.hidden_states, getattr(made.language, "layers", ())
    part: Any = layers[layer] if layer < len(layers) else None
    attention = getattr(part, "attention", None)
    if attention is None or head >= attention.heads or states is None:
        raise InputError(f"no head {head} in layer {layer} to match with; the model has {len(layers)} layers")
    if states[layer].shape[1] != batch.input_ids.shape[1]:
        raise InputError(
            f"tokens have left before layer {layer}, and a match is made among all of them; give match an earlier "
            "layer, or let all tokens stay up to this one"
        )
    stream = made.language.open(made.placed(batch, output.visual))
    read, mask, rotary = part.reads(stream.with_hidden(states[layer]))
    seen, added = _sees(batch, mask, head, seekers)
    kept = (right & seen).any(-1)
    (row, place), right, seen = (one[kept] for one in seekers), (right & seen)[kept], seen[kept]
    query, key, _ = attention.project(read, rotary)
    group = attention.heads // attention.kv_heads
    logits = torch.einsum("nd,nkd->nk", query[row, head, place], key[row, head // group])
    logits = exact(logits) * query.shape[-1] ** -0.5
    logits = logits if added is None else logits + added[kept]
    everywhere = logits.masked_fill(~seen, -torch.inf).logsumexp(-1)
    return (everywhere - logits.masked_fill(~right, -torch.inf).logsumexp(-1)).sum(), int(kept.sum())


def _sees(
    batch: Batch, mask: Mask | None, head: int, seekers: tuple[Tensor, Tensor]
) -> tuple[Bool[Tensor, "N L"], Float[Tensor, "N L"] | None]:
    """What a layer lets the token at each place of these rows see, and what it adds to the scores of a head."""
    row, place = seekers
    seen = visible(batch, row, place)
    if mask is None:
        return seen, None
    rows = mask[row, min(head, mask.shape[1] - 1), place]
    return (seen & (rows > -torch.inf), rows) if mask.is_floating_point() else (seen & rows, None)
