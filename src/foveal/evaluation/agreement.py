"""How far a model that reads less says the same as with all it could read: its answers, and how sure it was of them."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.core.errors import InputError

Sampling = Callable[[Tensor, Tensor, Tensor], Tensor]


class Heard:
    """A sampling that also keeps how the first word of every answer was scored, in the order in which it is asked."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling, self._first = sampling, []

    def __call__(self, logits: Tensor, prompt: Tensor, new: Tensor) -> Tensor:
        """What the sampling says."""
        if new.shape[1] == 0:
            self._first.append(logits.detach().float().log_softmax(-1).cpu())
        return self.sampling(logits, prompt, new)

    @property
    def first(self) -> Float[Tensor, "Q V"] | None:
        """Log-probabilities of the first words; None where nothing was written word by word."""
        return torch.cat(self._first) if self._first else None


def flips(answers: Sequence[str], whole: Sequence[str]) -> float:
    """The share of answers that are others than with all there is. Raises InputError for other numbers of them."""
    if len(answers) != len(whole):
        raise InputError(f"{len(answers)} answers beside {len(whole)} of the whole model; ask both the same questions")
    return sum(one != other for one, other in zip(answers, whole, strict=True)) / max(1, len(answers))


def divergence(said: Float[Tensor, "Q V"], whole: Float[Tensor, "Q V"]) -> float:
    """The mean divergence of log-probabilities from those of the whole model, in nats (Kullback and Leibler, 1951)."""
    chance = whole.double().exp()
    apart = torch.where(chance > 0, chance * (whole.double() - said.double()), 0.0)  # words of no chance count nothing
    return float(apart.sum(-1).mean().clamp(min=0))  # chances that rounding has summed to more than 1 take it below
