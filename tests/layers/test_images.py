import torch

from foveal.core.types import Layout, VisualTokens
from foveal.layers.images import by_image, shares


def test_images_of_one_size_need_no_mask():
    features = torch.arange(12.0).view(6, 2)
    rows, mask = by_image(features, Layout.of_grids([(1, 3), (3, 1)]))
    assert mask is None and torch.equal(rows, features.view(2, 3, 2))


def test_ragged_images_are_masked_where_they_end():
    features = torch.arange(10.0).view(5, 2)
    rows, mask = by_image(features, Layout(counts=(1, 0, 4), grids=(None, None, None)))
    assert mask[:, 0, 0].sum(1).tolist() == [1, 0, 4]
    assert torch.equal(rows[mask[:, 0, 0]], features)


def test_no_images_at_all():
    rows, _ = by_image(torch.zeros(0, 3), Layout.of_grids([]))
    assert rows.shape == (0, 0, 3)


def test_tokens_of_the_whole_image_share_what_it_weighs():
    layout = Layout.of_grids([(2, 3), (1, 1)])
    assert shares(VisualTokens.on_layout(torch.zeros(7, 1), layout), 2).tolist() == [3, 3, 0.5, 0.5]
