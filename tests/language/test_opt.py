"""What is particular to OPT; what holds for any decoder is tested with the decoder."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.language.opt import OFFSET, Opt
from foveal.layers.cache import KVCache


def small(**settings) -> Opt:
    torch.manual_seed(0)
    return Opt(vocabulary=20, width=16, depth=2, heads=2, context=8, **settings)


def texts(rows: int, length: int) -> Batch:
    ids = torch.randint(0, 20, (rows, length))
    valid = torch.ones_like(ids, dtype=torch.bool)
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=torch.full_like(ids, -1))


def test_places_are_added_after_sight_is_fused():
    model, batch = small(), texts(1, 3)
    opened = model.open(batch)
    assert torch.equal(opened.hidden, model.embedding(batch.input_ids))
    places = model.positions.weight[OFFSET : OFFSET + 3]
    torch.testing.assert_close(model.enter(opened).hidden[0], opened.hidden[0] + places)


def test_narrower_words_are_mapped_to_the_layers_and_back():
    model, batch = small(word_width=6), texts(2, 3)
    assert model.open(batch).hidden.shape == (2, 3, 16)
    assert model.norm(torch.randn(2, 3, 16)).shape == (2, 3, 6)


def test_a_text_longer_than_the_places_is_told():
    model = small()
    with pytest.raises(InputError, match="9 tokens for a model of 8 places"):
        model.open(texts(1, 9))
    cache = model.cache(1, 9)
    assert isinstance(cache, KVCache)
    model.open(texts(1, 8), cache)
    with pytest.raises(InputError, match="9 tokens for a model of 8 places"):
        model.open(texts(1, 1), cache)


def test_padding_takes_no_place():
    batch = texts(1, 9)
    batch.valid[:, 0] = False
    assert small().open(batch).positions.max() == 7


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(InputError, match="3 heads do not divide a width of 16"):
        Opt(vocabulary=9, width=16, heads=3)
