import pytest
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import Example, Held
from foveal.evaluation.questions import blind, captioned, captions, questions, said, told, without_images


def message(role, text, image=False):
    content = [{"type": "image"}] if image else []
    return {"role": role, "content": [*content, {"type": "text", "text": text}]}


ONE = Example(
    id="7",
    images=("7.png",),
    messages=(message("user", "Where is the fox?", image=True), message("assistant", "top left")),
    meta={"kind": "where", "scene": "s7"},
)


def test_one_question_for_one_answer():
    (asked,) = questions([ONE])
    assert (asked.id, asked.scene, asked.kind) == ("7", "s7", "where")
    assert (asked.text, asked.truth) == ("Where is the fox?", "top left")


def test_the_answer_is_not_in_what_is_asked():
    (asked,) = questions([ONE])
    assert len(asked.example.messages) == 1
    assert asked.example.images == ONE.images


def test_a_conversation_asks_every_turn_with_the_turns_before_it():
    turns = (*ONE.messages, message("user", "And the owl?"), message("assistant", "nowhere"))
    first, second = questions([Example(id="7", images=ONE.images, messages=turns)])
    assert (first.id, second.id) == ("7/0", "7/1")
    assert len(second.example.messages) == 3
    assert first.kind == second.kind == "all"
    assert first.scene == second.scene == "7"


def test_without_a_scene_in_the_data_it_is_told_by_the_pictures():
    shown = [("same", "a.png"), ("same", "b.png"), ("8", "a.png"), ("same", "b.png"), ("9", "c.png")]
    asked = questions([Example(id=id, messages=ONE.messages, images=(image,)) for id, image in shown])
    first, second, third, fourth, fifth = (question.scene for question in asked)
    assert first == third == "same" and second == fourth and fifth == "9"
    assert second == "same#2"
    opened = [Example(id="1", messages=ONE.messages, images=(object(),)) for _ in range(3)]
    assert [question.scene for question in questions(opened)] == ["1", "1#2", "1#3"]
    texts = [Example(id=id, messages=(message("user", "2?"), message("assistant", "2"))) for id in "ab"]
    assert [question.scene for question in questions(texts)] == ["a", "b"]


def test_no_more_than_the_limit_and_in_order():
    many = [Example(id=str(i), messages=ONE.messages, images=ONE.images) for i in range(9)]
    assert [asked.id for asked in questions(many, limit=4)] == ["0", "1", "2", "3"]


def test_data_without_answers_are_refused():
    with pytest.raises(InputError, match="no question with one right answer"):
        questions([Example(id="1", messages=(message("user", "Hello?"),))])


def test_blind_questions_hold_no_image():
    (asked,) = blind(questions([ONE]))
    assert asked.example.images == ()
    assert asked.example.messages[0]["content"] == [{"type": "text", "text": "Where is the fox?"}]
    assert asked.truth == "top left"


def test_words_of_a_plain_message():
    assert said({"role": "user", "content": " What? "}) == "What?"


def test_captions_are_left_out():
    caption = Example(id="8", images=ONE.images, messages=ONE.messages, meta={"kind": "caption"})
    assert [asked.id for asked in questions([caption, ONE])] == ["7"]


@pytest.mark.parametrize("opened", [True, False])
def test_captions_of_a_picture_in_memory_are_one_question_wherever_they_stand(opened):
    def shown(names):
        drawn = {name: Image.new("L", (2, 2)) for name in names}
        return [(drawn[name] if opened else Held(name.encode()),) for name in names]

    asked = ONE.messages[:1]
    rows = [
        Example(id=str(i), images=images, messages=(*asked, message("assistant", f"{i}")), meta={"kind": "caption"})
        for i, images in enumerate(shown("abab"))
    ]
    assert [(one.scene, one.golds) for one in captioned(rows)] == [("0", ("0", "2")), ("1", ("1", "3"))]
    known = captions(rows)
    assert list(known.values()) == ["2", "3"] and said(told(rows[0], captions=known).messages[0]).startswith("2 ")


def test_a_caption_stands_where_its_images_were():
    caption = Example(id="c", images=ONE.images, messages=(message("user", "What is it?", image=True),
                      message("assistant", "A fox.")), meta={"kind": "caption"})  # fmt: skip
    known = captions([ONE, caption])
    assert known == {("7.png",): "A fox."}
    one = told(ONE, captions=known)
    assert one.images == () and [said(turn) for turn in one.messages] == ["A fox. Where is the fox?", "top left"]
    assert told(without_images(ONE), captions=known) == without_images(ONE)
    with pytest.raises(InputError, match="'7' shows images that have no caption"):
        told(ONE, captions={})
    with pytest.raises(InputError, match="no captions to stand in the place"):
        captions([ONE])


def test_an_empty_answer_gives_way_to_the_true_ones_of_its_meta():
    turns = (message("user", "What does it say?", image=True), message("assistant", ""))
    example = Example(id="9", images=ONE.images, messages=turns, meta={"answers": ["", "fox", "a fox"]})
    (asked,) = questions([example])
    assert (asked.text, asked.truth, asked.golds) == ("What does it say?", "fox", ("", "fox", "a fox"))
    assert [said(turn) for turn in asked.example.messages] == ["What does it say?"]
    (silent,) = questions([Example(id="9", images=ONE.images, messages=turns, meta={"answers": ["", ""]})])
    assert silent.truth == ""
