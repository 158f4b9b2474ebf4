from types import SimpleNamespace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, Output, VisualTokens
from foveal.decode.constrained import keep_within_p, nucleus, write
from foveal.decode.sampling import sampler
from foveal.layers.cache import KVCache
from foveal.models.assembly import assemble
from foveal.models.config import ModelConfig

CHANCES = torch.tensor([[0.5, 0.25, 0.15, 0.1]])
PLACES = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0]]).bool()  # words 0 and 1, then 2 to 4


def empty_cache(rows, length):
    return KVCache(layers=0, batch=rows, kv_heads=1, length=length, head_width=1)


class Fixed:
    """A model that says the same after every token, and remembers how it was asked."""

    def __init__(self, logits):
        self.logits = logits
        self.language = SimpleNamespace(vocabulary=6, context=100, cache=empty_cache)

    def __call__(self, batch, *, cache, keep):
        return Output(logits=self.logits.expand(len(batch.input_ids), 1, -1))


def start(rows=1):
    ids = torch.zeros(rows, 1, dtype=torch.long)
    whole = torch.ones_like(ids, dtype=torch.bool)
    return Batch(input_ids=ids, valid=whole, prompt=whole, image_slot=ids - 1)


def test_each_place_has_its_tokens_and_chances_are_those_among_all_words():
    logits = torch.tensor([0.3, 0.1, 0.0, 0.7, 0.2, 3.0])
    written = write(Fixed(logits), start(), legal=PLACES, steps=4, keep_logits=True)
    assert written.tokens.tolist() == [[0, 3, 0, 3]]
    torch.testing.assert_close(written.chances[0], logits.softmax(-1)[[0, 3, 0, 3]])
    torch.testing.assert_close(written.logits[0], logits.expand(4, -1))


def test_the_best_stands_at_its_place_however_the_rest_is_drawn():
    model = Fixed(torch.tensor([0.0, 0.0, 0.1, 0.0, 0.0, 9.0]))
    draw = sampler(generator=torch.Generator().manual_seed(0))
    written = write(model, start(50), legal=PLACES, steps=4, best=1, sampling=draw)
    assert (written.tokens[:, 1::2] == 2).all() and len(written.tokens[:, 0::2].unique()) == 2


def test_what_may_follow_can_depend_on_what_was_written():
    def legal(new):
        """Word 4 once, then word 2 for good."""
        return torch.nn.functional.one_hot(torch.where((new == 4).any(1), 2, 4), 6).bool()

    written = write(Fixed(torch.zeros(6)), start(2), legal=legal, steps=3, best=0)
    assert written.tokens.tolist() == [[4, 2, 2]] * 2
    with pytest.raises(InputError, match="legal tokens for 6 words but the model has 5"):
        write(Fixed(torch.zeros(5)), start(), legal=legal, steps=1)


def test_rows_stop_by_themselves():
    legal = torch.ones(1, 6, dtype=torch.bool)
    draw = sampler(generator=torch.Generator().manual_seed(0))
    tokens = write(Fixed(torch.zeros(6)), start(8), legal=legal, steps=30, stop_ids=[4], pad_id=5, sampling=draw).tokens
    for row in tokens.tolist():
        assert row.count(4) == 1 and all(token == 5 for token in row[row.index(4) + 1 :])


@pytest.mark.parametrize("settings", [{}, {"norm_first": False, "positions": "sin_cos"}])
def test_with_a_cache_equals_without(settings):
    torch.manual_seed(0)
    language = {"name": "sequence_decoder", "vocabulary": 6, "width": 16, "depth": 2, "heads": 2, "context": 24}
    parts = {"assembly": "seq2seq", "features": 4, "fusion": "memory", "language": {**language, **settings}}
    model = assemble(ModelConfig.parse(parts)).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    seen = VisualTokens.on_layout(torch.randn(6, 4), Layout.of_grids([(1, 3), (1, 3)]))
    whole = torch.ones(2, 1, dtype=torch.bool)
    batch = Batch(
        input_ids=torch.zeros(2, 1, dtype=torch.long), valid=whole, prompt=whole,
        image_slot=torch.full((2, 1), -1), visual=seen, owner=torch.arange(2),
    )  # fmt: skip
    written = write(model, batch, legal=PLACES, steps=20, keep_logits=True)
    ids = torch.cat([batch.input_ids, written.tokens], 1)[:, :-1]
    whole = torch.ones_like(ids, dtype=torch.bool)
    again = Batch(input_ids=ids, valid=whole, prompt=whole, image_slot=ids * 0 - 1, visual=seen, owner=batch.owner)
    with torch.no_grad():
        logits = model(again).logits
    torch.testing.assert_close(written.logits, logits, atol=1e-5, rtol=1e-4)
    legal = PLACES[torch.arange(20) % 2]
    assert torch.equal(logits.masked_fill(~legal, -torch.inf).argmax(-1), written.tokens)


@pytest.mark.parametrize(("p", "expected"), [(0.1, 1), (0.5, 1), (0.74, 1), (0.76, 2), (0.91, 3), (1.0, 4)])
def test_no_more_than_p_is_kept_but_always_the_best(p, expected):
    assert int(torch.isfinite(keep_within_p(CHANCES.log(), p)).sum()) == expected


def test_the_nucleus_draws_from_what_is_kept():
    logits, generator = CHANCES.log().expand(500, -1), torch.Generator().manual_seed(0)
    nothing = torch.zeros(500, 0, dtype=torch.long)
    for settings, expected in (({}, {0}), ({"top_p": 0.8}, {0, 1}), ({"top_p": 1.0, "top_k": 3}, {0, 1, 2})):
        assert set(nucleus(**settings, generator=generator)(logits, nothing, nothing).tolist()) == expected


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="legal tokens for 5 words but the model has 6"):
        write(Fixed(torch.zeros(6)), start(), legal=PLACES[:, :5], steps=1)
    with pytest.raises(InputError, match="give 0 < top_p <= 1"):
        nucleus(top_p=0.0)
