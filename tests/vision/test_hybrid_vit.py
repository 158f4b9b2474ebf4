"""Blocks over an encoder begin as if they were not there, and tell what their class token attends to."""

from typing import Any

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Pixels
from foveal.vision.hybrid_vit import HybridVit

STEM = {"name": "efficientnet_lite", "taps": (16,), "levels": (8,)}
VIT = {"name": "vit", "image_size": 32, "patch": 16, "width": 12, "depth": 1, "heads": 2, "inner": 24}


def pixels(images=2, size=(32, 48)):
    return Pixels.whole(torch.randn(images, 3, *size, generator=torch.Generator().manual_seed(1)))


def awake(**settings):
    """One whose gates are open."""
    torch.manual_seed(0)
    made = HybridVit(stem=STEM, **settings).eval()
    with torch.no_grad():
        for name, weight in made.look.named_parameters():
            if "gate" in name:
                weight.fill_(0.7)
    return made


def test_it_begins_as_its_stem():
    made = HybridVit(stem=STEM).eval()
    seen, below = made(pixels()), made.stem(pixels())
    assert torch.equal(seen.features, below.features) and torch.equal(seen.levels[0], below.levels[0])
    assert made.plan([(32, 48)] * 2) == seen.layout and made.width == made.stem.width


@torch.no_grad()
def test_attention_is_that_of_the_class_token_in_the_last_block():
    made = awake(depth=2)
    told = made.attended(pixels())
    assert torch.equal(told.features, made(pixels()).features)
    assert not torch.allclose(told.features, made.stem(pixels()).features)
    hidden = made.look.before_last(made.look.placed(made.stem(pixels()).features.unflatten(0, (2, -1)), (2, 3)))
    last: Any = made.look.blocks[-1]
    query, key, _ = last.attention.project(last.attention_norm(hidden))
    share = (query[:, :, :1] @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1).mean((1, 2))
    torch.testing.assert_close(told.attention, share[:, 1:].flatten())
    assert told.keys is not None and told.keys.shape[0] == 12


def test_each_picture_is_looked_over_alone_and_all_that_looks_learns():
    made = awake()
    both, alone = made(pixels()), made(Pixels.whole(pixels().values[1:]))
    torch.testing.assert_close(both.features[6:], alone.features, atol=1e-4, rtol=1e-4)
    both.features.square().sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in made.look.parameters())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stem": "vq"}, "has codes"),
        ({"stem": "qwen_vit"}, "has reads_frames"),
        ({"stem": VIT, "heads": 5}, "5 heads do not divide a width of 12"),
        ({"stem": VIT, "depth": 0}, "a hybrid_vit of 0 blocks"),
    ],
)
def test_stems_that_do_not_fit_are_refused(settings, said):
    with torch.device("meta"), pytest.raises(InputError, match=said):
        HybridVit(**settings)


def test_a_stem_without_a_grid_is_refused():
    with pytest.raises(InputError, match="stem's tokens lie on none"):
        HybridVit(stem={**VIT, "select": "full"}, heads=2).plan([(32, 32)])
