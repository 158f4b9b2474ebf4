from dataclasses import replace

import torch

from foveal.core.types import Layout, VisualTokens
from foveal.layers.shown import Shown


def tokens():
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    return VisualTokens.on_layout(features, Layout.of_grids([(2, 2), (1, 2)]))


def test_each_image_is_a_row_and_what_is_not_there_is_told():
    visual = tokens()
    rows, there = Shown(width=4)(visual)
    assert torch.equal(rows[0], visual.features[:4]) and torch.equal(rows[1, :2], visual.features[4:])
    assert there[:, 0, 0].tolist() == [[True] * 4, [True, True, False, False]]


def test_it_norms_and_tells_where_a_token_lies():
    torch.manual_seed(0)
    visual = tokens()
    rows, _ = Shown(width=4, norm=True)(visual)
    torch.testing.assert_close(rows[0], torch.nn.functional.layer_norm(visual.features[:4], (4,)))
    placed = Shown(width=4, places=2)
    here, _ = placed(visual)
    there, _ = placed(replace(visual, boxes=visual.boxes / 2))
    assert not torch.allclose(here[0], there[0])
    torch.testing.assert_close(here[0], visual.features[:4] + placed.place(visual)[:4])
