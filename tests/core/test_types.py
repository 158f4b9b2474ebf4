import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.types import Batch, Layout, Pixels, VisualTokens

GRIDS = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)


@given(GRIDS)
def test_boxes_tile_each_image(grids):
    layout = Layout.of_grids(grids)
    visual = VisualTokens.on_layout(torch.zeros(layout.total, 2), layout)
    area = (visual.boxes[:, 2] - visual.boxes[:, 0]) * (visual.boxes[:, 3] - visual.boxes[:, 1])
    for i, (start, end) in enumerate(zip(layout.offsets[:-1], layout.offsets[1:], strict=True)):
        assert (visual.image[start:end] == i).all()
        assert torch.isclose(area[start:end].sum(), torch.tensor(1.0))


def test_moving_a_batch_keeps_integers_and_layout():
    layout = Layout.of_grids([(1, 2)])
    ids = torch.zeros(1, 3, dtype=torch.long)
    batch = Batch(
        input_ids=ids,
        valid=ids == 0,
        prompt=ids == 0,
        image_slot=ids,
        visual=VisualTokens.on_layout(torch.zeros(2, 4), layout),
        owner=torch.zeros(1, dtype=torch.long),
    )
    moved = batch.to(torch.float64)
    assert moved.input_ids.dtype == torch.long and moved.valid.dtype == torch.bool
    assert moved.visual.features.dtype == torch.float64 and moved.visual.layout == layout


def test_whole_pictures_are_one_tile_each():
    pixels = Pixels.whole(torch.zeros(3, 3, 4, 4))
    assert pixels.image.tolist() == [0, 1, 2] and (pixels.tile == -1).all()
