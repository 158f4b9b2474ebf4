"""All tiles of an image are read together, those that are not there among them, as the reference reads them."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Pixels
from foveal.layers.gates import Gate
from foveal.vision.tiled_vit import TiledVit

TINY = {"width": 12, "depth": 3, "global_depth": 1, "heads": 2, "inner": 16, "patch": 4, "image_size": 8}
RATIOS = ((1, 1), (1, 2), (2, 1), (2, 2))


def tower(**more):
    torch.manual_seed(0)
    model = TiledVit(**{**TINY, "taps": (0, 2), "ratios": RATIOS, **more}).eval()
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, Gate):
                part.weight.fill_(0.3)
    return model


def tiles(*grids, seed=1):
    """Images of so many rows and columns of tiles; None: a stand-in for no image."""
    values, image, tile = [], [], []
    generator = torch.Generator().manual_seed(seed)
    for number, grid in enumerate(grids):
        spots = [(-2, -2)] if grid is None else [(r, c) for r in range(grid[0]) for c in range(grid[1])]
        shape = (len(spots), 3, 8, 8)
        values.append(torch.zeros(shape) if grid is None else torch.randn(shape, generator=generator))
        image, tile = image + [number] * len(spots), tile + spots
    return Pixels(values=torch.cat(values), image=torch.tensor(image), tile=torch.tensor(tile))


@torch.no_grad()
def test_each_image_brings_all_its_places_and_hides_the_empty_ones():
    model = tower()
    seen = model(tiles((1, 2), (2, 2), None))
    assert seen.layout == model.plan([(8, 8)] * 3) and seen.layout.counts == (20, 20, 20)
    assert seen.features.shape == (60, 36) and model.width == 36
    assert seen.masked.view(3, 4, 5).all(-1).tolist() == [[False, False, True, True], [False] * 4, [False] + [True] * 3]
    boxes = seen.boxes.view(3, 4, 5, 4)
    assert boxes[0, 1, 0].tolist() == [0.5, 0.0, 1.0, 1.0] and boxes[0, 1, 4].tolist() == [0.75, 0.5, 1.0, 1.0]
    assert boxes[1, 2, 1].tolist() == [0.0, 0.5, 0.25, 0.75] and boxes[0, 3, 2].tolist() == [0.0, 0.0, 1.0, 1.0]
    assert tower(tiles=1, ratios=((1, 1),))(Pixels.whole(torch.randn(1, 3, 8, 8))).masked is None


@torch.no_grad()
def test_an_image_is_alone_what_it_is_among_others():
    model, both = tower(), tiles((1, 2), (2, 1))
    alone = Pixels(values=both.values[2:], image=both.image[2:] - 1, tile=both.tile[2:])
    torch.testing.assert_close(model(both).features[20:], model(alone).features, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_tiles_may_come_in_any_order_and_absent_ones_are_black():
    model, pixels = tower(), tiles((2, 1))
    expected = model(pixels).features
    turned = Pixels(values=pixels.values.flip(0), image=pixels.image, tile=pixels.tile.flip(0))
    torch.testing.assert_close(model(turned).features, expected)
    filled = Pixels(
        values=torch.cat([pixels.values, torch.zeros(2, 3, 8, 8)]),
        image=torch.zeros(4, dtype=torch.long),
        tile=torch.cat([pixels.tile, torch.full((2, 2), -2)]),
    )
    torch.testing.assert_close(model(filled).features, expected)


@torch.no_grad()
def test_a_whole_picture_and_a_frame_are_images_of_one_tile():
    model, pixels = tower(), tiles((1, 1), (1, 1))
    expected = model(pixels).features
    assert torch.equal(model(Pixels.whole(pixels.values)).features, expected)
    assert torch.equal(model(Pixels.whole(pixels.values, frames=(2,))).features, expected)


@torch.no_grad()
def test_taps_stand_beside_the_last_state_number_by_number():
    tapped, plain = tower(), tower(taps=())
    plain.load_state_dict(tapped.state_dict())
    pixels = tiles((1, 2))
    seen = tapped(pixels).features
    torch.testing.assert_close(seen[:, :12], plain(pixels).features)
    swapped = tower(taps=(2, 0))
    swapped.load_state_dict(tapped.state_dict())
    states = swapped(pixels).features[:, 12:].unflatten(-1, (12, 2)).flip(-1).flatten(-2)
    torch.testing.assert_close(seen[:, 12:], states)


def test_what_cannot_be_is_refused():
    with pytest.raises(
        InputError, match="3 tiles in 1 rows of 3 for a tower of up to 4, arranged as one of 1 x 1, 1 x 2"
    ):
        tower()(tiles((1, 3)))
    pixels = tiles((2, 2))
    with pytest.raises(InputError, match="3 tiles do not fill 2 rows of 2"):
        tower()(Pixels(values=pixels.values[:3], image=pixels.image[:3], tile=pixels.tile[:3]))
    with pytest.raises(InputError, match=r"tile of 8 x 4 pixels .* tiles of 8 x 8"):
        tower().plan([(8, 4)])
    with pytest.raises(InputError, match="taps has 3, but the tower has 3 layers"):
        tower(taps=(3,))
    with pytest.raises(InputError, match="ratio of 2 x 2 for up to 2 tiles"):
        tower(tiles=2)
    with pytest.raises(InputError, match="5 heads do not divide a width of 12"):
        tower(heads=5)
