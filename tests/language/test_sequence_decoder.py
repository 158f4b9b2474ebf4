import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.language.sequence_decoder import SequenceDecoder

SMALL = {"vocabulary": 11, "width": 8, "depth": 2, "heads": 2, "context": 12}


def batch(ids, valid=None):
    valid = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
    slots = torch.full_like(ids, -1)
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=slots, full=bool(valid.all()))


def run(model, given, memory=None, cache=None, mask=None):
    from dataclasses import replace

    stream = replace(model.open(given, cache), memory=memory, memory_mask=mask)
    for layer in model.layers:
        stream = layer(stream)
    return model.norm(stream.hidden)


@pytest.mark.parametrize("settings", [{}, {"positions": "sin_cos"}, {"norm_first": False}])
def test_token_by_token_equals_all_at_once_though_the_memory_comes_but_once(settings):
    torch.manual_seed(0)
    model = SequenceDecoder(**SMALL, **settings).eval()
    ids, memory = torch.randint(0, 11, (2, 6)), torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:, None, None]
    whole = run(model, batch(ids), memory, mask=mask)
    cache = model.cache(2, 6)
    steps = [run(model, batch(ids[:, :2]), memory, cache, mask)]
    steps += [run(model, batch(ids[:, i : i + 1]), cache=cache) for i in range(2, 6)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=1e-5, rtol=1e-4)
    forked = cache.fork(torch.tensor([1]), 7)
    assert forked.memory[1][0].shape[0] == 1 and torch.equal(forked.memory[0][2][0], mask[1])


def test_no_later_token_and_no_padding_is_seen():
    torch.manual_seed(0)
    model = SequenceDecoder(**SMALL).eval()
    ids, memory = torch.randint(0, 11, (1, 6)), torch.randn(1, 5, 8)
    other = ids.clone()
    other[0, 4] = (other[0, 4] + 1) % 11
    assert torch.equal(run(model, batch(ids), memory)[:, :4], run(model, batch(other), memory)[:, :4])
    valid = torch.arange(6)[None] < 4
    padded = run(model, batch(ids, valid), memory)
    torch.testing.assert_close(padded[:, :4], run(model, batch(ids[:, :4]), memory), atol=1e-5, rtol=1e-4)
    assert torch.equal(padded[:, :4], run(model, batch(other, valid), memory)[:, :4])


def test_what_does_not_fit_is_refused():
    model = SequenceDecoder(**SMALL)
    with pytest.raises(InputError, match="13 tokens for a decoder of 12 places"):
        model.open(batch(torch.zeros(1, 13, dtype=torch.long)))
    with pytest.raises(InputError, match="got no images"):
        run(model, batch(torch.zeros(1, 2, dtype=torch.long)))
    with pytest.raises(InputError, match="3 heads do not divide"):
        SequenceDecoder(**{**SMALL, "heads": 3})


def test_tokens_in_order_begin_like_their_neighbours():
    torch.manual_seed(0)
    table = SequenceDecoder(**{**SMALL, "vocabulary": 40, "width": 32}, ordered=(8, 40)).embedding.weight
    near = torch.nn.functional.cosine_similarity(table[:-1], table[1:])
    assert near[8:].mean() > 0.5 > near[:8].mean()
    with pytest.raises(InputError, match="from 8 to 12 of 11 words"):
        SequenceDecoder(**SMALL, ordered=(8, 12))
