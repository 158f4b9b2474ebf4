"""Tiles told from an image's size alone: as the references cut, and exactly what is made."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.types import Layout, Pixels, VisualTokens
from foveal.layers.mosaic import Joined, Mosaic
from foveal.preprocess.tiling import Tiling, covering, patched, slices
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.video import Frames, Video, pixels, planned

SMALL = {  # a tiling of each kind, whose tiles are small
    "anyres": Tiling(tile=28, pinpoints=((28, 56), (56, 28), (56, 56), (84, 28), (28, 84))),
    "grid": Tiling(kind="grid", tile=28, most=3),
    "uhd": Tiling(kind="uhd", tile=28, patch=7, most=6),
    "split": Tiling(kind="split", tile=28, longest=112, view="last"),
    "fitted": Tiling(kind="fitted", tile=28, most=4, view="none"),
    "native": Tiling(kind="native", tile=56, shortest=14, longest=56),
    "covering": Tiling(kind="covering", tile=28, most=6),
    "covering_turned": Tiling(kind="covering_turned", tile=28, most=6),
}
MOSAICS = {"anyres": Mosaic(order="raster", newline=True, most=4), "uhd": Mosaic(newline=True, comma=True)}


def test_cuts_as_llava_next_does(known_answers):
    for height, width, *best, rows, columns, tiles, _ in (
        known_answers("llava_next_anyres_index").outputs["table"].tolist()
    ):
        sliced = Tiling()((height, width))
        assert sliced.canvas == tuple(best) and sliced.cut.grid == (rows, columns) and sliced.cut.tiles == tiles


@pytest.mark.parametrize(("side", "count"), [(1, 576), (2, 2880), (3, 5760), (4, 9792)])
def test_a_grid_of_so_many_tiles_and_the_whole_image(side, count):
    cut = Tiling(kind="grid", least=side, most=side)((777, 333)).cut
    layout = Joined(width=1).plan(Layout.of_grids([(24, 24)] * cut.tiles), [cut])
    assert layout.total == count


SIDES = st.one_of(st.integers(1, 40), st.integers(1, 7900))


@settings(max_examples=1000)
@given(height=SIDES, width=SIDES, kind=st.sampled_from(sorted(SMALL)))
def test_the_number_of_tokens_is_known_and_is_what_comes(height, width, kind):
    height, width = (height, min(width, 40)) if height > 40 < width else (height, width)  # long or small, not both
    tiling, patch = SMALL[kind], 7
    sliced = tiling((height, width))
    cut, side = sliced.cut, (sliced.cut.tile[0] // patch, sliced.cut.tile[1] // patch)
    look, join = ImageTransform(size=tiling.tile, tiling=tiling), Joined(width=1, settings=MOSAICS.get(kind))
    tiles = Layout.of_grids([side] * cut.tiles)
    try:
        layout = join.plan(tiles, [cut])
    except InputError as refused:
        assert "too long and thin" in str(refused) and kind == "anyres"
        return
    image = Image.new("RGB", (width, height))
    assert look.planned(image) == cut
    made = look.pixels([image])
    assert made.cuts == (cut,) and made.values.shape == (cut.tiles, 3, *cut.tile)
    seen = join(VisualTokens.on_layout(torch.zeros(tiles.total, 1), tiles), [cut])
    assert seen.layout == layout and len(seen.features) == layout.total


@settings(max_examples=300)
@given(height=SIDES, width=SIDES, tile=st.sampled_from([28, 384, 448]), most=st.integers(1, 12))
def test_covers_as_ovis_2_does(height, width, tile, most):
    """Transformers finds the same rows and columns, and then takes the one for the other."""
    from transformers.models.ovis2 import image_processing_pil_ovis2 as theirs

    grid = covering((height, width), tile=tile, most=most)
    assert grid == theirs.get_min_tile_covering_grid((height, width), tile, most)
    shown = Tiling(kind="covering", tile=tile, most=most)((height, width)).cut
    turned = Tiling(kind="covering_turned", tile=tile, most=most)((height, width)).cut
    assert (shown.grid, turned.grid) == ((grid, grid[::-1]) if grid != (1, 1) else ((0, 0), (0, 0)))


def test_keeps_the_shape_as_ovis_25_does(known_answers):
    tiling = Tiling(kind="area", tile=32, patch=16, pixels=(448 * 448, 1344 * 1792), depth=1, thin="brought")
    for height, width, *wanted in known_answers("ovis25_visual_tokenizer").outputs["smart_resize_f32"].tolist():
        assert tiling((height, width)).cut.tile == tuple(wanted), (height, width)


def test_few_tiles_cover_what_has_their_shape():
    assert covering((448, 448), tile=448, most=9) == (1, 1)
    assert covering((400, 1200), tile=448, most=9) == (1, 3)
    assert covering((900, 900), tile=448, most=9) == (2, 2)
    assert covering((5000, 5000), tile=448, most=9) == (3, 3)  # none covers enough: the most of all


def test_slices_have_the_shape_that_is_nearest_to_the_images():
    """LLaVA-UHD's example: 672 x 1088 pixels in 6 slices."""
    assert slices((1088, 672), tile=336, most=6) == (3, 2)
    assert slices((336, 336), tile=336, most=6) == (1, 1)
    assert slices((10, 2000), tile=336, most=6) == (1, 2)
    assert slices((3000, 9000), tile=336, most=6) in {(1, 5), (2, 3)}
    assert patched((1088, 672), tile=336, patch=14) == (420, 252)
    assert patched((1, 20000), tile=336, patch=14) == (14, 8064)


def test_slices_of_all_images_are_of_their_own_shape_and_filled_up():
    look = ImageTransform(size=28, tiling=SMALL["uhd"])
    wide, high = (Image.effect_noise(size, 90).convert("RGB") for size in ((60, 20), (20, 60)))
    both = look.pixels([wide, high])
    assert both.sizes is not None and len(set(both.sizes)) == 2
    alone = look.pixels([high])
    rows, columns = alone.cuts[0].tile
    mine = both.values[both.image == 1]
    assert torch.equal(mine[:, :, :rows, :columns], alone.values) and not mine[:, :, rows:].any()


def test_a_view_may_stand_anywhere():
    image = Image.effect_noise((50, 30), 90).convert("RGB")
    made = {}
    for view in ("first", "last", "none"):
        tiling = Tiling(kind="grid", tile=28, view=view)
        made[view] = ImageTransform(size=28, tiling=tiling).pixels([image])
    assert made["first"].tile.tolist() == [[-1, -1], *made["none"].tile.tolist()]
    assert torch.equal(made["first"].values[1:], made["none"].values)
    assert torch.equal(made["last"].values, made["first"].values.roll(-1, 0))


def test_a_video_has_a_tile_a_frame_beside_images_that_are_cut():
    frames = [Image.new("RGB", (30, 20), (10 * i, 0, 0)) for i in range(5)]
    video = Video(frames=tuple(frames), seconds=tuple(map(float, range(5))))
    images, look = [frames[0], video], ImageTransform(size=28, tiling=SMALL["anyres"])
    made = pixels(images, look, Frames(count=3))
    assert made.cuts == tuple(planned(images, look, Frames(count=3)))
    assert made.cuts[1].frames == 3 and len(made.values) == made.cuts[0].tiles + 3
    assert isinstance(made, Pixels) and made.image.tolist() == [0] * made.cuts[0].tiles + [1] * 3


@pytest.mark.parametrize("kind", sorted(SMALL))
@pytest.mark.parametrize("size", [(1, 1), (1, 20000), (20000, 1), (40, 7900), (3, 600)])
def test_images_of_any_shape_are_cut(kind, size):
    made = ImageTransform(size=SMALL[kind].tile, tiling=SMALL[kind]).pixels([np.zeros((*size, 3), np.uint8)])
    assert torch.isfinite(made.values).all() and len(made.values) == SMALL[kind](size).cut.tiles


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"pinpoints": ((336, 500),)}, "a pinpoint of 336 x 500 for tiles of 336"),
        ({"pinpoints": ()}, "no pinpoints"),
        ({"kind": "grid", "least": 5}, "a tiling of nothing"),
        ({"kind": "native", "shortest": 400, "longest": 300}, "edges of 400 to 300"),
        ({"kind": "uhd", "tile": 8}, "tiles of 8 pixels with patches of 14"),
    ],
)
def test_settings_that_cut_nothing_are_refused(given, told):
    with pytest.raises(InputError, match=told):
        Tiling(**given)


def test_a_transform_and_its_tiling_agree_on_the_size():
    with pytest.raises(InputError, match="tiles of 336 pixels in an image size of 224; give both one size"):
        ImageTransform(size=224, tiling=Tiling())
    with pytest.raises(InputError, match="give it a tiling"):
        ImageTransform().cut(Image.new("RGB", (4, 4)))


def test_a_video_has_no_place_where_images_fit_into_few_tiles():
    with pytest.raises(InputError, match="a video, but this model reads none; give pictures"):
        Tiling(kind="fitted", view="none").frames((9, 9), 6)


@pytest.mark.parametrize("kind", sorted(SMALL))
def test_a_smaller_tiling_makes_no_more_of_an_image(kind):
    tiling, size = SMALL[kind], (90, 110)
    counts = [one(size).cut.tiles * np.prod(one(size).cut.tile) for one in (tiling, *tiling.smaller())]
    assert len(counts) > 1 and counts == sorted(counts, reverse=True)
