"""Decoders that tell places inside attention: cached as whole, alone as in a batch, and branches as conversations."""

from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch
from foveal.language.gpt import Gpt
from foveal.layers.alibi import sloped
from foveal.layers.rotary import Rope, inverse_frequencies, rotate, tables
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig

SIZES = {"vocabulary": 30, "width": 24, "depth": 2, "heads": 3, "inner": 32}
KINDS = {
    "turned": {"rope": {"share": 0.5}, "parallel": True},
    "fallen": {"steepest": 8.0, "bias": False, "norm_bias": False},
    "fallen, normed": {"steepest": 4.0, "qk_norm": True},
}
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(params=KINDS)
def model(request):
    torch.manual_seed(0)
    language = {"name": "gpt", **SIZES, **KINDS[request.param], "deviation": 0.3}
    return assemble(ModelConfig.parse({"language": language})).eval()


def batch(*rows, **more):
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    valid = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=torch.full_like(ids, -1), **more)


def test_a_row_says_the_same_alone_and_padded(model):
    long, short = [3, 4, 5, 6, 7, 8], [9, 10, 11]
    with torch.no_grad():
        both = model(batch(long, short)).logits
        torch.testing.assert_close(both[1, 3:], model(batch(short)).logits[0], **CLOSE)
        whole = replace(batch(long), full=True)
        torch.testing.assert_close(both[0], model(whole).logits[0], **CLOSE)
        torch.testing.assert_close(model(whole, keep="last").logits[0], both[:1, -1], **CLOSE)


def test_the_cache_changes_nothing(model):
    given = batch([3, 4, 5, 6, 7, 8], [9, 10, 11])
    cache = model.language.cache(2, 6)
    with torch.no_grad():
        whole = model(given).logits
        parts = [
            model(
                replace(given, input_ids=given.input_ids[:, span], valid=given.valid[:, span],
                        prompt=given.prompt[:, span], image_slot=given.image_slot[:, span]),
                cache=cache,
            ).logits
            for span in (slice(0, 3), slice(3, 5), slice(5, 6))
        ]  # fmt: skip
    torch.testing.assert_close(torch.cat(parts, 1)[given.valid], whole[given.valid], **CLOSE)


def test_branches_of_one_trunk_are_conversations_of_their_own(model):
    trunk, one, two = [3, 4, 5], [6, 7], [8, 9, 10]
    branch = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2]])
    positions = torch.tensor([[0, 1, 2, 3, 4, 3, 4, 5]])
    with torch.no_grad():
        both = model(batch(trunk + one + two, branch=branch, positions=positions)).logits[0]
        torch.testing.assert_close(both[:5], model(batch(trunk + one)).logits[0], **CLOSE)
        torch.testing.assert_close(both[5:], model(batch(trunk + two)).logits[0, 3:], **CLOSE)


def test_everything_learns(model):
    given = batch([3, 4, 5, 6, 7, 8])
    model(
        replace(given, labels=given.input_ids.masked_fill(given.input_ids < 4, IGNORE)), keep="labelled"
    ).logits.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] in (
        [],
        [n for n, _ in model.named_parameters() if n.endswith("key.bias")],  # which no score feels
    )


def test_places_far_away_count_less():
    torch.manual_seed(1)
    model = Gpt(**SIZES, steepest=8.0, deviation=0.3).eval()
    with torch.no_grad():
        shares = model.layers[0].shares(model.open(batch([5] * 12)), torch.tensor([[11]]))[0, 0]
    assert float(shares.sum()) == pytest.approx(1, abs=1e-5) and (shares.diff() > 0).all()


def test_the_fall_is_made_once_for_the_layers_that_see_the_same(monkeypatch):
    made = []
    monkeypatch.setattr("foveal.language.opt.sloped", lambda *given: made.append(0) or sloped(*given))
    model = Gpt(**SIZES, steepest=8.0).eval()
    with torch.no_grad():
        stream = model.open(batch([5] * 6))
        for layer in model.layers:
            stream = layer(stream)
        assert len(model.layers) > 1 and len(made) == 1
        model.layers[0](replace(stream, mask=stream.mask.clone()))
        model.layers[0](replace(stream, positions=stream.positions + 1))
    assert len(made) == 3


def test_a_share_of_each_head_turns_and_the_rest_stays():
    rope, heads = Rope(share=0.5), torch.randn(1, 2, 3, 8)
    turned = rotate(heads, *tables(torch.tensor([[0, 3, 9]]), inverse_frequencies(8, rope), dtype=torch.float32))
    alone = rotate(
        heads[..., :4], *tables(torch.tensor([[0, 3, 9]]), inverse_frequencies(4, Rope()), dtype=torch.float32)
    )
    assert torch.equal(turned[..., 4:], heads[..., 4:]) and torch.equal(turned[..., :4], alone)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "rope None and steepest 0.0; give one of the two"),
        ({"rope": Rope(), "steepest": 8.0}, "give one of the two"),
        ({"rope": Rope(), "heads": 5}, "5 heads do not divide a width of 24"),
    ],
)
def test_settings_that_do_not_fit_are_told(more, told):
    with pytest.raises(InputError, match=told):
        Gpt(**{**SIZES, **more})
