"""The ViT returns what it planned, at the depths that were asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.core.interfaces import VisionEncoder
from foveal.core.lookup import build, spec
from foveal.core.types import Pixels
from foveal.vision.vit import Vit, resized_positions

TINY = {"width": 12, "depth": 3, "heads": 2, "inner": 16, "patch": 4, "image_size": 12}


def vit(**settings):
    torch.manual_seed(0)
    return Vit(**{**TINY, **settings})


def pixels(images=2, size=(12, 12)):
    return Pixels.whole(torch.randn(images, 3, *size, generator=torch.Generator().manual_seed(1)))


@given(
    images=st.integers(1, 3),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    class_token=st.booleans(),
    select=st.sampled_from(["default", "full"]),
    layers=st.lists(st.integers(-4, 3), min_size=1, max_size=3).map(tuple),
    levels=st.lists(st.integers(-4, 3), max_size=2).map(tuple),
)
def test_the_call_returns_what_was_planned(images, grid, class_token, select, layers, levels):
    encoder = vit(class_token=class_token, select=select, layers=layers, levels=levels)
    size = (4 * grid[0], 4 * grid[1])
    visual = encoder(pixels(images, size))
    assert visual.layout == encoder.plan([size] * images)
    assert visual.features.shape == (visual.layout.total, encoder.width) == (visual.layout.total, 12 * len(layers))
    assert [level.shape for level in visual.levels] == [(visual.layout.total, 12)] * len(levels)
    assert visual.layout.grids == ((grid if class_token == (select == "default") else None),) * images


@pytest.mark.parametrize(("class_token", "select", "more"), [(True, "full", 1), (False, "default", -1)])
def test_the_first_token_makes_the_difference(class_token, select, more):
    layout = vit(class_token=class_token, select=select).plan([(12, 12), (8, 16)])
    assert layout.counts == (9 + more, 8 + more) and layout.grids == (None, None)


def test_taps_are_concatenated_in_the_given_order():
    encoder = vit(layers=(3, 0, -2), levels=(1, -1), select="full")
    states = encoder.states(pixels().values, range(4))
    visual = encoder(pixels())
    assert torch.equal(visual.features, torch.cat([states[3], states[0], states[2]], dim=-1).flatten(0, 1))
    assert torch.equal(visual.levels[0], states[1].flatten(0, 1))
    assert torch.equal(visual.levels[1], states[3].flatten(0, 1))


def test_nothing_is_computed_beyond_the_deepest_tap():
    encoder = vit(layers=(1,), levels=(2,))
    ran = []
    for depth, block in enumerate(encoder.blocks, start=1):
        block.register_forward_hook(lambda *_, depth=depth: ran.append(depth))
    encoder(pixels())
    assert ran == [1, 2]


def test_an_image_alone_equals_itself_in_a_batch():
    encoder = vit()
    both, alone = encoder(pixels()), encoder(Pixels.whole(pixels().values[1:]))
    torch.testing.assert_close(both.features[9:], alone.features)
    assert torch.equal(encoder(pixels()).features, both.features)


@pytest.mark.parametrize(
    "settings", [{}, {"layers": (1, -1), "pool": True}, {"class_token": False, "patch_bias": True}]
)
def test_every_trainable_parameter_gets_a_gradient(settings):
    encoder = vit(**settings)
    visual = encoder(pixels(size=(8, 16)))
    visual.features.square().sum().backward()
    trainable = {name for name, weight in encoder.named_parameters() if weight.requires_grad}
    assert trainable == {name for name, weight in encoder.named_parameters() if weight.grad is not None}
    assert trainable >= {"positions", "patches.weight", "blocks.0.attention.query.weight"}
    assert all(weight.grad.abs().sum() > 0 for weight in encoder.parameters() if weight.requires_grad)


def test_the_native_size_need_not_be_a_multiple_of_the_patch():
    encoder = vit(image_size=14)
    assert encoder(pixels(1, (14, 14))).layout == encoder.plan([(14, 14)])
    assert encoder.plan([(14, 14)]).grids == ((3, 3),)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layers": (4,)}, "has 4, but the tower has 3 blocks; give -4 to 3"),
        ({"levels": (-5,)}, "vit levels has -5"),
        ({"layers": ()}, "at least one"),
        ({"heads": 5}, "5 heads do not divide a width of 12"),
        ({"activation": "gelo"}, "did you mean 'gelu'"),
    ],
)
def test_impossible_settings_are_refused(settings, told):
    with pytest.raises(InputError, match=told):
        vit(**settings)


@pytest.mark.parametrize("size", [(13, 12), (12, 2), (0, 4)])
def test_pixels_that_do_not_split_into_patches_are_refused(size):
    with pytest.raises(InputError, match="multiples of 4"):
        vit().plan([size])
    with pytest.raises(InputError, match="multiples of 4"):
        vit()(pixels(1, size))


def test_resized_positions_keep_the_class_token_and_the_mean():
    positions = torch.cat([torch.full((1, 5), 9.0), torch.full((16, 5), 2.0)])
    new = resized_positions(positions, old=(4, 4), new=(3, 7), extra=1)
    assert new.shape == (22, 5) and bool((new[0] == 9).all())
    torch.testing.assert_close(new[1:], torch.full((21, 5), 2.0))


def test_it_is_a_component():
    made = build("vision", spec("vision", {"name": "vit", **TINY, "layers": [-1, 1]}))
    assert isinstance(made, VisionEncoder) and made.plan([(64, 48)]).total == 16 * 12


def test_the_last_state_may_be_normed_and_no_other():
    encoder, plain = vit(layers=(-1, 1), last_norm=True), vit(layers=(-1, 1))
    normed, bare = encoder(pixels()).features, plain(pixels()).features
    torch.testing.assert_close(normed[:, :12], encoder.post_norm(bare[:, :12]))
    assert torch.equal(normed[:, 12:], bare[:, 12:])
    assert encoder.post_norm.weight.requires_grad and not plain.post_norm.weight.requires_grad
    assert not vit(layers=(1,), last_norm=True).post_norm.weight.requires_grad
