"""Pictures through codes and back: what is made small, and a codebook that does not collapse."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.training.objectives.reconstruct import drawn, reconstruct
from tests.models.test_autoencoder import batch_of
from tests.tiny import tiny_tokenizer


def images(count=4):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_loss_is_that_of_its_parts_and_teaches_everything():
    model = tiny_tokenizer().model.eval()
    values = images()
    loss, count, parts = reconstruct(model, batch_of(values), commitment=0.5)
    made = model(batch_of(values))
    assert count == 4 and set(parts) == {"pixels", "commitment", "codebook"}
    error = made.pixels - values
    torch.testing.assert_close(parts["pixels"][0] / 4, error.abs().mean() + error.square().mean())
    total = parts["pixels"][0] + 0.5 * parts["commitment"][0] + parts["codebook"][0]
    torch.testing.assert_close(loss, total)
    loss.backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())
    assert not model.usage.any()  # in evaluation mode nothing is counted


def test_codes_out_of_use_are_set_to_states_and_the_others_stay():
    model = tiny_tokenizer().model
    model.vision.train()
    torch.nn.init.constant_(model.vision.codebook.weight, 100.0)  # a collapse: all are equally far from every state
    told = reconstruct(model, batch_of(images()))[2]
    states = model(batch_of(images())).states.detach().flatten(0, 2)
    assert told["codes_dead"][0] == 11  # the first of equals was chosen for all, the others are set anew
    table = model.vision.codebook.weight.detach()
    assert (torch.cdist(table[1:], states).min(1).values < 1e-5).all() and (table[0] == 100).all()
    assert model.usage[1:].eq(1).all()
    kept = table.clone()
    again = reconstruct(model, batch_of(images()))[2]
    assert again["codes_dead"][0] == 0 and model.vision.codebook.weight.equal(kept)  # they have time to be chosen
    assert 1 < again["codes_perplexity"][0] <= 12
    assert model(batch_of(images())).codes.unique().numel() > 3


def test_states_far_from_their_code_are_drawn_more_often():
    torch.manual_seed(0)
    states = torch.tensor([[0.0], [1.0], [3.0]])
    found = drawn(states, torch.zeros(3, 1), 4000).flatten()
    assert (found == 3).double().mean() == pytest.approx(0.9, abs=0.02) and (found == 0).double().mean() < 0.01
    assert drawn(states, states, 5).shape == (5, 1)  # all are where they should be


def test_another_model_is_refused(encoder):
    with pytest.raises(InputError, match="teaches an image tokenizer"):
        reconstruct(encoder(), batch_of(images()))
