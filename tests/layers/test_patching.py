import pytest
import torch

from foveal.layers.patching import patched


@pytest.mark.parametrize(("frames", "times"), [(1, 3), (2, 2), (3, 1)])
def test_every_patch_holds_its_part_of_its_frames(frames, times):
    values = torch.arange(3.0 * 2 * 4 * 6).view(3, 2, 4, 6)
    patches, grid = patched(values, patch=2, frames=frames)
    assert grid == (times, 2, 3) and patches.shape == (times * 6, 2 * frames * 4)
    shown = [min(number, 2) for number in range(times * frames)]  # the last frame stands for those that lack
    for number, one in enumerate(patches.view(times, 2, 3, 2, frames, 2, 2).flatten(0, 2)):
        time, row, column = number // 6, number // 3 % 2, number % 3
        own = values[shown[time * frames : (time + 1) * frames], :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(one, own.transpose(0, 1))


def test_blocks_stand_together():
    values = torch.arange(4.0 * 4).view(1, 1, 4, 4)
    patches, grid = patched(values, patch=1, frames=1, block=2)
    assert grid == (1, 4, 4)
    assert patches.flatten().tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
