import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Batch
from foveal.language.encoder import Encoder, aligned
from foveal.layers.cache import KVCache


def encoder(**settings):
    torch.manual_seed(0)
    return Encoder(**{"vocabulary": 20, "width": 16, "depth": 2, "heads": 2, "context": 12, **settings}).eval()


def text(ids, valid=None, **more):
    valid = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=torch.full_like(ids, -1), **more)


def read(model, batch):
    stream = model.enter(model.open(batch))
    for layer in model.layers:
        stream = layer(stream)
    return stream.hidden


def test_fresh_weights_have_the_wanted_deviation():
    for deviation in (0.02, 0.1):
        spread = [
            weight.std().item() for weight in encoder(width=64, deviation=deviation).parameters() if weight.ndim > 1
        ]
        assert spread and all(std == pytest.approx(deviation, rel=0.15) for std in spread)


def test_one_word_tells_more_at_the_first_token_where_a_narrow_encoder_begins_wider():
    ids = torch.arange(1, 11)[None]
    other = ids.clone()
    other[0, -2] = 15
    models = [encoder(width=32, deviation=deviation) for deviation in (0.02, 0.18)]
    near, far = ((read(m, text(ids)) - read(m, text(other)))[0, 0].norm().item() for m in models)
    assert far > 20 * near


def test_every_word_sees_every_word():
    model, ids = encoder(), torch.arange(1, 7)[None]
    other = ids.clone()
    other[0, -1] = 9
    change = (read(model, text(ids)) - read(model, text(other))).abs().amax(-1)[0]
    assert (change > 1e-4).all()


def test_padding_on_either_side_changes_nothing():
    model, ids = encoder(), torch.randint(1, 20, (1, 5))
    alone = read(model, text(ids, full=True))
    for left in (True, False):
        pad = torch.zeros(1, 3, dtype=torch.long)
        parts = (pad, ids) if left else (ids, pad)
        padded = torch.cat(parts, 1)
        hidden = read(model, text(padded, padded > 0))
        torch.testing.assert_close(hidden[padded > 0], alone[0], atol=1e-5, rtol=1e-5)


def test_segments_of_a_packed_row_do_not_meet():
    model = encoder()
    first, second = torch.randint(1, 20, (1, 4)), torch.randint(1, 20, (1, 3))
    packed = text(
        torch.cat([first, second], 1),
        segment=torch.tensor([[0, 0, 0, 0, 1, 1, 1]]),
        positions=torch.tensor([[0, 1, 2, 3, 0, 1, 2]]),
    )
    apart = torch.cat([read(model, text(first)), read(model, text(second))], 1)
    torch.testing.assert_close(read(model, packed), apart, atol=1e-5, rtol=1e-5)


def test_a_place_is_the_mean_of_the_places_it_is_aligned_to():
    table = torch.arange(12.0).view(6, 2)
    rows = aligned(torch.tensor([[0, 2, -1], [5, -1, -1], [-1, -1, -1]]), table)
    assert torch.equal(rows, torch.stack([(table[0] + table[2]) / 2, table[5], torch.zeros(2)]))


def test_types_tell_words_apart():
    model, ids = encoder(), torch.ones(1, 2, dtype=torch.long)
    a = read(model, text(ids, types=torch.tensor([[0, 0]])))
    b = read(model, text(ids, types=torch.tensor([[0, 1]])))
    assert not torch.allclose(a, b, atol=1e-3)


def test_a_long_text_a_cache_and_uneven_heads_are_refused():
    with pytest.raises(InputError, match="13 tokens for an encoder of 12"):
        encoder().open(text(torch.ones(1, 13, dtype=torch.long)))
    cache = KVCache(layers=2, batch=1, kv_heads=2, length=4, head_width=8)
    with pytest.raises(InputError, match="takes no cache"):
        encoder().open(text(torch.ones(1, 2, dtype=torch.long)), cache)
    with pytest.raises(InputError, match="3 heads do not divide a width of 16"):
        encoder(heads=3)


def test_norms_may_stand_first():
    model, ids = encoder(pre_norm=True), torch.tensor([[3, 4, 0]])
    given = text(ids, ids > 0)
    stream = model.open(given)
    torch.testing.assert_close(stream.hidden[0].mean(-1), torch.zeros(3), atol=1e-5, rtol=0)
    layer = model.layers[0]
    hidden = stream.hidden + layer.attention(layer.attention_norm(stream.hidden), mask=stream.mask)
    expected = hidden + layer.feed(layer.feed_norm(hidden))
    torch.testing.assert_close(layer(model.enter(stream)).hidden, expected)
    torch.testing.assert_close(model.norm(expected), torch.nn.functional.layer_norm(expected, (16,), eps=1e-12))


def test_marks_have_neither_place_nor_type():
    model = encoder(marks=3)
    ids = torch.tensor([[4, 21, 5]])
    opened = model.open(text(ids, types=torch.tensor([[0, 1, 0]]))).hidden
    torch.testing.assert_close(opened[0, 1], model.marks.weight[1])
    plain = encoder().open(text(torch.tensor([[4, 7, 5]]), types=torch.tensor([[0, 1, 0]]))).hidden
    model.embedding, model.positions, model.types = (
        getattr(encoder(), part) for part in ("embedding", "positions", "types")
    )
    opened = model.open(text(ids, types=torch.tensor([[0, 1, 0]]))).hidden
    torch.testing.assert_close(opened[0, [0, 2]], plain[0, [0, 2]])
