"""Files of regions: what is read, clipped, dropped and refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.preprocess.region_files import Reader, RegionFiles, size

BOXES = [[0, 0, 50, 20], [10, 5, 100, 40], [90, 30, 120, 60]]  # the last reaches over the edge


def made(folder, boxes=BOXES, width=6, name="a.npz", **more):
    chance = np.random.default_rng(0)
    data = {
        "features": chance.normal(size=(len(boxes), width)).astype(np.float32),
        "boxes": np.array(boxes, np.float32),
        "size": np.array([100, 40]),
        **more,
    }
    path = folder / name
    np.savez(path, **{key: value for key, value in data.items() if value is not None})
    return path, data


def test_boxes_become_fractions_within_the_image(tmp_path):
    path, data = made(tmp_path)
    seen = Reader(RegionFiles(width=6))([path, path])
    assert seen.layout.counts == (3, 3) and seen.image.tolist() == [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(seen.features[:3], torch.from_numpy(data["features"]))
    expected = torch.tensor([[0, 0, 0.5, 0.5], [0.1, 0.125, 1, 1], [0.9, 0.75, 1, 1]])
    torch.testing.assert_close(seen.boxes[3:], expected)
    assert seen.classes is None and size(str(path)) == (100, 40)


def test_safetensors_and_published_names_are_read(tmp_path):
    path, data = made(tmp_path)
    named = {"x": "features", "bbox": "boxes"}
    other = {theirs: torch.from_numpy(data[mine]) for theirs, mine in named.items()}
    other |= {"image_w": torch.tensor(100), "image_h": torch.tensor(40), "cls_prob": torch.full((3, 4), 0.25)}
    save_file(other, tmp_path / "b.safetensors")
    ours, theirs = (Reader(RegionFiles())([file]) for file in (path, tmp_path / "b.safetensors"))
    assert torch.equal(ours.features, theirs.features) and torch.equal(ours.boxes, theirs.boxes)
    assert theirs.classes.tolist() == [[0.25] * 4] * 3


def test_empty_and_inverted_boxes_are_dropped_and_counted(tmp_path):
    path, data = made(tmp_path, [[5, 5, 5, 9], [50, 20, 10, 10], [200, 50, 300, 60], [0, 0, 10, 10]])
    reader = Reader(RegionFiles())
    with pytest.warns(UserWarning, match="3 regions of 1 files are left out"):
        assert reader.layout([path]).counts == (1,)
    assert torch.equal(reader([path]).features, torch.from_numpy(data["features"][3:]))
    assert reader.dropped == 3  # a file counts once


@pytest.mark.parametrize(
    ("changed", "settings", "said"),
    [
        ({"width": 5}, {"width": 6}, "5 numbers to a region, but the model reads 6"),
        ({"boxes": BOXES, "features": np.zeros((2, 6))}, {}, r"2 features but boxes \[3, 4\]"),
        ({"size": None}, {}, "lacks 'size'"),
        ({"size": np.array([0, 40])}, {}, "'size' is"),
        ({"features": None}, {}, "lacks 'features' and holds boxes, size"),
        ({"features": np.full((3, 6), np.nan)}, {}, "'features' holds 18 numbers that are not finite"),
        ({"features": np.full((3, 6), 1e60)}, {}, "'features' holds 18 numbers that are not finite in float32"),
        ({"boxes": [[0.1, 0.1, 0.9, 1.0]]}, {}, "no box reaches beyond 1 in an image of 100 x 40 pixels"),
        ({"features": np.zeros(3)}, {}, r"'features' is float64 \[3\]"),
        ({"boxes": [[0, 0, np.inf, 5]]}, {}, "'boxes' holds 1 numbers that are not finite"),
        ({"boxes": [[0, 0, 0, 0]]}, {}, "none of 1 regions has a box with any area"),
        ({}, {"most": 2}, "3 regions for at most 2"),
    ],
)
def test_what_is_wrong_is_refused_with_its_numbers(tmp_path, changed, settings, said):
    boxes = changed.get("boxes", BOXES)
    path, _ = made(tmp_path, **{**changed, "boxes": boxes})
    with pytest.raises(InputError, match=said):
        Reader(RegionFiles(**settings))([path])


def test_of_too_many_the_first_are_taken_where_cut(tmp_path):
    path, data = made(tmp_path)
    seen = Reader(RegionFiles(most=2, cut=True))([path])
    assert torch.equal(seen.features, torch.from_numpy(data["features"][:2]))


def test_a_picture_a_missing_and_a_broken_file_are_told(tmp_path):
    (tmp_path / "c.npz").write_bytes(b"nothing")
    reader = Reader(RegionFiles())
    for given, said in (("a.png", "is no file of regions"), ("b.npz", "cannot read"), ("c.npz", "cannot read")):
        with pytest.raises(InputError, match=said):
            reader.layout([tmp_path / given])
    with pytest.raises(InputError, match="an opened picture is no file"):
        reader.layout([object()])
    one, _ = made(tmp_path)
    two, _ = made(tmp_path, width=5, name="d.npz")
    with pytest.raises(InputError, match="5 and 6 numbers in one batch"):
        reader([one, two])
