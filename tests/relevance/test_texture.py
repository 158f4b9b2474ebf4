import pytest
import torch

from foveal.core.errors import InputError
from foveal.relevance.texture import CHANNELS, colours, texture


def channel(made, name):
    return made[..., CHANNELS.index(name)]


def test_thirteen_channels_of_which_none_repeats_another():
    made = texture(torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0)), (12, 12))
    assert made.shape == (1, 144, 13) and len(CHANNELS) == 13
    alike = torch.corrcoef(made[0].T).abs() - torch.eye(13)
    assert alike.max() < 0.999


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((1, 1, 1), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
    ],
)
def test_colours_are_those_of_the_standard(rgb, lab):
    made = 100 * colours(torch.tensor(rgb, dtype=torch.float32).view(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(made, torch.tensor(lab, dtype=torch.float32), atol=0.02, rtol=0)


def test_edges_and_contrast_see_a_step_and_places_count_from_the_middle():
    pixels = torch.zeros(1, 3, 32, 32)
    pixels[..., 16:] = 1
    made = texture(pixels, (4, 4))[0].view(4, 4, 13)
    assert channel(made, "edge_x")[:, 1:3].min() > 0.05 and channel(made, "edge_x")[:, 0].abs().max() == 0
    assert channel(made, "edge_y").abs().max() == 0
    assert channel(made, "contrast").abs().max() == 0  # each patch is one colour
    assert channel(made, "x")[0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert channel(made, "eccentricity")[1, 1] == pytest.approx(0.125**0.5)
    assert channel(texture(pixels, (1, 1)), "contrast").item() == pytest.approx(0.5)


def test_a_picture_is_the_same_alone_as_beside_others():
    pixels = torch.rand(3, 3, 24, 32, generator=torch.Generator().manual_seed(1))
    together = texture(pixels, (3, 4))
    torch.testing.assert_close(together[1:2], texture(pixels[1:2], (3, 4)))


def test_pixels_out_of_range_and_grids_too_fine_are_refused():
    with pytest.raises(InputError, match="pixels from -1 to 0; give RGB from 0 to 1"):
        texture(torch.tensor([-1.0, 0.0]).repeat(1, 3, 4, 2), (1, 1))
    with pytest.raises(InputError, match="a grid of 5 x 1 on a picture of 4 x 4 pixels"):
        texture(torch.rand(1, 3, 4, 4), (5, 1))


def test_autocast_looks_the_same():
    pixels = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    plain = texture(pixels, (3, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(texture(pixels, (3, 3)), plain)
