"""Images and videos of any shape, packed: each is what it is alone, whatever stands beside it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.core.types import Layout, Patches, Pixels
from foveal.vision.qwen_vit import QwenVit, _spots, _stretched, _unblocked

SIDES = st.integers(1, 5)


def tower(**more):
    torch.manual_seed(0)
    settings = {"width": 16, "depth": 2, "heads": 2, "inner": 16, "patch": 4, "positions": 3, "levels": (2, 1)}
    return QwenVit(**{**settings, **more}).eval()


def patches(*grids, block=1):
    count = sum(times * rows * columns for times, rows, columns in grids)
    values = torch.randn(count, 96, generator=torch.Generator().manual_seed(count))
    return Patches(values=values, grids=tuple(grids), block=block)


@given(st.lists(st.tuples(st.integers(1, 3), SIDES, SIDES), min_size=1, max_size=3))
def test_an_image_is_alone_what_it_is_among_others(grids):
    model, given_ = tower(), patches(*grids)
    with torch.no_grad():
        seen, begin = model(given_), 0
        for image, (times, rows, columns) in enumerate(grids):
            own = slice(begin, begin + times * rows * columns)
            begin = own.stop
            alone = model(Patches(values=given_.values[own], grids=(grids[image],)))
            torch.testing.assert_close(seen.features[own], alone.features, atol=1e-5, rtol=1e-4)
            for both, one in zip(seen.levels, alone.levels, strict=True):
                torch.testing.assert_close(both[own], one, atol=1e-5, rtol=1e-4)
            assert (seen.image[own] == image).all()
    assert torch.equal(seen.levels[0], seen.features) and not torch.equal(seen.levels[1], seen.features)


def test_the_times_of_a_video_do_not_see_each_other():
    model, film = tower(), patches((3, 2, 3))
    changed = film.values.clone()
    changed[6:12] += 1
    with torch.no_grad():
        first, second = model(film), model(Patches(values=changed, grids=film.grids))
    same = (first.features == second.features).all(-1)
    assert (
        same.tolist() == [True] * 6 + [False] * 6 + [True] * 6 and first.frame.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    )


@pytest.mark.parametrize("grids", [[(1, 4, 6)], [(1, 2, 2), (2, 4, 2)]])
def test_blocks_stand_row_by_row_in_the_end(grids):
    model, plain = tower(), patches(*grids)
    order, begin = [], 0
    for times, rows, columns in grids:
        for _ in range(times):
            cells = begin + torch.arange(rows * columns).view(rows // 2, 2, columns // 2, 2)
            order.append(cells.transpose(1, 2).flatten())
            begin += rows * columns
    blocked = Patches(values=plain.values[torch.cat(order)], grids=plain.grids, block=2)
    with torch.no_grad():
        seen, expected = model(blocked), model(plain)
    torch.testing.assert_close(seen.features, expected.features, atol=1e-6, rtol=1e-5)
    with pytest.raises(InputError, match=r"blocks of 2 x 2 on a grid of 3 x 2"):
        model(patches((1, 3, 2), block=2))


def test_pictures_and_frames_are_cut_into_patches():
    model = tower()
    values = torch.arange(4.0 * 3 * 8 * 12).view(4, 3, 8, 12)
    pixels = Pixels.whole(values, frames=(1, 3))
    cut = model.cut(pixels)
    assert cut.grids == ((1, 2, 3), (2, 2, 3)) and cut.layout == model.plan([(8, 12)] * 4, (1, 3))
    second = cut.values[1].view(3, 2, 4, 4)  # an image is both of its frames
    assert torch.equal(second[:, 0], values[0, :, :4, 4:8]) and torch.equal(second[:, 1], second[:, 0])
    film = cut.values[6 + 3].view(3, 2, 4, 4)
    assert torch.equal(film[:, 0], values[1, :, 4:, :4]) and torch.equal(film[:, 1], values[2, :, 4:, :4])
    last = cut.values[-1].view(3, 2, 4, 4)  # an odd frame is seen twice
    assert torch.equal(last[:, 0], values[3, :, 4:, 8:]) and torch.equal(last[:, 1], last[:, 0])
    with torch.no_grad():
        torch.testing.assert_close(model(pixels).features, model(cut).features)


def test_pictures_of_several_sizes_side_by_side_are_read_without_their_filling():
    model, values = tower(), torch.randn(2, 3, 12, 8, generator=torch.Generator().manual_seed(0))
    whole = Pixels.whole(values)
    pixels = Pixels(values=values, image=whole.image, tile=whole.tile, sizes=((12, 4), (8, 8)))
    seen = model.cut(pixels)
    assert seen.grids == ((1, 3, 1), (1, 2, 2))
    assert torch.equal(seen.values[-1].view(3, 2, 4, 4)[:, 0], values[1, :, 4:8, 4:8])


def test_known_places_of_the_released_size(known_answers):
    known = known_answers("qwen3_vl_headline_rope").outputs
    table = torch.eye(48 * 48).T.unflatten(1, (48, 48))[None]
    for times, rows, columns in ((1, 32, 48), (1, 6, 4), (2, 10, 14)):
        name, layout = f"{times}x{rows}x{columns}", Layout.of_grids([(rows, columns)] * times)
        order = _unblocked(layout, 2)
        assert torch.equal(_spots(layout), known[f"pos_{name}"][order])
        expected = torch.zeros(rows * columns * times, 48 * 48)
        index, weights = known[f"interp_{name}.idx"][order].long(), known[f"interp_{name}.w"][order]
        expected.scatter_add_(1, index, weights)
        places = _stretched(table, (rows, columns))[0].flatten(1).T.repeat(times, 1)
        torch.testing.assert_close(places, expected, atol=1e-5, rtol=0)


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match=r"6 x 8 pixels \(height x width\) for patches of 4"):
        tower().plan([(6, 8)])
    with pytest.raises(InputError, match="width 12 cannot split it over 2 heads"):
        tower(width=12)
    with pytest.raises(InputError, match="levels has 3, but the tower has 2 blocks"):
        tower(levels=(1, 3))
    with pytest.raises(InputError, match="patches of 96 values for a vit that reads 48"):
        tower(frames=1)(patches((1, 2, 2)))
    with pytest.raises(InputError, match="4 patches for grids of 6"):
        tower()(Patches(values=torch.zeros(4, 96), grids=((1, 2, 3),)))
    with pytest.raises(InputError, match=r"a video with frames of \(8, 8\) to \(8, 12\) pixels"):
        tower().plan([(8, 8), (8, 12)], (2,))


@torch.no_grad()
def test_heads_that_do_not_turn_may_divide_the_width_anyhow_and_the_last_state_be_normed():
    model = tower(width=18, base=None, levels=(2,), last_norm=True, stretch="antialiased")
    seen = model(patches((1, 2, 3), (1, 1, 1)))
    torch.testing.assert_close(seen.features, model.post_norm(seen.levels[0]))
    with pytest.raises(InputError, match="width 17 cannot split it over 2 heads; give a multiple of 2"):
        tower(width=17, base=None)


@torch.no_grad()
def test_norms_and_feeds_may_be_of_another_kind():
    model = tower(norm="rms", gated=True, activation="silu", last_norm=True)
    names = {name.partition("blocks.0.")[2] for name in model.state_dict()}
    assert {"feed.gate.bias", "feed.up.bias", "feed.down.bias"} < names
    assert not {"attention_norm.bias", "feed_norm.bias"} & names and "post_norm.bias" not in model.state_dict()
    seen = model(patches((1, 2, 3)))
    torch.testing.assert_close(seen.features, model.post_norm(seen.levels[0]))


@pytest.mark.parametrize("grid", [(1, 1), (2, 5), (9, 3), (3, 3)])
def test_antialiased_places_keep_what_is_even(grid):
    """Shrunk or stretched, a slope stays one between the table's outermost centres and never leaves its range."""
    slope = torch.arange(3.0).view(1, 1, 3, 1).expand(1, 2, 3, 3)
    made = _stretched(slope, grid, "antialiased")
    assert made.shape == (1, 2, *grid) and float(made.mean()) == pytest.approx(1)
    assert (made.diff(dim=2) >= 0).all() and made.min() >= 0 and made.max() <= 2
    half = _stretched(slope.to(torch.bfloat16), grid, "antialiased")
    assert half.dtype == torch.bfloat16 and torch.allclose(half.float(), made, atol=2e-2)


def test_it_learns_of_a_layout_that_was_only_looked_at_before():
    model, given_ = tower(window=2, whole=(2,)), patches((1, 4, 6), block=1)
    with torch.inference_mode():
        model(given_)
    model(given_).features.sum().backward()
    assert all(part.grad is not None for part in model.parameters())
