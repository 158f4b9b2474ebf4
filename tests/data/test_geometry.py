import pytest

from foveal.data import geometry
from foveal.data.backgrounds import Background
from foveal.data.layout import Item, Layout

BACK = Background(kind="plain", first=(255, 255, 255), second=(255, 255, 255), scale=50.0, angle=0.0, seed=0)


def at(x, y, side=20, name="fox"):
    return Item(name=name, xyxy=(x - side // 2, y - side // 2, x + side // 2, y + side // 2))


def scene(*items, width=300, height=300):
    return Layout(
        width=width,
        height=height,
        background=BACK,
        drawings=items,
        words=(),
        hero="fox",
        absent=("owl", "bee"),
        copies=None,
    )


@pytest.mark.parametrize(
    ("x", "y", "cell"),
    [(50, 50, "top left"), (150, 50, "top"), (250, 250, "bottom right"), (150, 150, "center"), (50, 150, "left")],
)
def test_cells(x, y, cell):
    assert geometry.cell(scene(), at(x, y)) == geometry.clear_cell(scene(), at(x, y)) == cell


def test_near_a_line_no_cell_is_clear():
    assert geometry.clear_cell(scene(), at(97, 50)) is None


def test_alone_in_a_region():
    fox, owl = at(50, 50), at(60, 80, name="owl")
    assert geometry.alone_in(scene(), [fox], "top left") is fox
    assert geometry.alone_in(scene(), [fox, owl], "top left") is None
    assert geometry.alone_in(scene(), [fox], "top") is None


def test_not_alone_where_another_reaches_in():
    fox, large = at(30, 30), at(130, 60, side=100, name="owl")
    assert geometry.alone_in(scene(), [fox, large], "top left") is None


def test_gap_and_distance():
    assert geometry.gap(at(20, 20), at(63, 64)) == pytest.approx((23**2 + 24**2) ** 0.5)
    assert geometry.gap(at(20, 20), at(25, 20)) == 0
    assert geometry.distance(at(20, 20), at(23, 24)) == 5


def test_nearest_needs_a_margin():
    fox, near, far = at(50, 50), at(90, 50, name="owl"), at(50, 200, name="bee")
    assert geometry.nearest(scene(), fox, [near, far]) is near
    assert geometry.nearest(scene(), fox, [near, at(50, 91, name="bee")]) is None
    assert geometry.nearest(scene(), fox, [at(280, 50)]) is None
    assert geometry.nearest(scene(), fox, []) is None


def test_towards_is_level_and_nearest():
    fox, right, below = at(100, 100), at(180, 110, name="owl"), at(110, 200, name="bee")
    made = scene(fox, right, below)
    assert geometry.towards(made, fox, "right of") is right
    assert geometry.towards(made, fox, "below") is below
    assert geometry.towards(made, fox, "left of") is None
    assert geometry.towards(made, right, "left of") is fox
    assert geometry.towards(scene(fox, at(160, 150)), fox, "right of") is None
    assert geometry.towards(scene(fox, right, at(190, 80)), fox, "right of") is None


def test_extreme_needs_a_margin():
    small, large, same = at(50, 50, 20), at(200, 200, 60, "owl"), at(50, 200, 58, "bee")
    assert geometry.extreme(scene(small, large), largest=True) is large
    assert geometry.extreme(scene(small, large), largest=False) is small
    assert geometry.extreme(scene(small, large, same), largest=True) is None
    assert geometry.extreme(scene(small), largest=True) is None


def test_share_and_tiny():
    small, large = at(50, 50, 20), at(200, 200, 60)
    assert geometry.share(scene(), [small, large]) == pytest.approx((400 + 3600) / 90000)
    assert geometry.tiny(scene(small, large)) == [small]


def test_singles_leave_out_what_is_there_twice():
    fox, other, owl = at(50, 50), at(150, 50), at(250, 50, name="owl")
    assert geometry.singles(scene(fox, other, owl)) == [owl]
