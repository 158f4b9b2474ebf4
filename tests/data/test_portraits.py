import json

import numpy as np
import pytest

from foveal.core.errors import InputError
from foveal.data.format import read
from foveal.data.portraits import GROUNDS, KINDS, PortraitConfig, portrait, write_portraits

CONFIG = PortraitConfig(size=32)


def test_each_drawing_comes_as_often_on_a_plain_ground():
    made = [portrait(CONFIG, index) for index in range(30)]
    assert all(sum(one.name == name for one in made) == 3 for name in KINDS)
    for one in made:
        left, top, right, bottom = map(int, one.xyxy)
        assert 0 <= left < right <= 32 and 0 <= top < bottom <= 32 and max(right - left, bottom - top) >= 21
        pixels = np.array(one.image).astype(int)
        outside = np.ones((32, 32), bool)
        outside[top:bottom, left:right] = False
        assert (abs(pixels[outside] - GROUNDS[one.ground]) <= 5).all() and pixels[~outside].std() > 20
    assert portrait(CONFIG, 7).image.tobytes() == portrait(CONFIG, 7).image.tobytes() != made[8].image.tobytes()


def test_wishes_and_questions_are_true(tmp_path):
    made = write_portraits(tmp_path / "data", CONFIG, count=40)
    assert made.scenes == {"train": 32, "val": 4, "test": 4} and made.examples["train"] == 128
    examples = read(tmp_path / "data")
    truths = {example.meta["scene"]: portrait(CONFIG, int(example.meta["scene"][3:])) for example in examples}
    for example in examples:
        truth, text = truths[example.meta["scene"]], example.messages[0]["content"][-1]["text"]
        if example.meta["kind"] == "draw":
            assert truth.name in text and ("on" not in text.split() or truth.ground in text)
            assert example.messages[1]["content"] == [{"type": "image"}] and example.answer == ""
        said = {"name": truth.name, "colour": truth.ground, "draw": ""}
        assert example.answer == said.get(example.meta["kind"], "yes" if truth.name in text else "no")
    assert {"yes", "no"} == {example.answer for example in examples if example.meta["kind"] == "present"}
    about = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert about["count"] == 40 and "OpenMoji" in (tmp_path / "data" / "ATTRIBUTION.txt").read_text()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"size": 8}, "8 pixels"),
        ({"seed": -1}, "seed -1"),
        ({"kinds": ("fox",)}, "1 different of 1"),
        ({"kinds": ("fox", "fox")}, "1 different of 2"),
        ({"kinds": ("fox", "foxx")}, "did you mean 'fox'"),
    ],
)
def test_impossible_settings_are_refused(settings, told):
    with pytest.raises(InputError, match=told):
        PortraitConfig(**settings)


def test_no_portraits_are_refused(tmp_path):
    with pytest.raises(InputError, match="0 portraits"):
        write_portraits(tmp_path / "data", CONFIG, count=0)
