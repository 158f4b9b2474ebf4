"""Images of any shape in one batch: each is what it is alone, and every patch takes the place where it lies."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.core.types import Pixels
from foveal.vision.native_vit import NativeVit, buckets

SIDES = st.integers(4, 23)


def tower(**more):
    torch.manual_seed(0)
    return NativeVit(**{"width": 12, "depth": 2, "heads": 2, "inner": 16, "patch": 4, "image_size": 16, **more}).eval()


def batch(*sizes):
    """Images of these sizes, filled up with what no tower may see."""
    generator = torch.Generator().manual_seed(1)
    room = [max(size[axis] for size in sizes) for axis in (0, 1)]
    whole = Pixels.whole(torch.randn(len(sizes), 3, *room, generator=generator))
    return Pixels(values=whole.values, image=whole.image, tile=whole.tile, sizes=sizes)


@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=3))
def test_an_image_is_alone_what_it_is_among_others(sizes):
    model, pixels = tower(), batch(*sizes)
    with torch.no_grad():
        seen = model(pixels)
        alone = [model(Pixels.whole(pixels.values[i : i + 1, :, :h, :w])) for i, (h, w) in enumerate(sizes)]
    assert seen.layout == model.plan(sizes)
    assert seen.layout.grids == tuple((h // 4, w // 4) for h, w in sizes)
    torch.testing.assert_close(seen.features, torch.cat([one.features for one in alone]), atol=1e-5, rtol=1e-4)


def test_an_image_of_the_learned_size_takes_each_position_once():
    model = tower(depth=0)
    with torch.no_grad():
        model.patches.weight.zero_()
        model.patches.bias.zero_()
        seen = model(Pixels.whole(torch.zeros(1, 3, 16, 16)))
        wide = model(Pixels.whole(torch.zeros(1, 3, 8, 32)))
    torch.testing.assert_close(seen.features, model.post_norm(model.positions))
    rows, columns = (torch.arange(count) for count in (2, 8))
    places = (2 * rows[:, None] * 4 + columns // 2).flatten()
    torch.testing.assert_close(wide.features, model.post_norm(model.positions[places]))


@given(st.integers(1, 200), st.integers(1, 80))
def test_buckets_rise_and_stay_on_the_line(count, side):
    places = buckets(count, side)
    assert places[0] == 0 and (places.diff() >= 0).all() and places[-1] < side


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(InputError, match=r"3 x 9 pixels \(height x width\) for patches of 4"):
        tower().plan([(3, 9)])
    pixels = batch((8, 8))
    beyond = Pixels(values=pixels.values, image=pixels.image, tile=pixels.tile, sizes=((8, 12),))
    with pytest.raises(InputError, match=r"8 x 12 pixels .* in a tile of 8 x 8"):
        tower()(beyond)
    many = Pixels(values=pixels.values, image=pixels.image, tile=pixels.tile, sizes=((8, 8), (8, 8)))
    with pytest.raises(InputError, match="2 sizes for 1 tiles"):
        tower()(many)
    with pytest.raises(InputError, match="5 heads do not divide a width of 12"):
        tower(heads=5)
