import math
from dataclasses import replace

import pytest
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import Example, Held
from foveal.data.format import chat
from foveal.data.statistics import sizes, summary


def example(number, answer, image, **meta):
    return Example(id=str(number), images=(image,), messages=tuple(chat("What?", answer)), meta=meta)


@pytest.fixture
def images(tmp_path):
    paths = [tmp_path / f"{side}.png" for side in (10, 20, 30)]
    for path in paths:
        Image.new("RGB", (int(path.stem), 8)).save(path)
    return paths


def test_kinds_answers_and_what_guessing_earns(images):
    rows = [("a", 0.1), ("b", 0.3), ("a", 0.2), ("c", 0.2)]
    examples = [
        example(i, answer, images[i % 3], kind="where", scene=f"s{i % 3}", area=area)
        for i, (answer, area) in enumerate(rows)
    ]
    found = summary([*examples, example(9, "yes", images[0], kind="present", scene="s0")])
    assert (found["examples"], found["scenes"], found["images"]) == (5, 3, 3)
    where = found["kinds"]["where"]
    assert (where["count"], where["answers"], where["answer"], where["majority"]) == (4, 3, "a", 0.5)
    assert where["top"] == {"a": 2, "b": 1, "c": 1} and where["area"] == 0.2
    assert found["kinds"]["present"]["majority"] == 1
    assert found["sizes"] == {"width": [10, 20, 30], "height": [8, 8, 8]}


def test_scenes_of_any_name_and_areas_that_are_no_numbers(images):
    scenes = ([1, 2], [1, 2], {"a": 1, "b": 2}, {"b": 2, "a": 1}, "s", None, "s")
    areas = ("wide", None, [0.5], math.nan, 10**400, 0.25, 0.75)
    rows = enumerate(zip(scenes, areas, strict=True))
    found = summary(example(i, "a", images[0], scene=scene, area=area) for i, (scene, area) in rows)
    assert (found["scenes"], found["kinds"]["all"]["area"]) == (4, 0.5)
    assert "area" not in summary([example(0, "a", images[0], area="wide")])["kinds"]["all"]


def test_a_picture_in_memory_is_counted_once(images):
    one, other = (Held(path.read_bytes()) for path in images[:2])
    rows = [example(0, "a", one), example(1, "b", one), example(2, "c", other)]
    text = Example(id="text", messages=rows[0].messages)
    for some in ([replace(rows[0], images=(one, one)), text, rows[1]], [rows[0], text, text, rows[1]]):
        told = summary([*some, rows[2]])
        assert told["images"] == 2 and told["sizes"]["width"] == [10, 20, 20]
    assert told["scenes"] == 3, "two pictures and the text"


def test_nothing_is_nothing():
    assert summary([]) == {"examples": 0, "scenes": 0, "images": 0, "sizes": {}, "kinds": {}}


def test_an_image_that_is_none(tmp_path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(InputError, match=r"cannot read the image .*a\.png"):
        sizes([tmp_path / "a.png"])
