from typing import Any

import pytest
import torch
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from foveal.core.errors import InputError
from foveal.layers.cache import KVCache
from foveal.layers.qformer import Qformer, Words

SETTINGS: dict[str, Any] = {"width": 16, "depth": 3, "heads": 2, "inner": 24, "memory_width": 12}


def small(*, text: bool = True, frequency: int = 2) -> Qformer:
    torch.manual_seed(0)
    return Qformer(**SETTINGS, text=text, frequency=frequency).eval()


def test_every_second_layer_looks_and_only_queries_do():
    stack = small()
    assert [layer.look is not None for layer in stack.layers] == [True, False, True]
    queries, text, memory = torch.randn(2, 4, 16), torch.randn(2, 5, 16), torch.randn(2, 7, 12)
    causal = torch.ones(9, 9, dtype=torch.bool)
    causal[4:, :4] = False  # text sees no query, so the image reaches it on no way
    causal = causal.expand(2, 1, 9, 9)
    told = stack(queries, text=text, mask=causal, memory=stack.read(memory))
    other = stack(queries, text=text, mask=causal, memory=stack.read(memory + 1))
    assert torch.equal(told[:, 4:], other[:, 4:])
    assert not torch.allclose(told[:, :4], other[:, :4])


def test_text_alone_is_text_that_sees_no_queries():
    stack = small()
    queries, text, memory = torch.randn(2, 4, 16), torch.randn(2, 5, 16), torch.randn(2, 7, 12)
    apart = torch.block_diag(torch.ones(4, 4), torch.ones(5, 5)).bool().expand(2, 1, 9, 9)
    both = stack(queries, text=text, mask=apart, memory=stack.read(memory))
    torch.testing.assert_close(stack(text=text), both[:, 4:], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(stack(queries, memory=stack.read(memory)), both[:, :4], atol=1e-6, rtol=1e-5)


def test_a_masked_memory_is_a_shorter_one():
    stack = small(text=False)
    queries, memory = torch.randn(2, 4, 16), torch.randn(2, 7, 12)
    seen = torch.tensor([[True] * 7, [True] * 3 + [False] * 4])[:, None, None]
    told = stack(queries, memory=stack.read(memory), memory_mask=seen)
    alone = stack(queries[1:], memory=stack.read(memory[1:, :3]))
    torch.testing.assert_close(told[1:], alone, atol=1e-6, rtol=1e-5)


def test_text_goes_on_after_what_a_cache_holds():
    stack = small()
    queries, text, memory = torch.randn(2, 4, 16), torch.randn(2, 5, 16), stack.read(torch.randn(2, 7, 12))
    causal = torch.ones(9, 9, dtype=torch.bool).tril()
    causal[:4, :4] = True
    causal = causal.expand(2, 1, 9, 9)
    whole = stack(queries, text=text, mask=causal, memory=memory)
    cache = KVCache(
        layers=3, batch=2, kv_heads=2, length=9, head_width=8, dtype=torch.float32, device=torch.device("cpu")
    )
    cache.extend(torch.ones(2, 5, dtype=torch.bool))
    first = stack(queries, text=text[:, :1], mask=causal[:, :, :5, :5], memory=memory, cache=cache)
    torch.testing.assert_close(first, whole[:, :5], atol=1e-6, rtol=1e-5)
    for place in range(5, 9):
        cache.extend(torch.ones(2, 1, dtype=torch.bool))
        step = stack(text=text[:, place - 4 : place - 3], cache=cache)
        torch.testing.assert_close(step, whole[:, place : place + 1], atol=1e-6, rtol=1e-5)


def test_states_begin_with_what_enters_the_first_layer_and_end_with_what_is_said():
    stack = small(text=False)
    queries, memory = torch.randn(1, 4, 16), stack.read(torch.randn(1, 7, 12))
    states = list(stack.states(queries, memory=memory))
    assert len(states) == 4
    assert torch.equal(states[0], stack.norm(queries))
    assert torch.equal(states[-1], stack(queries, memory=memory))


@pytest.mark.parametrize("frequency", [1, 2, 3])
def test_as_transformers_says_it(frequency: int):
    config = Blip2QFormerConfig(
        hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=24, encoder_hidden_size=12,
        cross_attention_frequency=frequency, use_qformer_text_input=True, vocab_size=20,
    )  # fmt: skip
    torch.manual_seed(1)
    theirs, stack = Blip2QFormerModel(config).eval(), small(frequency=frequency)
    for weight in theirs.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    names = [name for name, _ in stack.named_parameters()]
    given = theirs.state_dict()
    stack.load_state_dict({name: given[_theirs(name)] for name in names})
    queries, text, memory = torch.randn(2, 4, 16), torch.randn(2, 5, 16), torch.randn(2, 7, 12)
    expected = theirs(torch.cat([queries, text], dim=1), query_length=4, encoder_hidden_states=memory)
    told = stack(queries, text=text, memory=stack.read(memory))
    torch.testing.assert_close(told, expected.last_hidden_state, atol=1e-5, rtol=1e-5)


def _theirs(name: str) -> str:
    for ours, yours in {
        "layers.": "encoder.layer.", "look.": "crossattention.attention.",
        "look_norm.": "crossattention.output.LayerNorm.",
        "attention_norm.": "attention.output.LayerNorm.", "text_feed.feed.up.": "intermediate.dense.",
        "text_feed.feed.down.": "output.dense.", "text_feed.norm.": "output.LayerNorm.",
        "query_feed.feed.up.": "intermediate_query.dense.", "query_feed.feed.down.": "output_query.dense.",
        "query_feed.norm.": "output_query.LayerNorm.",
    }.items():  # fmt: skip
        name = name.replace(ours, yours)
    if ".attention." in name and "crossattention" not in name and "output" not in name:
        name = name.replace(".attention.", ".attention.attention.")
    name = name.replace("attention.attention.out.", "attention.output.dense.")
    return "layernorm" + name.removeprefix("norm") if name.startswith("norm") else name


def test_words_are_placed_from_the_left():
    words = Words(vocabulary=9, context=4, width=6)
    ids = torch.tensor([[3, 1, 2]])
    torch.testing.assert_close(words(ids)[0, 1], words.embedding.weight[1] + words.positions.weight[1])
    torch.testing.assert_close(words(ids[:, 2:], past=2), words(ids)[:, 2:])
    with pytest.raises(InputError, match="5 words for a Q-Former of 4 places"):
        words(torch.zeros(1, 5, dtype=torch.long))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"text": torch.zeros(1, 2, 16)}, "no feed-forward for it"),
        ({"queries": torch.zeros(1, 2, 16)}, "without a memory"),
        ({}, "neither queries nor text"),
    ],
)
def test_what_it_cannot_read_is_refused(given: dict[str, torch.Tensor], told: str):
    with pytest.raises(InputError, match=told):
        small(text=False)(**given)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match="5 heads do not divide a width of 16"):
        Qformer(**{**SETTINGS, "heads": 5})


def test_the_sizes_that_are_known():
    with torch.device("meta"):
        image = Qformer()
        both = Qformer(text=True)
        words = Words(vocabulary=30523, context=512, width=768)
    assert _count(image) == 105_137_664
    assert _count(both) == 161_825_280
    assert _count(words) == 30523 * 768 + 512 * 768


def _count(module: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
