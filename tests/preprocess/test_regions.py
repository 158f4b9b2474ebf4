"""What stands for a token: true boxes, windows, or files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import Box
from foveal.core.types import Layout
from foveal.preprocess.region_files import RegionFiles
from foveal.preprocess.regions import Proposals, windows
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.transform import ImageTransform


def plan(of):
    return of if isinstance(of, Layout) else Layout.of_grids([(2, 2)] * len(of))


def test_true_boxes_follow_the_image_as_it_is_resized(processor, example):
    wide = Image.new("RGB", (16, 8))
    boxes = [("cat", (0.0, 0.0, 8.0, 8.0)), ("dog", (8.0, 0.0, 16.0, 8.0))]
    one = example("what", "red apple", pictures=[wide], boxes=boxes)
    made = processor(regions="oracle")
    batch = made.training([one], plan=plan)
    whole, *rest = batch.regions.boxes.tolist()
    assert whole == [0, 0, 1, 1] and batch.regions.layout.counts == (3,)
    assert sum(right - left for left, _, right, _ in rest) == pytest.approx(1.0)
    assert (batch.image_slot >= 0).sum() == 3
    none = made.prompt([replace(one, boxes=())], plan=plan)
    assert none.regions.boxes.tolist() == [[0, 0, 1, 1]]


def test_windows_are_the_same_for_each_image(processor, example):
    batch = processor(regions="windows").training([example("what", "red apple")], plan=plan)
    assert torch.equal(batch.regions.boxes, windows()) and len(windows()) == 1 + 4 + 9 + 16
    area = (windows()[:, 2:] - windows()[:, :2]).prod(-1)
    assert area.sum().item() == pytest.approx(4.0)


def test_proposals_are_what_a_finder_finds_after_the_whole_image(processor, example):
    seen = []

    def find(images):
        seen.extend(images)
        return [[Box(label="cat", xyxy=(0.0, 0.0, 4.0, 8.0)), Box(label="dog", xyxy=(3.0, 3.0, 3.0, 5.0))], []]

    pictures = [Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8))]
    made = processor(regions="proposals")
    with pytest.raises(InputError, match=r"no run finds them; name one with processor\.proposals=RUN"):
        made.training([example("what", "red apple")], plan=plan)
    made.find = find
    batch = made.training([example("what", "red apple", pictures=[one]) for one in pictures], plan=plan)
    assert batch.regions.boxes.tolist() == [[0, 0, 1, 1], [0, 0, 0.5, 1], [0, 0, 1, 1]]
    assert batch.regions.layout.counts == (2, 1) and all(one in pictures for one in seen)
    with pytest.raises(InputError, match="at most 0; give a score from 0 to 1"):
        Proposals(run="a", most=0)


def test_the_grid_needs_no_regions(processor, example):
    assert processor().training([example("what", "red apple")], plan=plan).regions is None


def test_files_stand_in_for_pictures(processor, example, tmp_path):
    for number in range(2):
        boxes = [[0, 0, 5, 5]] * (2 + number)
        np.savez(tmp_path / f"{number}.npz", features=np.ones((2 + number, 3)), boxes=boxes, size=[10, 10])
    files = [tmp_path / f"{number}.npz" for number in range(2)]
    made = processor(region_files=RegionFiles(width=3))
    alone = [example("what", "red apple", pictures=[file]) for file in files]
    beside = [replace(example("what", "red apple"), features=(file,)) for file in files]
    for asked in (alone, beside):
        batch = made.training(asked, plan=plan)
        assert batch.visual.layout.counts == (2, 3) and batch.visual.features.shape == (5, 3)
        assert (batch.image_slot >= 0).sum(1).tolist() == [2, 3]
        assert made.prompt(asked, plan=plan).visual.layout.counts == (2, 3)
    with pytest.raises(InputError, match=r"holds region features, and this model reads pictures"):
        processor().training(alone, plan=plan)


@pytest.mark.parametrize("kind", ["grid", "area"])
def test_a_picture_replaced_while_it_is_read_is_told(processor, example, tmp_path, kind):
    tiling = Tiling(kind=kind, tile=8, patch=4, pixels=(64, 64 * 64), depth=1)
    made = processor(image=ImageTransform(size=8, tiling=tiling))
    path = tmp_path / "a.png"
    Image.new("RGB", (16, 8)).save(path)
    one = example("what", "red apple", pictures=[str(path)])

    def seen(images):
        Image.new("RGB", (24, 32)).save(path)
        return made.pixels(images)

    def laid(cuts):
        return Layout(counts=(2,), grids=(None,))

    assert made.prompt([one], plan=laid).visual is not None
    with pytest.raises(InputError, match=r"a\.png was laid out with 8 x 16 pixels .* and opened with 32 x 24; leave"):
        made.prompt([one], plan=laid, visual=seen)
