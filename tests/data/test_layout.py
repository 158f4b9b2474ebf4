from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.data import layout
from foveal.data.drawings import names
from foveal.data.words import words


def compose(index, *, seed=0, size=256, drawings=60, most=12, pairs=False, detail=1.0):
    return layout.compose(
        seed=seed, index=index, size=size, drawings=names(drawings), words=words(100), max_drawings=most, pairs=pairs,
        detail=detail,
    )  # fmt: skip


def numbers(made, drawings=60):
    known = {name: number for number, name in enumerate(names(drawings))}
    return {known[item.name] for item in made.drawings}


@settings(max_examples=60, deadline=None)
@given(
    index=st.integers(0, 10**6), seed=st.integers(0, 9), size=st.sampled_from([96, 256, (224, 1024)]),
    drawings=st.sampled_from([20, 60, 200]), most=st.integers(2, 12), pairs=st.booleans(),
    detail=st.sampled_from([1.0, 0.35]),
)  # fmt: skip
def test_nothing_overlaps_or_leaves_the_canvas(index, seed, size, drawings, most, pairs, detail):
    made = compose(index, seed=seed, size=size, drawings=drawings, most=most, pairs=pairs, detail=detail)
    boxes = [item.xyxy for item in (*made.drawings, *made.words)]
    assert 1 <= len(made.drawings) <= most
    for number, (left, top, right, bottom) in enumerate(boxes):
        assert 0 <= left < right <= made.width and 0 <= top < bottom <= made.height
        for a, b, c, d in boxes[:number]:
            assert right < a or c < left or bottom < b or d < top
    known = numbers(made, drawings)
    held = {(i, j) for i in known for j in known if i < j and layout.held_out(i, j)}
    assert bool(held) == pairs
    assert not {made.absent[0], made.absent[1]} & {item.name for item in made.drawings}


def test_sizes_go_from_a_twentieth_to_a_half_and_mostly_lie_between():
    sides = [item.long / made.short for made in map(compose, range(300)) for item in made.drawings]
    middle = sum(0.1 <= side <= 1 / 3 for side in sides) / len(sides)
    assert min(sides) >= 0.045 and 0.45 < max(sides) <= 0.51 and middle > 0.6


def test_detail_makes_tiny_drawings_and_words_smaller_and_no_others():
    usual, fine = ([compose(i, size=1024, detail=detail) for i in range(200)] for detail in (1.0, 0.35))
    sides = [item.area**0.5 / made.short for made in fine for item in made.drawings]
    tiny = [side for side in sides if side < 0.1]
    assert 0.12 < len(tiny) / len(sides) < 0.35
    assert 0.35 * 0.85 * layout.TINY_SIZE[0] < min(tiny) and max(tiny) < 0.35 * layout.TINY_SIZE[1] * 1.1
    assert min(side for side in sides if side >= 0.1) > 0.9 * layout.LEAST_SIZE
    points = [np.mean([word.points for made in some for word in made.words]) for some in (usual, fine)]
    assert 0.3 < points[1] / points[0] < 0.42


def test_canvases_have_many_shapes():
    shapes = [(made.width, made.height) for made in (compose(i, size=(224, 1024)) for i in range(200))]
    assert all(224 <= side <= 1024 for shape in shapes for side in shape)
    assert min(w / h for w, h in shapes) < 0.6 and max(w / h for w, h in shapes) > 1.7
    assert compose(3, size=320).width == compose(3, size=320).height == 320


def test_the_number_of_drawings_is_uniform():
    counts = Counter(len(made.drawings) for made in map(compose, range(600)))
    assert set(counts) == set(range(1, 13)) and max(counts.values()) < 85


def test_every_drawing_is_hero_and_absent_equally_often():
    made = [layout.scheduled(5, index, 40) for index in range(80)]
    assert set(Counter(hero for hero, _ in made).values()) == {2}
    assert set(Counter(absent for _, absent in made).values()) == {2}
    assert all(hero != absent for hero, absent in made)


def test_the_same_for_any_order():
    assert [compose(i) for i in (7, 3, 99)] == [compose(i) for i in (99, 3, 7)][::-1]
    assert compose(7) != compose(7, seed=1)


def test_a_tenth_of_all_pairs_is_held_out_and_every_drawing_has_some():
    pairs = [(i, j) for i in range(200) for j in range(i)]
    held = [pair for pair in pairs if layout.held_out(*pair)]
    assert len(held) / len(pairs) == pytest.approx(0.1, abs=0.002)
    assert {i for pair in held for i in pair} == set(range(200))
    assert layout.held_out(3, 7) and layout.held_out(7, 3) and not layout.held_out(5, 5)


def test_copies_are_uniform_and_possible():
    rng = np.random.default_rng(0)
    counts = Counter()
    for _ in range(6000):
        count = int(rng.integers(1, 13))
        copies = layout.plan_copies(rng, count, 12)
        assert copies is None or copies <= count
        counts[copies] += 1
    del counts[None]
    assert set(counts) == set(range(6)) and max(counts.values()) < 1.2 * min(counts.values())
