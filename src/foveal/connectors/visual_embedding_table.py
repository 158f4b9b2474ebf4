"""A vocabulary of sight: each token is a distribution over a table's rows, as a word is one row (Ovis, 2405.20797).

What is chosen of the distribution: all of it (`softmax`), its likeliest entry (`argmax`; by the raw logits' gradient as
Ovis 2.0 has it, `argmax_of_logits`), or one that is drawn (`gumbel`, 1611.01144).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from foveal.core.errors import InputError
from foveal.core.types import Layout, VisualTokens
from foveal.core.usage import MEMORY, USED, perplexity
from foveal.layers.folding import checked, filled, fold, folded, rounded
from foveal.layers.linear import Linear
from foveal.layers.straight import straight_through

Choice = Literal["softmax", "argmax", "argmax_of_logits", "gumbel"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """`entries` of the table are for images; at its end stand `indicators`, the marks around and between them.

    `factor` x `factor` cells make one token, missing ones are zeros. The `gumbel` choice is drawn in training, or
    `always`, at a `temperature` that goes in a straight line to `last_temperature` over a run (None: it stays).
    """

    entries: int = 16384
    indicators: int = 0
    factor: int = 1
    choice: Choice = "softmax"
    drawn: Literal["training", "always"] = "training"
    temperature: float = 1.0
    last_temperature: float | None = None


def shares(logits: Float[Tensor, "S N"]) -> Float[Tensor, "S N"]:
    """The distribution, in float32 at least: half precision loses the tails of many entries."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)


def likeliest(scores: Float[Tensor, "S N"], soft: Float[Tensor, "S N"]) -> Float[Tensor, "S N"]:
    """1 for the entry of the highest score, the first of equals; the gradient is that of `soft`."""
    chosen = torch.zeros_like(soft).scatter_(-1, scores.argmax(-1, keepdim=True), 1.0)
    return straight_through(soft, chosen)


def sampled(logits: Float[Tensor, "S N"], noise: Float[Tensor, "S N"], temperature: float) -> Float[Tensor, "S N"]:
    """The entry that is likeliest with its Gumbel noise; the gradient is that of the softmax at this temperature."""
    noisy = (logits + noise) / temperature
    return likeliest(noisy, shares(noisy))


def gumbel_noise(like: Tensor) -> Tensor:
    """Minus the logarithm of exponential noise, in the order in which torch draws its own."""
    return -torch.empty_like(like).exponential_().log()


_CHOICES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": shares,
    "argmax": lambda logits: likeliest(logits, shares(logits)),
    "argmax_of_logits": lambda logits: likeliest(logits, logits),
}


class VisualEmbeddingTable(nn.Module):
    """`features[S E]` to rows of the table, `[S D]`, by a linear map and a norm; `classes` are their distributions.

    Raises InputError for a table without entries, temperatures that are not above 0, and, where cells are folded, for
    tokens on no grid. In training it counts how much each entry is used, for the log: a run's checkpoints
    hold it, its file does not.
    """

    usage: Tensor
    COUNTS = ("usage",)

    def __init__(
        self,
        *,
        width_in: int,
        width_out: int,
        entries: int = 16384,
        indicators: int = 0,
        factor: int = 1,
        choice: Choice = "softmax",
        drawn: Literal["training", "always"] = "training",
        temperature: float = 1.0,
        last_temperature: float | None = None,
    ) -> None:
        super().__init__()
        if entries < 1 or indicators < 0:
            raise InputError(f"a table of {entries} entries and {indicators} indicators; give 1 or more, and 0 or more")
        if min(temperature, temperature if last_temperature is None else last_temperature) <= 0:
            raise InputError(f"temperatures of {temperature} and {last_temperature}; give numbers above 0")
        self.factor = checked(factor, name="visual_embedding_table")
        self.entries, self.choice, self.always = entries, choice, drawn == "always"
        self.first_temperature, self.last_temperature = temperature, last_temperature
        self.temperature = temperature
        self.head, self.norm = Linear(width_in * factor**2, entries, bias=False), nn.LayerNorm(entries)
        self.table = nn.Embedding(entries + indicators, width_out)
        self.register_buffer("usage", torch.ones(entries, device="cpu"), persistent=False)

    def plan(self, layout: Layout) -> Layout:
        """A token for each `factor` x `factor` cells."""
        if self.factor == 1:
            return layout
        return folded(rounded(layout, self.factor), self.factor, name="visual_embedding_table")

    def forward(self, visual: VisualTokens) -> VisualTokens:
        """Fold, score the entries, choose, and take their rows."""
        visual = self.folded(visual)
        logits = self.score(visual.features)
        classes = shares(logits)
        taken = self._chosen(logits)
        if self.training:
            self._count(taken)
        table = self.table.weight
        made = visual.with_features(taken.to(table.dtype) @ table[: self.entries])
        return replace(made, classes=classes, marks=table[self.entries :])

    def folded(self, visual: VisualTokens) -> VisualTokens:
        """`features[S/factor^2 factor^2*E]`: what the entries are scored by."""
        layout = self.plan(visual.layout)
        if self.factor == 1:
            return visual
        return fold(filled(visual, rounded(visual.layout, self.factor)), layout, self.factor)

    def score(self, features: Float[Tensor, "S F"]) -> Float[Tensor, "S N"]:
        """The score of every entry; a softmax of these is the distribution."""
        return self.norm(self.head(features))

    def at_progress(self, done: float) -> None:
        """Be told how much of a run lies behind, 0 to 1."""
        last = self.first_temperature if self.last_temperature is None else self.last_temperature
        self.temperature = self.first_temperature + (last - self.first_temperature) * done

    def told(self) -> dict[str, float]:
        """How many entries would tell as much if they were used alike, and how many are hardly used at all."""
        return {"codes_perplexity": float(perplexity(self.usage)), "codes_dead": float((self.usage < USED).sum())}

    def _chosen(self, logits: Float[Tensor, "S N"]) -> Float[Tensor, "S N"]:
        if self.choice != "gumbel":
            return _CHOICES[self.choice](logits)
        noise = gumbel_noise(logits) if self.training or self.always else torch.zeros_like(logits)
        return sampled(logits, noise, self.temperature)

    @torch.no_grad()
    def _count(self, taken: Float[Tensor, "S N"]) -> None:
        if len(taken):
            self.usage.lerp_(taken.mean(0).to(self.usage) * self.entries, 1 - MEMORY)
