"""Sequences in which each place has its own legal tokens, with the probability of what was written."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.decode.generate import Writer, generate
from foveal.decode.sampling import Sampling, greedy, keep_top_k

Legal = Callable[[Tensor], Tensor]
"""From the new tokens so far `[B M]` to those that may follow, `[B V]` or `[V]`."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """New tokens, and how probable each was among all words, legal or not (`logits` where these are kept)."""

    tokens: Int[Tensor, "B M"]
    chances: Float[Tensor, "B M"]
    logits: Float[Tensor, "B M V"] | None = None


def write(
    model: Writer,
    batch: Batch,
    *,
    legal: Bool[Tensor, "P V"] | Legal,
    steps: int,
    best: int | None = None,
    stop_ids: Collection[int] = (),
    pad_id: int = 0,
    sampling: Sampling = greedy,
    keep_logits: bool = False,
) -> Written:
    """Continue every row by at most `steps` tokens; the token at place n is one of `legal[n % P]`, or of `legal(new)`.

    At the place `best` of each turn of a table the best-scored legal token stands, however the others are drawn: the
    class of an object, whose chance is its score. After a row's stop its chances are those of the padding. Raises
    InputError for legal tokens of another vocabulary, and takes the errors of `generate`.
    """
    turn, rule = (len(legal), _by_turns(legal.to(batch.input_ids.device))) if isinstance(legal, Tensor) else (0, legal)
    chances: list[Tensor] = []
    kept: list[Tensor] = []

    def choose(logits: Tensor, prompt: Tensor, new: Tensor) -> Tensor:
        logits, allowed = logits.float(), rule(new).to(logits.device)
        if allowed.shape[-1] != logits.shape[-1]:
            raise InputError(
                f"legal tokens for {allowed.shape[-1]} words but the model has {logits.shape[-1]}; give both alike"
            )
        scores = logits.masked_fill(~allowed, -torch.inf)
        chosen = greedy(scores) if turn and new.shape[1] % turn == best else sampling(scores, prompt, new)
        chances.append(logits.softmax(-1).gather(-1, chosen[:, None])[:, 0])
        kept.extend([logits] if keep_logits else [])
        return chosen

    tokens = generate(
        model, batch, max_new_tokens=steps, stop_ids=stop_ids, pad_id=pad_id, sampling=choose, pictures=True
    )
    return Written(
        tokens=tokens,
        chances=torch.stack(chances, dim=1),
        logits=torch.stack(kept, dim=1) if keep_logits else None,
    )


def _by_turns(table: Bool[Tensor, "P V"]) -> Legal:
    return lambda new: table[new.shape[1] % len(table)]


def keep_within_p(logits: Float[Tensor, "B V"], p: float) -> Float[Tensor, "B V"]:
    """Minus infinity for all but the best tokens that hold no more than `p` together, and the very best.

    Stricter than the usual nucleus, which goes on until `p` is reached (Pix2Seq, 2109.10852, draws so).
    """
    ranked, order = logits.sort(descending=True)
    beyond = ranked.softmax(-1).cumsum(-1) > p
    beyond[:, 0] = False
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, order, beyond), -torch.inf)


def nucleus(
    *,
    top_p: float = 0.4,
    top_k: int = 0,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Sampling:
    """Draw as Pix2Seq does: at a temperature, of the `top_k` best (0: all), of those within `top_p`.

    Raises InputError for a setting out of its range.
    """
    if not 0 < top_p <= 1 or top_k < 0 or temperature <= 0:
        raise InputError(
            f"top_p {top_p}, top_k {top_k} and temperature {temperature} draw nothing; give 0 < top_p <= 1, "
            "top_k >= 0 and a temperature above 0"
        )

    def draw(logits: Tensor, prompt: Tensor, new: Tensor) -> Tensor:
        scores = logits.float() / temperature
        scores = keep_top_k(scores, top_k) if top_k else scores
        scores = keep_within_p(scores, top_p) if top_p < 1 else scores
        return torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]

    return draw
