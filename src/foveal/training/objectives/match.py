"""A word of the question looks at the cells that show what it names: one attention head, told so.

The truth is that of the cells objective (`Batch.targets["cells"]`). Left alone, a small decoder finds this match last
of all, and every question that starts from a named thing waits for it. Comparisons leave it off unless every system
has it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch, Output
from foveal.training.objectives.next_token import exact


@dataclass(frozen=True, kw_only=True)
class Config:
    """`layer` and `head` name the attention that learns to match."""

    layer: int = 0
    head: int = 0


def match(model: nn.Module, batch: Batch, *, layer: int = 0, head: int = 0) -> tuple[Tensor, int]:
    """The summed loss of all words that some cell shows, in nats, and their number."""
    return score(model, model(batch, keep="last", keep_hidden=True), batch, layer=layer, head=head)


def score(model: nn.Module, output: Output, batch: Batch, *, layer: int = 0, head: int = 0) -> tuple[Tensor, int]:
    """The same of an output with its hidden states; answers are no words of the question.

    For each word: minus the log of the attention that falls on cells that show it, out of what falls on all cells of
    its row before it and on the word itself.
    """
    attention = _attention(model, layer, head)
    wanted = batch.targets.get("cells")
    if wanted is None or output.hidden_states is None:
        raise InputError("the batch names no cells; the match objective wants images with boxes in the data")
    block = model.language.layers[layer]  # type: ignore[union-attr]
    rotary = model.language.open(batch).rotary  # type: ignore[union-attr]
    query, key, _ = attention.project(block.attention_norm(output.hidden_states[layer]), rotary)  # type: ignore[union-attr,operator]
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    total, count = query.new_zeros((), dtype=torch.float32), 0
    for row in range(batch.input_ids.shape[0]):
        loss, words = _row(query[row, head], key[row, head], wanted, batch, row)
        total, count = total + loss, count + words
    return total, count


def _row(query: Tensor, key: Tensor, wanted: Tensor, batch: Batch, row: int) -> tuple[Tensor, int]:
    ids, slots = batch.input_ids[row], batch.image_slot[row]
    cells = (slots >= 0).nonzero()[:, 0]
    shown = wanted[slots[cells]]
    asked = batch.valid[row] & (slots < 0)
    if batch.labels is not None:
        asked = asked & (batch.labels[row] == IGNORE)
    words = (asked & torch.isin(ids, shown[shown != IGNORE])).nonzero()[:, 0]
    logits = exact(query[words] @ key[cells].T) * query.shape[-1] ** -0.5
    itself = exact((query[words] * key[words]).sum(-1, keepdim=True)) * query.shape[-1] ** -0.5
    seen = cells < words[:, None]
    if batch.segment is not None:
        seen = seen & (batch.segment[row][cells] == batch.segment[row][words][:, None])
    right = seen & (shown == ids[words][:, None])
    kept = right.any(-1)
    logits, right, itself = logits.masked_fill(~seen, -torch.inf)[kept], right[kept], itself[kept]
    everywhere = torch.cat([logits, itself], -1).logsumexp(-1)
    return (everywhere - logits.masked_fill(~right, -torch.inf).logsumexp(-1)).sum(), int(kept.sum())


def _attention(model: nn.Module, layer: int, head: int) -> nn.Module:
    layers = getattr(model.language, "layers", ())  # type: ignore[arg-type]
    attention = getattr(layers[layer], "attention", None) if layer < len(layers) else None
    if attention is None or head >= attention.heads:
        raise InputError(f"no head {head} in layer {layer} to match with; the model has {len(layers)} layers")
    return attention
