import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Layout, Regions, VisualTokens
from foveal.layers.regions import pooled


def seen(images=2):
    features = torch.arange(4.0 * images)[:, None].repeat(1, 3)
    return VisualTokens.on_layout(features, Layout.of_grids([(2, 2)] * images), (features[:, :1] + 1,))


def regions(*boxes):
    counts = tuple(len(some) for some in boxes)
    flat = torch.tensor([box for some in boxes for box in some])
    return Regions(boxes=flat, layout=Layout(counts=counts, grids=(None,) * len(counts)))


def test_a_region_is_the_mean_of_what_it_covers_in_its_own_image():
    wanted = regions([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.5]], [[0.25, 0.0, 0.75, 0.5], [0.5, 0.5, 1.0, 1.0]])
    made = pooled(seen(), wanted)
    assert made.features[:, 0].tolist() == pytest.approx([1.5, 0.5, 4.5, 7.0])
    assert made.levels[0][:, 0].tolist() == pytest.approx([2.5, 1.5, 5.5, 8.0])
    assert made.mass.tolist() == pytest.approx([4.0, 2.0, 1.0, 1.0])
    assert made.image.tolist() == [0, 0, 1, 1] and made.layout == wanted.layout
    assert torch.equal(made.boxes, wanted.boxes)


def test_a_cell_as_a_region_is_itself():
    grid = seen()
    cells = regions(grid.boxes[:4].tolist(), grid.boxes[4:].tolist())
    torch.testing.assert_close(pooled(grid, cells).features, grid.features)


def test_regions_of_other_images_are_refused():
    with pytest.raises(InputError, match="regions of 1 images for 2"):
        pooled(seen(), regions([[0.0, 0.0, 1.0, 1.0]]))
