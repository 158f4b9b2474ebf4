import pytest

from foveal.core.errors import InputError
from foveal.core.example import Box, Example
from foveal.evaluation.controls import CONTROLS, steered_by
from foveal.evaluation.questions import Question, said

SCENES = {"one": ("fox", "fire engine"), "two": ("owl", "cat"), "three": ("cat",)}
TEXTS = {
    "one": ["Where is the fox?", "How many drawings are there?", "Is there an owl?"],
    "two": ["How many owls are there?", "Name the drawing next to the cat."],
    "three": ["Where is the cat?", "Which word is at the top?"],
}


def a_question(scene, text):
    boxes = tuple(Box(label=label, xyxy=(0.0, 0.0, 1.0, 1.0)) for label in SCENES[scene])
    content = [{"type": "image"}, {"type": "text", "text": text}]
    example = Example(id=text, images=(scene,), messages=({"role": "user", "content": content},), boxes=boxes)
    return Question(id=text, scene=scene, kind="k", text=text, truth="yes", example=example)


ASKED = [a_question(scene, text) for scene, texts in TEXTS.items() for text in texts]


@pytest.mark.parametrize("control", CONTROLS)
def test_what_steers_is_never_the_question_itself_and_its_pictures_are_the_same(control):
    for seed in range(20):
        found = steered_by(ASKED, control, seed=seed)
        assert found == steered_by(ASKED, control, seed=seed)
        for place, other in found:
            if other is not None:
                assert said(other.messages[-1]) != ASKED[place].text
                assert other.images == ASKED[place].example.images
                assert [part["type"] for part in other.messages[-1]["content"]] == ["image", "text"]


def test_shuffled_is_a_question_of_another_scene():
    for place, other in steered_by(ASKED, "shuffled"):
        assert other is not None
        text = said(other.messages[-1])
        assert text not in TEXTS[ASKED[place].scene] and any(text in texts for texts in TEXTS.values())
    alone = [a_question("one", text) for text in TEXTS["one"]]
    assert steered_by(alone, "shuffled") == []


def test_empty_is_of_all_questions():
    assert steered_by(ASKED, "empty") == [(place, None) for place in range(len(ASKED))]


def test_a_wrong_object_is_another_thing_of_the_picture_where_there_is_one():
    texts = {ASKED[place].text: said(other.messages[-1]) for place, other in steered_by(ASKED, "wrong_object")}
    assert set(texts) == {
        "Where is the fox?",
        "Is there an owl?",
        "How many owls are there?",
        "Name the drawing next to the cat.",
        "Where is the cat?",
    }
    assert texts["Where is the fox?"] == "Where is the fire engine?"
    assert texts["How many owls are there?"] == "How many cats are there?"
    assert texts["Name the drawing next to the cat."] == "Name the drawing next to the owl."
    assert texts["Is there an owl?"] in ("Is there an fox?", "Is there an fire engine?")
    assert texts["Where is the cat?"] in {f"Where is the {one}?" for one in ("fox", "fire engine", "owl")}


def test_an_unknown_control_is_named():
    with pytest.raises(InputError, match="did you mean 'empty'"):
        steered_by(ASKED, "emptyy")
