import copy
import pickle

import pytest
import torch
from torch import nn

from foveal.layers import linear as linear_file
from foveal.layers.cross_attention import CrossAttention
from foveal.layers.linear import Linear
from foveal.layers.packed import Packed, pack
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.relevance.hearing import Hearing
from tests.language.test_decoder import ROW, texts


@pytest.fixture(autouse=True)
def onednn(monkeypatch):
    """Weights are packed on any processor here."""
    monkeypatch.setattr(linear_file, "amd", lambda: True)


def model(tied):
    torch.manual_seed(0)
    language = {"name": "decoder", "vocabulary": 600, "width": 256, "inner": 600, "depth": 2, "deviation": 0.1}
    head = {"name": "language_model", "tied": tied}
    return assemble(ModelConfig.parse({"language": language, "head": head})).eval()


@pytest.mark.parametrize("tied", [True, False])
def test_answers_and_is_saved_as_before(tied):
    plain, packed = model(tied), pack(model(tied))
    kinds = {name: type(part) for name, part in packed.named_modules()}
    assert kinds["language.layers.1.mlp.up"] is Packed
    assert kinds["language.layers.1.attention.query"] is Linear  # too small to gain
    assert (kinds["head.map"] is Packed) is not tied
    for batch in (texts(ROW), texts(ROW * 20)):
        torch.testing.assert_close(packed(batch).logits, plain(batch).logits, atol=1e-4, rtol=1e-5)
    before, after = plain.state_dict(), packed.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_nothing_of_it_trains():
    packed = pack(model(tied=True))
    assert not any(weight.requires_grad for weight in packed.parameters())
    assert not packed(texts(ROW)).logits.requires_grad


def one():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(512, 600))
    packed = pack(copy.deepcopy(plain))
    assert type(packed[0]) is Packed
    return plain, packed, torch.randn(3, 512)


def through(packed, way):
    if way == "loaded":
        fresh = pack(nn.Sequential(nn.Linear(512, 600)))
        fresh.load_state_dict(packed.state_dict())
        return fresh
    if way == "assigned":
        fresh = pack(nn.Sequential(nn.Linear(512, 600)))
        fresh.load_state_dict(packed.state_dict(), assign=True)
        return fresh
    return {"copied": copy.deepcopy, "pickled": lambda model: pickle.loads(pickle.dumps(model))}[way](packed)


@pytest.mark.parametrize("way", ["copied", "pickled", "loaded", "assigned"])
def test_it_is_copied_and_loaded_as_before(way):
    _, packed, hidden = one()
    other = through(packed, way)
    assert torch.equal(other(hidden), packed(hidden)) and other[0].packed.is_mkldnn
    assert not any(weight.requires_grad for weight in other[0].parameters())
    assert list(other.state_dict()) == ["0.weight", "0.bias"]
    assert torch.equal(other[0].weight, packed[0].weight) and other[0].packed is not packed[0].packed


def test_a_weight_that_does_not_fit_is_told_as_of_a_plain_one():
    _, packed, hidden = one()
    before = packed(hidden)
    with pytest.raises(RuntimeError, match="size mismatch for"):
        packed.load_state_dict({"0.weight": torch.zeros(3, 512), "0.bias": packed[0].bias})
    with pytest.raises(RuntimeError, match="Missing key"):
        packed.load_state_dict({"0.bias": packed[0].bias})
    assert torch.equal(packed(hidden), before)


def test_it_moves_and_is_cast_whole():
    plain, packed, hidden = one()
    plain, packed = plain.to(torch.bfloat16), packed.to(torch.bfloat16)
    assert torch.equal(packed(hidden.bfloat16()), plain(hidden.bfloat16()))
    back = packed.float()
    assert back[0].packed.is_mkldnn
    torch.testing.assert_close(back(hidden), plain.float()(hidden), atol=1e-4, rtol=1e-5)
    away = packed.to("meta")
    assert away[0].packed.device.type == away[0].bias.device.type == "meta"
    assert away(hidden.to("meta")).shape == (3, 600)


def test_autocast_and_gradients_pass_as_through_a_plain_one():
    plain, packed, hidden = one()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(packed(hidden), plain(hidden)) and packed(hidden).dtype == torch.bfloat16
    pulls = []
    for map in (plain, packed):
        felt = hidden.clone().requires_grad_()
        map(felt).square().sum().backward()
        pulls.append(felt.grad)
    torch.testing.assert_close(*pulls)


def test_who_reads_the_weight_finds_it():
    hearing = Hearing(width=512)
    packed = pack(copy.deepcopy(hearing))
    assert type(packed.show) is Packed
    features = torch.randn(1, 4, 512)
    torch.testing.assert_close(packed.shown(features), hearing.shown(features), atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_few_queries_look_as_before():
    torch.manual_seed(0)
    looks = CrossAttention(width=512, heads=4)
    packed, hidden, memory = pack(copy.deepcopy(looks)), torch.randn(1, 3, 512), torch.randn(1, 40, 512)
    assert type(packed.query) is Packed
    torch.testing.assert_close(packed.glance(hidden, memory), looks.glance(hidden, memory), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(packed.alone(memory), looks.alone(memory), atol=1e-4, rtol=1e-5)


def test_other_precisions_stay_as_they_are():
    layers = nn.Sequential(nn.Linear(512, 512, dtype=torch.bfloat16), nn.Linear(512, 512, dtype=torch.float64))
    assert [type(layer) for layer in pack(layers)] == [nn.Linear] * 2


def test_nothing_is_packed_where_onednn_is_turned_off(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert type(pack(nn.Sequential(nn.Linear(512, 512)))[0]) is nn.Linear
