"""Which token comes next: pure functions from scores to tokens, put together by plain composition."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from foveal.core.errors import InputError

Sampling = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From `logits[B V]`, the prompt's ids `[B L]` and the new ids so far `[B M]` to the next ids `[B]`.

A shorter prompt is padded with its own last word.
"""


def greedy(
    logits: Float[Tensor, "B V"], prompt: Int[Tensor, "B L"] | None = None, new: Int[Tensor, "B M"] | None = None
) -> Int[Tensor, " B"]:
    """The best-scored token; the first of equals."""
    return logits.argmax(-1)


def keep_top_k(logits: Float[Tensor, "B V"], k: int) -> Float[Tensor, "B V"]:
    """Minus infinity for all but the `k` best (and their equals)."""
    least = logits.topk(min(k, logits.shape[-1])).values[:, -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def keep_top_p(logits: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """Minus infinity for all but the fewest best tokens with a probability of `p` together (1904.09751)."""
    ranked, order = logits.sort(descending=True)
    chances = ranked.softmax(-1)
    beyond = chances.cumsum(-1) - chances >= p
    beyond[:, 0] = False
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)


def penalize(logits: Float[Tensor, "B V"], seen: Int[Tensor, "B L"], penalty: float) -> Float[Tensor, "B V"]:
    """Divide the positive scores of tokens already seen by `penalty`, and multiply the negative (CTRL, 1909.05858)."""
    scores = logits.gather(-1, seen)
    return logits.scatter(-1, seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def sampler(
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Sampling:
    """Draw from the softmax at a temperature, of the `top_k` best, of the best that hold `top_p` of the probability.

    Raises InputError for a setting out of its range.
    """
    if not temperature > 0:  # no number is not
        raise InputError(f"temperature is {temperature}; give a positive number, or sample greedily")
    if top_k is not None and top_k < 1:
        raise InputError(f"top_k is {top_k}; give at least 1, or None for all")
    if top_p is not None and not 0 < top_p <= 1:
        raise InputError(f"top_p is {top_p}; give a share above 0 and at most 1")

    def draw(logits: Tensor, prompt: Tensor, new: Tensor) -> Tensor:
        scores = logits.float() / temperature
        if top_k is not None:
            scores = keep_top_k(scores, top_k)
        if top_p is not None and top_p < 1:
            scores = keep_top_p(scores, top_p)
        return torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]

    return draw


def penalized(sampling: Sampling, penalty: float) -> Sampling:
    """The same choice after a repetition penalty over the prompt and the new tokens.

    Raises InputError for a penalty that is not above 0.
    """
    if not penalty > 0:
        raise InputError(f"repetition_penalty is {penalty}; give a number above 0: 1 for none, more against repetition")

    def choose(logits: Tensor, prompt: Tensor, new: Tensor) -> Tensor:
        return sampling(penalize(logits, torch.cat([prompt, new], 1), penalty), prompt, new)

    return choose
