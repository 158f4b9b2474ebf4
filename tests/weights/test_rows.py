"""The row of an image, told by its places."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.weights.rows import rows_of

MARKED = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 0, 1, 1]]).bool()


@pytest.mark.parametrize(("counts", "rows"), [((3, 2, 2), [0, 2, 2]), ((1, 2, 4), [0, 0, 2])])
def test_each_image_stands_in_the_row_of_its_places(counts, rows):
    assert rows_of(MARKED, counts, "image").tolist() == rows


def test_no_image_stands_in_no_row():
    assert rows_of(torch.zeros(2, 3, dtype=torch.bool), (), "video").tolist() == []


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ((3, 2), "7 video tokens in input_ids but 2 videos bring 5; give both as"),
        ((3, 2, 3), "7 video tokens in input_ids but 3 videos bring 8"),
        ((2, 3, 2), "video 1 brings 3 tokens, which begin in row 0 of input_ids and end in row 2; give both as"),
    ],
)
def test_other_numbers_and_images_in_two_rows_are_refused(counts, told):
    with pytest.raises(InputError, match=told):
        rows_of(MARKED, counts, "video")
