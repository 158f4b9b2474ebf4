"""What tokens on no grid are worth is laid over the picture where they lie, and nothing of it is lost."""

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.core.types import Layout, Query, VisualTokens
from foveal.relevance.painting import SIDE, painted
from foveal.relevance.strategies.foveal import Foveal

NAMES = ("a", "b")


def of(boxes, shares, kept=None):
    boxes, shares = torch.tensor(boxes), torch.tensor(shares)
    kept = torch.ones(len(boxes), dtype=torch.bool) if kept is None else torch.tensor(kept)
    given = torch.stack([shares, 2 * shares]), shares, boxes, kept
    other = (torch.rand_like(given[0]), shares.flip(0), boxes.flip(0), ~kept)  # beside which nothing changes
    both = painted(*(torch.stack(pair) for pair in zip(given, other, strict=True)), names=NAMES)
    (alone,) = painted(*(part[None] for part in given), names=NAMES)
    for part in ("maps", "shares", "boxes"):
        torch.testing.assert_close(getattr(both[0], part), getattr(alone, part))
    return alone


def test_a_half_lies_in_its_half():
    made = of([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]], [0.25, 0.75], [False, True])
    half = SIDE // 2
    torch.testing.assert_close(made.maps[0][:, :half], torch.full((SIDE, half), 0.25))
    torch.testing.assert_close(made.maps[1][:, half:], torch.full((SIDE, half), 1.5))
    torch.testing.assert_close(made.shares[:, half:].sum(), torch.tensor(0.75))
    assert made.boxes.tolist() == [[0, half, SIDE, SIDE]] and made.names == NAMES


def test_what_lies_over_one_another_is_the_mean_and_where_nothing_lies_is_0():
    made = of([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]], [0.2, 0.8])
    assert made.maps[0, 0, 0] == 0.5 and made.maps[0, -1, -1] == 0


sides = st.floats(0, 1, width=32)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(sides, sides, sides, sides), min_size=1, max_size=8))
def test_shares_stay_one_however_thin_a_box(corners):
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    made = of([list(map(float, box)) for box in boxes], [1 / len(boxes)] * len(boxes))
    torch.testing.assert_close(made.shares.sum(), torch.tensor(1.0))
    assert made.maps.isfinite().all() and len(made.boxes) == len(boxes)


def test_who_cuts_tokens_on_no_grid_tells_where_it_looked():
    """The tokens are those that were kept, in the picture's order."""
    visual = VisualTokens.on_layout(torch.rand(6, 8), Layout(counts=(6,), grids=(None,)))
    corners = torch.arange(6) / 6
    visual = replace(visual, boxes=torch.stack([corners, corners, corners + 1 / 6, corners + 1 / 6], dim=1))
    nothing = Query(features=torch.zeros(1, 1, 8), valid=torch.zeros(1, 1, dtype=torch.bool), owner=torch.tensor([0]))
    made = Foveal(budget=2).between(visual, nothing)
    (looked,) = made.looked
    torch.testing.assert_close(looked.boxes, made.boxes[:, [1, 0, 3, 2]] * SIDE)
    torch.testing.assert_close(looked.shares.sum(), torch.tensor(1.0))


def test_autocast_paints_the_same():
    given = [[0.1, 0.0, 0.45, 0.8], [0.3, 0.2, 1.0, 1.0]], [0.3001, 0.6999]
    plain = of(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        made = of(*given)
    assert torch.equal(made.maps, plain.maps) and torch.equal(made.shares, plain.shares)
