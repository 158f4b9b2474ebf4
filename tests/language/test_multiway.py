from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, VisualTokens
from foveal.fusion.prefix import Prefix
from foveal.language.multiway import Multiway
from foveal.layers.cache import KVCache

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def encoder(**settings):
    torch.manual_seed(0)
    model = Multiway(**{"vocabulary": 20, "width": 16, "depth": 2, "heads": 2, "inner": 24, "context": 12, **settings})
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.4)
    return model.eval()


def batch(ids, slots, valid=None, **more):
    ids, slots = torch.tensor(ids), torch.tensor(slots)
    valid = torch.ones_like(ids, dtype=torch.bool) if valid is None else torch.tensor(valid).bool()
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=slots, **more)


def read(model, given, compiled=False, count=3):
    features = torch.randn(count, 16, generator=torch.Generator().manual_seed(1))
    visual = VisualTokens.on_layout(features, Layout(counts=(count,), grids=(None,)))
    torch.manual_seed(2)
    fusion = Prefix(width=16, depth=2, positions=4)
    stream = fusion.at_input(model.open(given), visual)
    if compiled:
        stream = type(stream)(**{**vars(stream), "apart": None})
    stream = model.enter(stream)
    for layer in model.layers:
        stream = layer(stream)
    return stream.hidden


WORDS_FIRST = {"ids": [[5, 6, 0, 0, 0, 7]], "slots": [[-1, -1, 0, 1, 2, -1]]}
SIGHT_FIRST = {"ids": [[0, 0, 0, 5, 6, 7]], "slots": [[0, 1, 2, -1, -1, -1]]}


def test_where_an_image_stands_changes_nothing():
    model = encoder(input_norm=True)
    one, other = read(model, batch(**WORDS_FIRST)), read(model, batch(**SIGHT_FIRST, full=True))
    torch.testing.assert_close(one[0, [2, 3, 4, 0, 1, 5]], other[0], **TOLERANCE)


def test_all_through_both_experts_is_the_same():
    model, given = encoder(input_norm=True), batch(**WORDS_FIRST)
    torch.testing.assert_close(read(model, given, compiled=True), read(model, given), **TOLERANCE)


@pytest.mark.parametrize("kind", ["words", "sight"])
def test_each_modality_has_its_own_weights(kind):
    model, given = encoder(depth=1), batch(**WORDS_FIRST)
    before = read(model, given)
    with torch.no_grad():
        getattr(model.layers[0], kind).up.weight.zero_()
    moved = (read(model, given) - before)[0].abs().amax(-1) > 1e-4
    sight = given.image_slot[0] >= 0
    assert torch.equal(moved, sight if kind == "sight" else ~sight)


def test_words_and_sight_see_each_other_and_no_padding():
    model = encoder()
    alone = read(model, batch(**SIGHT_FIRST))
    padded = batch([[0, 0, 0, 5, 6, 7, 9]], [[0, 1, 2, -1, -1, -1, -1]], [[1, 1, 1, 1, 1, 1, 0]])
    torch.testing.assert_close(read(model, padded)[:, :6], alone, **TOLERANCE)
    other = batch([[0, 0, 0, 5, 6, 8]], SIGHT_FIRST["slots"])
    assert ((read(model, other) - alone)[0].abs().amax(-1) > 1e-4).all()


def test_an_order_hides_what_comes_later():
    model, order = encoder(), torch.tensor([[0, 0, 0, 1, 2, 3]])
    one = read(model, batch(**SIGHT_FIRST, order=order))
    other = read(model, batch([[0, 0, 0, 5, 6, 8]], SIGHT_FIRST["slots"], order=order))
    torch.testing.assert_close(one[:, :5], other[:, :5], **TOLERANCE)
    assert not torch.allclose(one[:, 5], other[:, 5], atol=1e-3)


def test_the_last_layer_may_speak_at_some_places_alone():
    model, at = encoder(), torch.tensor([[4, 0]])
    stream = model.open(batch(**WORDS_FIRST, valid=[[1, 1, 1, 1, 1, 0]]))
    stream = replace(stream, hidden=torch.randn_like(stream.hidden))
    whole, some = model.layers[1](stream).hidden, model.layers[1].only(stream, at).hidden
    torch.testing.assert_close(some, whole[:, [4, 0]], **TOLERANCE)


def test_words_alone_a_long_text_a_cache_and_uneven_heads():
    words = batch([[5, 6]], [[-1, -1]])
    assert read(encoder(), words).isfinite().all()
    with pytest.raises(InputError, match="13 words for an encoder of 12"):
        encoder().open(batch([[1] * 13], [[-1] * 13]))
    with pytest.raises(InputError, match="takes no cache"):
        encoder().open(words, KVCache(layers=2, batch=1, kv_heads=2, length=4, head_width=8))
    with pytest.raises(InputError, match="3 heads do not divide a width of 16"):
        encoder(heads=3)
