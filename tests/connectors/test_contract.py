"""What every connector promises: it returns exactly what it planned, and every parameter learns."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.lookup import build, names, spec
from foveal.core.types import Layout, VisualTokens

FOLDING = ("average_pool", "patch_merger", "pixel_shuffle", "window_concat")  # 2 x 2 cells to one token


@pytest.mark.parametrize("name", names("connectors"))
@pytest.mark.parametrize("grids", [[(4, 4)], [(4, 4), (4, 4)], [(2, 6), (4, 4), (2, 2)]])
def test_call_returns_the_plan_and_gradients_reach_everything(name, grids):
    torch.manual_seed(0)
    connector = build("connectors", spec("connectors", name), width_in=8, width_out=8)
    layout = Layout.of_grids(grids)
    visual = VisualTokens.on_layout(torch.randn(layout.total, 8), layout)
    mapped = connector(visual)
    assert mapped.layout == connector.plan(layout)
    assert mapped.features.shape == (connector.plan(layout).total, 8)
    if list(connector.parameters()):
        mapped.features.square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in connector.parameters())


@pytest.mark.parametrize("name", names("connectors"))
def test_an_image_alone_equals_itself_in_a_batch(name):
    torch.manual_seed(0)
    connector = build("connectors", spec("connectors", name), width_in=8, width_out=8)
    features = torch.randn(32, 8)
    both = connector(VisualTokens.on_layout(features, Layout.of_grids([(4, 4), (4, 4)])))
    alone = connector(VisualTokens.on_layout(features[16:], Layout.of_grids([(4, 4)])))
    torch.testing.assert_close(both.features[both.layout.offsets[1] :], alone.features, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", names("connectors"))
def test_a_video_brings_what_is_planned_and_its_frames_are_seen_as_images_are(name):
    torch.manual_seed(0)
    connector = build("connectors", spec("connectors", name), width_in=8, width_out=8)
    tiles = Layout.of_grids([(2, 6), (4, 4), (4, 4), (4, 4)])
    seen = VisualTokens.on_layout(torch.randn(tiles.total, 8), tiles)
    video = seen.filmed((1, 3))
    mapped = connector(video)
    assert mapped.layout == connector.plan(video.layout) and len(mapped.layout.counts) == 2
    assert mapped.features.shape == (mapped.layout.total, 8)
    if mapped.layout.frames is not None:  # frames are not mixed
        alone = connector(seen)
        torch.testing.assert_close(mapped.features, alone.features, atol=1e-6, rtol=1e-5)
        assert torch.equal(mapped.frame, (alone.image - 1).clamp(min=0))


@pytest.mark.parametrize("name", names("connectors"))
def test_a_token_alone_is_mapped_or_refused_with_what_it_lacks(name):
    connector = build("connectors", spec("connectors", name), width_in=8, width_out=8)
    layout = Layout.of_grids([(1, 1)])
    visual = VisualTokens.on_layout(torch.randn(1, 8), layout)
    if name not in FOLDING:
        assert connector(visual).layout == connector.plan(layout)
        return
    for refused in (lambda: connector.plan(layout), lambda: connector(visual)):
        with pytest.raises(InputError, match=f"{name} folds 2 x 2 cells, but the grid of image 0 is 1 x 1"):
            refused()


@pytest.mark.parametrize("name", names("connectors"))
def test_unknown_setting_is_refused_with_a_hint(name):
    with pytest.raises(InputError, match="unknown key"):
        spec("connectors", {"name": name, "dephts": 2})
