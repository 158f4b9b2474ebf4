"""EfficientNet-Lite returns what it planned for any input size, and its tokens depend on their own image alone."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from foveal.core.errors import InputError
from foveal.core.interfaces import VisionEncoder
from foveal.core.lookup import build, spec
from foveal.core.types import Pixels
from foveal.vision import efficientnet_lite
from foveal.vision.efficientnet_lite import ConvNorm, EfficientnetLite


def encoder(part=EfficientnetLite, **settings):
    """A network whose batch norms do something."""
    torch.manual_seed(0)
    made = part(**settings)
    for part in made.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.0)
            nn.init.normal_(part.bias, std=0.1)
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return made.eval()


def pixels(images=2, size=(64, 64)):
    return Pixels.whole(torch.randn(images, 3, *size, generator=torch.Generator().manual_seed(1)))


LITE0 = encoder()


@settings(max_examples=40)
@given(
    images=st.integers(1, 2),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    taps=st.lists(st.sampled_from([4, 8, 16, 32]), min_size=1, unique=True).map(tuple),
    stride=st.sampled_from([4, 8, 16, 32]),
    resample=st.sampled_from(["bilinear", "nearest"]),
)
@torch.no_grad()
def test_the_call_returns_what_was_planned(images, size, taps, stride, resample):
    made = LITE0
    made.taps, made.stride, made.resample = taps, stride, resample
    width = sum(made.ends[tap][1] for tap in taps)
    visual = made(pixels(images, size))
    assert visual.layout == made.plan([size] * images)
    assert visual.layout.grids == ((-(-size[0] // stride), -(-size[1] // stride)),) * images
    assert visual.features.shape == (visual.layout.total, width)


@pytest.mark.parametrize("threads", [1, 2])
@torch.no_grad()
def test_images_that_pass_one_after_another_are_the_same(monkeypatch, threads):
    made, given = encoder(taps=(8, 16, 32), levels=(16,)), pixels(5)
    whole, passed, stem = made(given), [], made._stem
    monkeypatch.setattr(efficientnet_lite, "_NEAR", 2 * 64 * 64 * 4 // threads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(made, "_stem", lambda some: passed.append(len(some)) or stem(some))
    parts = made(given)
    assert passed == [2, 2, 1] and parts.layout == whole.layout
    torch.testing.assert_close(parts.features, whole.features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts.levels[0], whole.levels[0], atol=1e-5, rtol=1e-5)


def test_folded_weights_are_held_until_one_changes():
    made, given = encoder(), pixels(1)
    with torch.no_grad():
        first = made(given).features
        held = made._held
        assert torch.equal(made(given).features, first) and made._held is held
        for change in (
            lambda: made.blocks[3].project.norm.running_mean.add_(1.0),
            lambda: made.blocks[2].expand.conv.weight.mul_(2.0),
            lambda: made.load_state_dict(encoder().state_dict()),
            lambda: made.blocks[3].project.norm.bias.data.add_(1.0),
            lambda: made.blocks[2].expand.conv.weight.data[5].zero_(),
            lambda: [weight.data.mul_(1.5) for weight in made.parameters()],  # as averages of weights are put in
            lambda: made.double(),
        ):
            before = made(given).features
            change()
            after = made(given).features.float()
            fresh = encoder()
            fresh.load_state_dict(made.state_dict())
            torch.testing.assert_close(after, fresh.to(made.stem.conv.weight.dtype)(given).features.float())
            assert not torch.equal(after, before)
    copied = copy.deepcopy(made.float())
    assert "_held" not in str(copied.state_dict().keys())
    made.train()
    made(given).features.sum().backward()  # what learns is never held
    assert made._held is None and made.blocks[0].project.conv.weight.grad is not None
    with torch.inference_mode():
        inside = made.eval()(given).features
    values = given.values.clone().requires_grad_()
    outside = made.requires_grad_(False)(Pixels.whole(values)).features
    outside.sum().backward()
    torch.testing.assert_close(inside, outside.detach())


@pytest.mark.parametrize(
    ("variant", "widths", "blocks"),
    [(0, (24, 40, 112, 320), 16), (1, (24, 40, 112, 320), 21), (2, (24, 48, 120, 352), 21)],
)
def test_variants_are_scaled_as_published(variant, widths, blocks):
    with torch.device("meta"):
        made = EfficientnetLite(variant=variant, taps=(4, 8, 16, 32))
    assert tuple(made.ends[place][1] for place in (4, 8, 16, 32)) == widths
    assert made.width == sum(widths) and len(made.blocks) == blocks


@torch.no_grad()
def test_taps_lie_over_their_pixels():
    made = encoder(taps=(32, 8, 16), resample="nearest")
    found = made.maps(pixels(1, (80, 64)).values)
    visual = made(pixels(1, (80, 64)))
    assert visual.layout.grids == ((5, 4),)
    coarse, fine, same = visual.features.view(5, 4, -1).split([320, 40, 112], dim=-1)
    torch.testing.assert_close(same, found[16][0].permute(1, 2, 0))
    torch.testing.assert_close(fine[3, 1], found[8][0, :, 6:8, 2:4].mean((1, 2)))
    torch.testing.assert_close(coarse[4, 3], found[32][0, :, 2, 1])


@torch.no_grad()
def test_finer_maps_are_joined_with_all_their_places():
    made = encoder(taps=(8, 16), levels=(8,), finer="join")
    assert made.width == 4 * 40 + 112 and made.level_widths == (4 * 40,)
    found = made.maps(pixels(1, (72, 64)).values)
    visual = made(pixels(1, (72, 64)))
    assert visual.layout.grids == ((5, 4),)
    fine, same = visual.features.view(5, 4, -1).split([160, 112], dim=-1)
    torch.testing.assert_close(same, found[16][0].permute(1, 2, 0))
    for row, column in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        place = fine.unflatten(-1, (2, 2, 40))[2, 3, row, column]
        torch.testing.assert_close(place, found[8][0, :, 4 + row, 6 + column])
    assert not fine.unflatten(-1, (2, 2, 40))[4, :, 1].any()  # the ninth row of stride 8 is the last
    assert torch.equal(visual.levels[0], fine.flatten(0, 1))


@torch.no_grad()
def test_an_image_alone_equals_itself_in_a_batch_also_in_training():
    made = encoder()
    both = made(pixels(2, (48, 40)))
    alone = made(Pixels.whole(pixels(2, (48, 40)).values[1:]))
    torch.testing.assert_close(both.features[both.image == 1], alone.features, atol=1e-5, rtol=1e-4)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    assert torch.equal(made.train()(pixels(2, (48, 40))).features, both.features)
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "kind", [{"kernel": 1}, {"stride": 2}, {"depthwise": True}, {"kernel": 5, "stride": 2}, {"kernel": 3}]
)
@torch.no_grad()
def test_a_convolution_holds_its_norm(kind, dtype):
    part = encoder(part=lambda: ConvNorm(6, 6, **kind)).to(dtype)
    maps = torch.randn(2, 6, 9, 7, dtype=dtype, generator=torch.Generator().manual_seed(1))
    apart = part.norm(part.conv(part._pad(maps) if part.padded else maps))
    torch.testing.assert_close(part(maps), apart, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("taps", [(4, 8, 16, 32), (8, 16)])
def test_every_trainable_parameter_gets_a_gradient(taps):
    made = encoder(taps=taps, classify=True).train()
    made(pixels(2, (80, 96))).features.square().sum().backward()
    trainable = {name for name, weight in made.named_parameters() if weight.requires_grad}
    assert trainable == {name for name, weight in made.named_parameters() if weight.grad is not None}
    assert "stem.conv.weight" in trainable and "head.conv.weight" not in trainable
    assert ("blocks.15.project.conv.weight" in trainable) == (32 in taps)
    assert all(weight.grad.abs().sum() > 0 for weight in made.parameters() if weight.requires_grad)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"taps": [8, 12]}, "taps: 12 .* 4, 8, 16, 32"),
        ({"taps": []}, "one or more"),
        ({"taps": [8, 8]}, "each once"),
        ({"stride": 2}, "stride: 2"),
        ({"variant": 3}, "variant.*'3'.*0, 1, 2"),
        ({"resample": "nearst"}, "did you mean 'nearest'"),
    ],
)
def test_impossible_settings_are_refused(given, told):
    with pytest.raises(InputError, match=told):
        build("vision", spec("vision", {"name": "efficientnet_lite", **given}))


def test_an_empty_image_and_an_absent_classifier_are_refused():
    with pytest.raises(InputError, match="0 x 5"):
        encoder().plan([(0, 5)])
    with pytest.raises(InputError, match="classify: true"):
        encoder().logits(pixels().values)


def test_it_is_a_component():
    made = build("vision", spec("vision", {"name": "efficientnet_lite", "taps": [8, 16]}))
    assert isinstance(made, VisionEncoder) and made.plan([(64, 48)]).total == 4 * 3
