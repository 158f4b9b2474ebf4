from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.core.types import IGNORE
from foveal.preprocess.choices import conversations, offered

ASKED = ("what is in the top left?", "dog", ("red apple", "dog"))


@pytest.fixture
def posed(example):
    """`posed("what?", "dog", ("cats", "dog"))`: a question with choices and its answer."""

    def make(text, answer, choices, **more):
        return replace(example(text, answer, **more), meta={"choices": list(choices)})

    return make


def words(made, batch, row):
    return made.text(batch.labels[row][batch.labels[row] != IGNORE])


@pytest.mark.parametrize("template", ["plain", "chatml", "qa", "vicuna"])
@pytest.mark.parametrize("order", ["prefix", "suffix"])
def test_a_row_is_a_question_and_a_choice_as_its_answer(processor, plan, posed, template, order):
    made, plain = processor(template, order=order, choices=2), processor(template, order=order)
    asked = [posed(*ASKED), posed("How many cats?", "12", ("12", "2"), images=2)]
    batch = made.training(asked, plan=plan())
    assert batch.choices == 2 and batch.targets["choice"].tolist() == [1, 0]
    assert [words(made, batch, row) for row in range(4)] == ["red apple", "dog", "12", "2"]
    for row in range(4):
        one = asked[row // 2]
        answer = {"role": "assistant", "content": one.choices[row % 2]}
        alone = plain.training([replace(one, messages=(one.messages[0], answer))], plan=plan())
        for name in ("input_ids", "prompt", "labels"):
            assert getattr(batch, name)[row][batch.valid[row]].equal(getattr(alone, name)[0])


def test_rows_of_a_question_and_questions_of_a_picture_share_it(processor, plan, posed):
    made = processor(choices=2)
    one = posed(*ASKED)
    group = [one, replace(posed("How many cats?", "12", ("12", "2")), images=one.images)]
    batch = made.training([group], plan=plan())
    assert batch.visual.values.shape[0] == 1 and len(batch.input_ids) == 4
    assert (batch.image_slot.amax(1) == 3).all()
    asked = made.prompt([one], plan=plan(), padding="right")
    assert asked.visual.values.shape[0] == 1 and asked.choices == 2 and asked.targets == {}
    assert asked.input_ids.shape[0] == 2 and [words(made, asked, row) for row in (0, 1)] == ["red apple", "dog"]


def test_encoded_once_it_is_the_same_batch(processor, plan, posed):
    made = processor(choices=2)
    one = posed(*ASKED)
    known = made.encode(one)
    assert len(known.rows) == 2 and known.example == one
    first, again = (made.training([entry], plan=plan()) for entry in (one, known))
    assert torch.equal(first.input_ids, again.input_ids) and torch.equal(first.labels, again.labels)


def test_the_answer_that_is_known_does_not_show_in_the_prompt(processor, plan, posed):
    made = processor(choices=2)
    right, wrong = (made.prompt([posed(ASKED[0], said, ASKED[2])], plan=plan()) for said in ASKED[2])
    assert torch.equal(right.input_ids, wrong.input_ids) and torch.equal(right.labels, wrong.labels)


@pytest.mark.parametrize("choices", [("cats", "dog"), ("cats", "dog", "red apple", "2", "yes")])
def test_by_hand_choices_stand_after_the_question(processor, plan, example, posed, choices):
    made = processor(choices=4)
    picture = example("a", "b").images[0]
    batch = made.prompt([(picture, f"what is there? | {' |'.join(choices)}")], plan=plan())
    known = processor(choices=len(choices)).prompt([posed("what is there?", choices[0], choices)], plan=plan())
    assert batch.choices == len(choices) == len(batch.input_ids)
    assert torch.equal(batch.input_ids, known.input_ids) and torch.equal(batch.labels, known.labels)
    assert made.prompt([(None, "what? | a | b")], plan=plan(), room=4000).visual is None


def test_images_stay_where_they_are_beside_choices_by_hand():
    image, text = {"type": "image"}, {"type": "text", "text": "what is "}
    content = [text, image, {"type": "text", "text": "this? | a |"}, {"type": "text", "text": "b"}, image]
    one = offered(Example(id="1", messages=({"role": "user", "content": content},), images=("x", "y")), "row 1")
    assert one.choices == ("a", "b")
    assert one.messages[0]["content"] == [text, image, {"type": "text", "text": "this?"}, image]
    bare = offered(Example(id="1", messages=({"role": "user", "content": "what? | a | b"},)), "row 1")
    assert [m["content"] for m in conversations(bare)[1].messages] == ["what?", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("what is there?", "row 1 names 0 choices and this model picks among 2 or more; write them after it, such as"),
        ("what is there? | cats", "row 1 names 1 choices"),
        ("what is there? | cats | ", "row 1 names an empty choice"),
        ("what is there? | cats | dog | cats", "row 1 names the choice 'cats' 2 times"),
        ("| cats | dog", "row 1 asks nothing"),
    ],
)
def test_choices_by_hand_that_make_no_question_are_told(processor, plan, text, said):
    with pytest.raises(InputError, match=said):
        processor(choices=4).prompt([(None, text)], plan=plan())


def test_another_number_of_choices_is_told(processor, plan, posed, example):
    made = processor(choices=4)
    for ask in (made.training, made.prompt):
        with pytest.raises(InputError, match="example 'e' has 2 choices and this model picks among 4"):
            ask([posed(*ASKED)], plan=plan())
    with pytest.raises(InputError, match=r"example 'e' has 0 choices .*\(kinds: {caption: 0}\)"):
        made.training([example("what?", "dog")], plan=plan())
    with pytest.raises(InputError, match="row 1 has 2 choices and row 2 has 3 choices; ask questions of different"):
        made.prompt([(None, "what? | a | b"), (None, "what? | a | b | c")], plan=plan())
    with pytest.raises(InputError, match=r"'e' is answered 'cats', and its choices are \['red apple', 'dog'\]"):
        processor(choices=2).training([posed(ASKED[0], "cats", ASKED[2])], plan=plan())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"choices": 1}, "processor.choices is 1; give how many"),
        ({"choices": -1}, "processor.choices is -1"),
        ({"choices": 4, "answers": ("a", "b")}, "4 choices beside a vocabulary of 2 answers"),
    ],
)
def test_settings_that_make_no_sense_are_told(processor, settings, said):
    with pytest.raises(InputError, match=said):
        processor(**settings)


def test_masked_stages_read_the_conversation_as_it_is(processor, posed):
    from foveal.preprocess.masking import Masking

    assert processor(choices=2, masking=Masking()).encode(posed(*ASKED)).rows == ()
