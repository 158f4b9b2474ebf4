"""Causal attention over a trunk and its branches, at the cost of what is seen and not of all pairs."""

import torch
from jaxtyping import Float
from torch import Tensor

from foveal.core.types import Fan
from foveal.layers.precision import own_dtype


def attend_fan(
    query: Float[Tensor, "B H L d"],
    key: Float[Tensor, "B G L d"],
    value: Float[Tensor, "B G L d"],
    *,
    fan: Fan,
) -> Float[Tensor, "B H L d"]:
    """What `attend` gives under the mask of branches, for rows laid out as a fan, with processors in mind.

    Plain products in the dtype of `value`: in bfloat16 they are up to three times faster on a CPU than the fused kernel
    under a mask, in float32 about as fast. The softmax is of that dtype too, so that bfloat16 rounds up to twice as
    much as in the kernel, which has it in float32.
    """
    with own_dtype(query):
        query, key, value = query.to(value.dtype), _spread(key.to(value.dtype), query), _spread(value, query)
        stem, blocks = (query[:, :, : fan.trunk], key[:, :, : fan.trunk], value[:, :, : fan.trunk]), []
        for part in (query, key, value):
            blocks.append(part[:, :, fan.trunk :].unflatten(2, (fan.branches, fan.length)))
        return torch.cat([_stem(*stem, fan.mutual), _branches(stem[1], stem[2], *blocks)], dim=2)


def _spread(heads: Tensor, query: Tensor) -> Tensor:
    return heads.repeat_interleave(query.shape[1] // heads.shape[1], dim=1)


def _stem(query: Tensor, key: Tensor, value: Tensor, mutual: tuple[tuple[int, int], ...]) -> Tensor:
    hidden = _later(query)
    for begin, end in mutual:
        hidden[begin:end, begin:end] = 0
    return torch.softmax(_scores(query, key) + hidden, dim=-1) @ value


def _branches(stem_key: Tensor, stem_value: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    trunk = stem_key.shape[2]
    flat = query.flatten(2, 3)
    scores = torch.cat(
        [_scores(flat, stem_key).unflatten(2, query.shape[2:4]), _scores(query, key) + _later(query)], -1
    )
    weights = torch.softmax(scores, dim=-1)
    return weights[..., :trunk].flatten(2, 3) @ stem_value + (weights[..., trunk:] @ value).flatten(2, 3)


def _scores(query: Tensor, key: Tensor) -> Tensor:
    return (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)


def _later(query: Tensor) -> Tensor:
    length = query.shape[-2]
    return torch.full((length, length), float("-inf"), dtype=query.dtype, device=query.device).triu(1)
