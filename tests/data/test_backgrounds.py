from dataclasses import replace

import numpy as np
import pytest

from foveal.data import backgrounds
from foveal.data.backgrounds import INKS, KINDS, PLATES, Background

BACK = Background(kind="plain", first=(240, 230, 250), second=(200, 220, 210), scale=80.0, angle=0.6, seed=5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_paints_between_its_colours(kind):
    picture = backgrounds.paint(replace(BACK, kind=kind), 97, 64)
    assert (picture.mode, picture.size) == ("RGB", (97, 64))
    values = np.asarray(picture).reshape(-1, 3)
    low, high = np.minimum(BACK.first, BACK.second), np.maximum(BACK.first, BACK.second)
    assert (values >= low).all() and (values <= high).all()
    assert (len(np.unique(values, axis=0)) == 1) == (kind == "plain")


def test_backgrounds_vary_and_stay_light():
    rng = np.random.default_rng(0)
    made = [backgrounds.background(rng) for _ in range(300)]
    assert {back.kind for back in made} == set(KINDS)
    assert min(backgrounds.luminance(c) for back in made for c in (back.first, back.second)) > 0.15


def test_contrast_of_black_on_white_is_21():
    assert backgrounds.contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)


@pytest.mark.parametrize("ink", INKS)
def test_words_stand_out_from_what_is_under_them(ink):
    rng = np.random.default_rng(1)
    for _ in range(100):
        back = backgrounds.background(rng)
        plate = backgrounds.readable(ink, back, wanted=False)
        under = [PLATES[plate]] if plate else [back.first, back.second]
        assert min(backgrounds.contrast(INKS[ink], colour) for colour in under) >= 3.2
