"""Tiles put together: as the reference packs them, exactly as planned, and told where they lie."""

from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.types import Cut, Layout, VisualTokens
from foveal.layers.mosaic import Joined, Mosaic, unpadded

NEXT = Mosaic(order="raster", newline=True)


def tokens(cuts, side=4, width=3):
    """Tokens that say by their number which they are."""
    layout = Layout.of_grids([(side, side)] * sum(cut.tiles for cut in cuts))
    features = torch.arange(layout.total).float()[:, None].expand(-1, width).contiguous()
    return VisualTokens.on_layout(features, layout)


def joined(cuts, mosaic, *, side=4, fill=-1.0):
    made = Joined(width=3, settings=mosaic)
    with torch.no_grad():
        for weight in made.parameters():
            weight.fill_(fill)
        seen = tokens(cuts, side)
        output = made(seen, cuts)
    assert output.layout == made.plan(seen.layout, cuts)
    assert len(output.boxes) == len(output.mass) == output.layout.total
    assert output.boxes.min() >= 0 and output.boxes.max() <= 1
    return output


def test_packs_as_llava_next_does_at_any_size(known_answers):
    known = known_answers("llava_next_anyres_index").outputs
    for height, width, _, _, rows, columns, tiles, length in known["table"].tolist():
        cut = Cut(tile=(336, 336), size=(height, width), grid=(rows, columns), padded=True)
        output = joined([cut], NEXT, side=24)
        assert (cut.tiles, output.layout.total) == (tiles, length)
        assert torch.equal(output.features[:, 0].int(), known[f"{height}x{width}"]), (height, width)


def test_tiles_stand_one_after_the_other_with_what_is_put_between():
    cuts = [Cut(tile=(8, 8), size=(9, 30), grid=(2, 3), view="last"), Cut(tile=(8, 8), size=(5, 5))]
    output = joined(cuts, Mosaic(newline=True, comma=True), side=1)
    row = [0, -1, 1, -1, 2, -1]
    assert output.features[:, 0].tolist() == [*row, *[one + 3 if one >= 0 else one for one in row], 6, 7, -1]
    assert output.image.tolist() == [0] * 13 + [1] * 2
    assert output.mass.tolist() == [1, 0] * 6 + [1, 1, 0]
    third = torch.tensor([1 / 3, 0.5, 2 / 3, 1.0])
    torch.testing.assert_close(output.boxes[8], third)
    assert output.boxes[12].tolist() == output.boxes[13].tolist() == [0, 0, 1, 1]
    assert joined(cuts, Mosaic(), side=2).layout == Layout(counts=(28, 4), grids=(None, (2, 2)))


def test_a_raster_is_the_image_as_if_it_had_been_whole():
    cut = Cut(tile=(8, 8), size=(16, 16), grid=(2, 2), view="none")
    output = joined([cut], Mosaic(order="raster"), side=2)
    assert output.features[:, 0].tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    whole = VisualTokens.on_layout(torch.zeros(16, 1), Layout.of_grids([(4, 4)]))
    torch.testing.assert_close(output.boxes, whole.boxes)


def test_what_is_shrunk_keeps_the_whole_mass_of_what_it_stands_for():
    cut = Cut(tile=(8, 8), size=(32, 32), grid=(4, 4), view="none")
    output = joined([cut], Mosaic(order="raster", most=4))
    assert output.layout.counts == (64,)
    torch.testing.assert_close(output.mass.sum(), torch.tensor(256.0))
    exact = Cut(tile=(8, 8), size=(16, 32), grid=(2, 4), view="none")
    assert joined([exact], Mosaic(order="raster", most=7)).layout.counts == (128,)  # 8 tiles are less than 1.1 times 7


def test_frames_of_a_video_are_shrunk_and_numbered():
    cut = Cut(tile=(8, 8), size=(8, 8), frames=2)
    output = joined([cut, Cut(tile=(8, 8), size=(8, 8))], Mosaic(order="raster", newline=True, film=2), side=3)
    assert output.layout.counts == (9, 10)
    assert output.frame.tolist() == [0] * 4 + [1] * 5 + [0] * 10
    torch.testing.assert_close(output.mass[:9].sum(), torch.tensor(18.0))
    assert joined([cut], Mosaic(), side=3).layout.counts == (18,)


def test_positions_tell_tiles_apart_and_learn():
    cut = Cut(tile=(8, 8), size=(16, 24), grid=(2, 3))
    made = Joined(width=3, settings=Mosaic(positions=(2, 3)))
    same = VisualTokens.on_layout(torch.zeros(7, 3), Layout.of_grids([(1, 1)] * 7))
    output = made(same, [cut])
    assert len({tuple(one) for one in output.features.tolist()}) == 7
    output.features.square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in made.parameters())
    with pytest.raises(InputError, match=r"2 x 4 tiles \(rows x columns\) for positions of up to 2 x 3; raise"):
        made.plan(Layout.of_grids([(1, 1)] * 9), [Cut(tile=(8, 8), size=(16, 32), grid=(2, 4))])


@pytest.mark.parametrize(("size", "field", "kept"), [((1, 1000), (24, 72), (0, 72)), ((1000, 1), (72, 24), (72, 0))])
def test_an_image_thinner_than_a_patch_fills_none_of_its_field(size, field, kept):
    rows, columns = unpadded(size, field)
    assert (rows.stop - rows.start, columns.stop - columns.start) == kept


def test_refuses_what_cannot_be_put_together():
    cut = Cut(tile=(8, 8), size=(16, 16), grid=(2, 2))
    with pytest.raises(InputError, match="lie on no grid to be put into a raster"):
        Joined(width=3, settings=NEXT).plan(Layout(counts=(4,) * 5, grids=(None,) * 5), [cut])
    with pytest.raises(InputError, match="2 kinds of tiles in an image of 5"):
        Joined(width=3).plan(Layout.of_grids([(2, 2), (1, 1), (1, 1), (1, 1), (1, 1)]), [cut])
    with pytest.raises(InputError, match="a raster has rows of tokens and no tiles for a comma"):
        Joined(width=3, settings=Mosaic(order="raster", comma=True))
    with pytest.raises(InputError, match="film 0 and most None"):
        Joined(width=3, settings=Mosaic(film=0))
    thin = Cut(tile=(8, 8), size=(1, 64), grid=(1, 8), view="none")
    with pytest.raises(InputError, match="too long and thin: shrunk to 1 tiles it would have 0 x 22 tokens"):
        Joined(width=3, settings=Mosaic(order="raster", most=1)).plan(Layout.of_grids([(1, 8)] * 8), [thin])


def test_what_tokens_show_is_kept_where_they_stand_as_they_come():
    cuts = [Cut(tile=(8, 8), size=(9, 30), grid=(2, 3), view="last"), Cut(tile=(8, 8), size=(5, 5))]
    seen = replace(tokens(cuts, side=2), marks=torch.randn(2, 3))
    seen = replace(seen, classes=seen.features[:, :2])
    output = Joined(width=3)(seen, cuts)
    assert torch.equal(output.classes[:, 0], output.features[:, 0]) and torch.equal(output.marks, seen.marks)
    for settings in (Mosaic(comma=True), Mosaic(newline=True), Mosaic(order="raster")):
        output = Joined(width=3, settings=settings)(seen, cuts)
        assert output.classes is None and torch.equal(output.marks, seen.marks)


@pytest.mark.parametrize(
    "mosaic",
    [
        *(Mosaic(), Mosaic(newline=True, comma=True, positions=(2, 3))),
        *(NEXT, Mosaic(order="raster", newline=True, most=2, film=2)),
    ],
)
def test_levels_go_where_features_go_and_what_is_learned_adds_nothing_to_them(mosaic):
    cuts = [
        Cut(tile=(8, 8), size=(9, 30), grid=(2, 3), view="last", padded=True),
        Cut(tile=(8, 8), size=(5, 5)),
        Cut(tile=(8, 8), size=(8, 8), frames=2),
    ]
    given = tokens(cuts)
    deep = replace(given, levels=(given.features[:, :2] + 1, -given.features))
    plain, made = (Joined(width=3, settings=mosaic)(one, cuts) for one in (given, deep))
    assert (made.layout, plain.levels) == (plain.layout, ())
    assert torch.equal(made.boxes, plain.boxes) and torch.equal(made.mass, plain.mass)
    bare = Joined(width=3, settings=mosaic)
    with torch.no_grad():
        for weight in bare.parameters():
            weight.zero_()
    moved = bare(deep, cuts)
    there = (moved.mass > 0).float()[:, None]
    torch.testing.assert_close(moved.levels[0], (moved.features[:, :2] + 1) * there)
    torch.testing.assert_close(moved.levels[1], -moved.features)
    assert all(map(torch.equal, made.levels, moved.levels))
    none = Joined(width=3, settings=mosaic)(replace(tokens([]), levels=(torch.zeros(0, 2),)), [])
    assert none.levels[0].shape == (0, 2)
