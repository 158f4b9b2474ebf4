"""The VQ tokenizer: pixels to codes and back, as planned, learning on both sides of the codebook."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.interfaces import VisionEncoder
from foveal.core.types import Pixels
from foveal.vision.vq import Vq, codebook_losses, nearest, straight_through

TINY = {"codes": 12, "width": 8, "latent": 4, "base": 32, "multiples": (1, 2), "blocks": 1, "resolution": 16}


def vq(**settings):
    torch.manual_seed(0)
    return Vq(**{**TINY, **settings})


def images(count=2, size=(16, 16)):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("size", "fold"), [((16, 16), 1), ((8, 12), 1), ((16, 8), 2)])
def test_the_call_returns_what_was_planned(size, fold):
    encoder = vq(fold=fold, decoder=False)
    assert isinstance(encoder, VisionEncoder)
    visual = encoder(Pixels.whole(images(size=size)))
    assert visual.layout == encoder.plan([size] * 2)
    assert visual.layout.grids == ((size[0] // (2 * fold), size[1] // (2 * fold)),) * 2
    assert visual.features.shape == (visual.layout.total, encoder.width)
    codes = encoder.encode(images(size=size))
    assert torch.equal(visual.features, encoder.codebook(codes.flatten())) and codes.shape[1:] == visual.layout.grids[0]
    assert torch.equal(encoder.recognise(visual.features), codes.flatten())


def test_the_nearest_entry_is_chosen_and_of_equals_the_first():
    table = torch.tensor([[5.0, 5.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert nearest(torch.tensor([[0.9, 0.1], [0.2, 0.9], [40.0, 4.0]]), table).tolist() == [1, 2, 0]
    generator = torch.Generator().manual_seed(0)
    states, table = torch.randn(50, 6, generator=generator), torch.randn(9, 6, generator=generator)
    assert torch.equal(nearest(states, table), torch.cdist(states, table).argmin(1))


def test_autocast_chooses_the_same_codes():
    chance = torch.Generator().manual_seed(0)
    states, table = torch.randn(500, 8, generator=chance), torch.randn(64, 8, generator=chance)
    plain = nearest(states, table)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nearest(states, table), plain)


def test_gradients_pass_the_choice_and_the_losses_pull_one_side_each():
    states = torch.randn(5, 3, requires_grad=True)
    chosen = torch.randn(5, 3, requires_grad=True)
    straight_through(states, chosen.detach()).sum().backward()
    assert torch.equal(states.grad, torch.ones(5, 3)) and chosen.grad is None
    states.grad = None
    commitment, codebook = codebook_losses(states, chosen)
    assert commitment == codebook
    commitment.backward()
    assert states.grad is not None and chosen.grad is None
    codebook.backward()
    torch.testing.assert_close(chosen.grad, -states.grad)


def test_pixels_come_back_through_codes():
    model = vq(looks=(8,), fold=2, resolution=32)
    made = model.reconstruct(images(size=(32, 32)))
    assert made.pixels.shape == (2, 3, 32, 32)
    assert torch.equal(made.codes, model.encode(images(size=(32, 32))))
    torch.testing.assert_close(model.decode(made.codes), made.pixels)
    ((made.pixels - images(size=(32, 32))).abs().mean() + made.commitment + made.codebook).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in model.parameters())


def test_attention_stands_at_the_named_sides():
    model = vq(looks=(8,), resolution=16)
    looks = [hasattr(level.looks[0], "query") for level in model.encoder.levels]
    assert (
        looks == [False, True] and [hasattr(level.looks[0], "query") for level in model.decoder.levels] == looks[::-1]
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"base": 48}, "48 base channels .* multiple of 32"),
        ({"multiples": ()}, "multiples of 0"),
        ({"fold": 0}, "fold of 0"),
    ],
)
def test_impossible_settings_are_refused(settings, told):
    with pytest.raises(InputError, match=told):
        vq(**settings)


def test_impossible_wishes_are_refused():
    with pytest.raises(InputError, match=r"15 x 16 pixels .* multiples of 2"):
        vq().plan([(15, 16)])
    with pytest.raises(InputError, match="codes from 0 to 12 for a codebook of 12"):
        vq().decode(torch.tensor([[[0, 12]]]))
    with pytest.raises(InputError, match="no decoder"):
        vq(decoder=False).decode(torch.zeros(1, 2, 2, dtype=torch.long))
