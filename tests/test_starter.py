"""The starter model, as it ships: small, honest about itself, and right about pictures it has never seen."""

from pathlib import Path

import pytest

import foveal
from foveal.data.scenes import SceneConfig, Scenes

FOLDER = Path(foveal.__file__).parent / "starter"


@pytest.fixture(scope="module")
def starter():
    return foveal.load("starter")


def test_it_is_at_most_thirty_megabytes():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 30e6


def test_its_card_shows_the_attribution_and_what_it_is_not():
    card = (FOLDER / "README.md").read_text()
    for words in ("OpenMoji", "CC BY-SA 4.0", "no general-purpose model"):
        assert words in card


def test_it_answers_about_scenes_it_has_never_seen(starter):
    right = asked = 0
    scenes = Scenes(SceneConfig(seed=4321, size=256, drawings=60))
    for index in range(6):
        scene = scenes[index]
        for question in scene.questions:
            if question.kind in ("region", "size", "detail", "count", "present", "where", "relation"):
                answer = starter.answer(scene.image, question.text, max_new_tokens=4)
                right += answer.text == question.answer
                asked += 1
                assert answer.visual_tokens == 256
    assert right / asked > 0.85, f"{right} of {asked}"
