from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.models.glances import glances
from tests.fusion.test_gated_cross_attention import batch_of, images, model_of


def test_shares_are_of_the_images_that_a_token_sees():
    model, visual = model_of(every=2), images(2, 3)
    told = glances(model, batch_of([[7, -1, 5, -2], [-2, 8, 9, 3]], visual))
    assert list(told.shares) == [1]
    shares = told.shares[1]
    assert shares.shape == (2, 2, 4, 6)
    seen = {(0, 1): [0, 1], (0, 3): [2, 3, 4], (1, 2): [2, 3, 4]}
    for (row, word), tokens in seen.items():
        looked = shares[row, :, word].sum(0) > 0
        assert told.tokens[row][looked].tolist() == tokens
    sums = shares.sum(-1)
    torch.testing.assert_close(sums[1], torch.ones(2, 4))
    assert not sums[0, :, 0].any()


def test_blind_text_that_takes_the_mean_shares_alike():
    told = glances(model_of(blind="mean"), batch_of([[7, -1, 5]], images(4)))
    torch.testing.assert_close(told.shares[0][0, :, 0], torch.full((2, 4), 0.25))


def test_shares_are_what_the_block_mixes():
    model, visual = model_of(layers=(0,)), images(3)
    batch = batch_of([[-1, 5]], visual)
    told, block = glances(model, batch), model.fusion.blocks["0"]
    value = block.attention.value(visual.features).unflatten(-1, (2, 4)).transpose(0, 1)
    found = block.attention.out((told.shares[0][0] @ value).transpose(0, 1).flatten(1))
    stream = model.language.open(batch)
    looked = stream.hidden[0] + block.attention_gate(found)
    after = model.fusion.at_layer(0, model.fusion.at_input(stream, visual)).hidden[0]
    torch.testing.assert_close(block.fed(looked[None])[0], after, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("gate", "count"), [("scalar", 2), ("vector", 2), ("none", 0)])
def test_gates_are_told(gate, count):
    gates = glances(model_of(gate=gate, layers=(2,)), batch_of([[-1, 5]], images(3))).gates
    assert len(gates[2]) == count
    assert all((opening == torch.tensor(0.7).tanh()).all() for opening in gates[2])


def test_other_models_and_batches_are_refused():
    batch = batch_of([[-1, 5]], images(3))
    with pytest.raises(InputError, match="without images"):
        glances(model_of(), replace(batch, visual=None))
    plain = assemble(ModelConfig.parse({"language": {"name": "decoder", "vocabulary": 40}}))
    with pytest.raises(InputError, match="no blocks that look in Prefix"):
        glances(plain, batch)
