"""Images in tiles that the encoder sees in smaller pictures: within the budget they stay as they are."""

from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Cut, Pixels
from foveal.models.budget import budgeted
from tests.models.test_tiles import CUTS, RASTER, TILES, batch_of, model_of


@torch.no_grad()
@pytest.mark.parametrize("budget", [3, 4])
def test_downsampling_reads_tiles_as_the_one_picture_that_they_show(budget):
    """The encoder sees a whole small picture of each, in its own shape, and says what it says of such alone."""
    model = model_of("mlp", RASTER, vision="efficientnet_lite")
    view, seen = budgeted(model, budget, "downsample"), []
    given = replace(batch_of(view), labels=None)
    hook = model.vision.register_forward_hook(lambda part, given, made: seen.append(given[0]))
    made = view.see(given)
    hook.remove()
    assert made.layout.counts == view.plan(CUTS).counts
    assert sum(len(one.values) for one in seen) == len(CUTS) and all(one.cuts is None for one in seen)
    assert max(made.layout.counts) <= budget and view(given).logits.isfinite().all()
    canvas = torch.zeros(1, 3, 64, 96)
    tiles = given.visual.values[1:7].view(2, 3, 3, 32, 32)  # after the view
    for row in range(2):
        for column in range(3):
            canvas[0, :, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32] = tiles[row, column]
    alone = budgeted(model_of("mlp", None, vision="efficientnet_lite"), budget, "downsample")
    alone.load_state_dict({name: part for name, part in model.state_dict().items() if not name.startswith("joined.")})
    one = alone.see(replace(given, visual=Pixels.whole(canvas), owner=given.owner[:1]))
    count = one.layout.counts[0]
    torch.testing.assert_close(one.features, made.features[:count], atol=1e-4, rtol=1e-4)
    film = Pixels.cut(canvas[:, :, :32, :32], (Cut(tile=(32, 32), size=(9, 9), frames=1),))
    with pytest.raises(InputError, match="frames of a video"):
        view.see(replace(given, visual=film, owner=given.owner[:1]))


@torch.no_grad()
@pytest.mark.parametrize("mosaic", [RASTER, TILES])
@pytest.mark.parametrize("budget", [6, 10, 60])
def test_downsampling_leaves_an_image_within_the_budget_in_its_tiles(mosaic, budget):
    model = model_of("mlp", mosaic, vision="efficientnet_lite")
    view, whole = budgeted(model, budget, "downsample"), model.plan(CUTS)
    given = batch_of(model)
    seen, every = view.see(given), model.see(given)
    assert seen.layout.counts == view.plan(CUTS).counts and max(seen.layout.counts) <= budget
    tiles = given.visual.values.split([cut.tiles for cut in CUTS])
    for i, (cut, some) in enumerate(zip(CUTS, tiles, strict=True)):
        one = view.see(replace(given, visual=Pixels.cut(some, (cut,)), owner=given.owner[:1]))
        assert view.plan([cut]).counts == one.layout.counts == seen.layout.counts[i : i + 1]
        mine = seen.features[slice(*seen.layout.offsets[i : i + 2])]
        torch.testing.assert_close(one.features, mine)
        if whole.counts[i] <= budget:
            torch.testing.assert_close(mine, every.features[slice(*every.layout.offsets[i : i + 2])])
    assert torch.equal(seen.features, every.features) == (max(whole.counts) <= budget)


@torch.no_grad()
@pytest.mark.parametrize("budget", [3, 9])
def test_downsampling_does_not_read_what_fills_tiles_up(budget):
    """As every other strategy, it has the cells that the image fills at most."""
    model = model_of("mlp", RASTER, vision="efficientnet_lite")
    given, cut = batch_of(model, CUTS[2:]), CUTS[2]
    tiles = given.visual.values.clone()
    tiles[0, :, :, :16] = tiles[1, :, :, 16:] = 9.0  # beside the image, in the middle of 32 x 64 pixels
    other = replace(given, visual=Pixels.cut(tiles, (cut,)))
    view = budgeted(model, budget, "downsample")
    assert view.plan([cut]).counts == budgeted(model, budget, "grid").plan([cut]).counts == (min(budget, 4),)
    assert torch.equal(view.see(given).features, view.see(other).features)
