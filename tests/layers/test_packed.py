import pytest
import torch
from torch import nn

from foveal.layers import linear as linear_file
from foveal.layers.linear import Linear
from foveal.layers.packed import Packed, pack
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
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


def test_other_precisions_stay_as_they_are():
    layers = nn.Sequential(nn.Linear(512, 512, dtype=torch.bfloat16), nn.Linear(512, 512, dtype=torch.float64))
    assert [type(layer) for layer in pack(layers)] == [nn.Linear] * 2


def test_nothing_is_packed_where_onednn_is_turned_off(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert type(pack(nn.Sequential(nn.Linear(512, 512)))[0]) is nn.Linear
