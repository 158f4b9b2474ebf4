"""The two functions of FlashAttention that transformers calls, by torch's SDPA, for machines without a GPU.

What transformers does around them - unpadding, lengths, what it takes for packed sequences - runs as it stands: only
the kernels are others, of the same meaning (causal from the bottom right, heads in groups, no padding).
"""

import contextlib

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers import modeling_flash_attention_utils as utils
from transformers.integrations.flash_attention import flash_attention_forward
from transformers.masking_utils import flash_attention_mask

NAME = "flash_attention_of_torch"


def dense(q, k, v, softmax_scale=None, causal=False):
    """`[B L H D]` each, all of them valid."""
    news, keys = q.shape[1], k.shape[1]
    seen = torch.ones(news, keys, dtype=torch.bool).tril(keys - news) if causal else None
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    made = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=softmax_scale, enable_gqa=True)
    return made.transpose(1, 2)


def ragged(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, softmax_scale=None, causal=False):
    """`[L H D]` each, rows one after another, which end where the sums of their lengths say."""
    lengths = [ends.diff().tolist() for ends in (cu_seqlens_q, cu_seqlens_k)]
    assert [sum(each) for each in lengths] == [len(q), len(k)] and len(v) == len(k)
    assert max(lengths[0]) <= int(max_seqlen_q) and max(lengths[1]) <= int(max_seqlen_k)
    rows = zip(q.split(lengths[0]), *(part.split(lengths[1]) for part in (k, v)), strict=True)
    return torch.cat([dense(*(part[None] for part in row), softmax_scale, causal)[0] for row in rows])


@contextlib.contextmanager
def at_hand():
    """While it is open, NAME is an attention of transformers; yields the names of the functions called, in order."""
    called = []

    def noted(function):
        def call(*given, **named):
            called.append(function.__name__)
            return function(*given, **named)

        call.__signature__ = utils.inspect.signature(function)
        return call

    held, loaded = utils._lazy_imports, utils._loaded_implementation
    AttentionInterface.register(NAME, flash_attention_forward)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    functions = (noted(dense), noted(ragged), None, utils._pad_input, utils._unpad_input)
    utils._lazy_imports, utils._loaded_implementation = lambda *given, **named: functions, None
    try:
        yield called
    finally:
        utils._lazy_imports, utils._loaded_implementation = held, loaded
        for interface in (AttentionInterface, AttentionMaskInterface):
            del interface._global_mapping[NAME]
