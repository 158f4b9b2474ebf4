import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.decode.shared import generate_shared
from foveal.evaluation.questions import blind, questions
from foveal.evaluation.run import answers, batches
from foveal.models.budget import budgeted
from tests.tiny import tiny_run

ASKED = ["Where is the fox?", "How many?", "Is there an owl in the picture?", "Read the word."]


def a_picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 24, 3), np.uint8))


def a_scene(number, picture):
    for text in ASKED[: 1 + number % 4]:
        content = [{"type": "image"}, {"type": "text", "text": text}]
        yield Example(
            id=f"{number}-{text}",
            images=(picture,),
            messages=({"role": "user", "content": content}, {"role": "assistant", "content": "top left"}),
            meta={"scene": str(number)},
        )


@pytest.fixture(scope="module")
def asked():
    return questions([example for number in range(5) for example in a_scene(number, a_picture(number))])


@pytest.fixture(scope="module")
def run():
    return tiny_run([*ASKED, "top left bottom right one two three yes no"], context=60)


@pytest.fixture
def model(run):
    return run.model


@pytest.fixture
def processor(run):
    return run.processor


def ask(asked, model, processor, **settings):
    return answers(
        asked, model=model, processor=processor, generate=generate_shared, **{"max_new_tokens": 6, **settings}
    )


def test_every_question_is_answered_and_not_all_alike(asked, model, processor):
    said = ask(asked, model, processor)
    assert len(said) == len(asked)
    assert len(set(said)) > 2


@pytest.mark.parametrize("size", [1, 2, 3, 64])
def test_the_size_of_a_batch_changes_no_answer(asked, model, processor, size):
    assert ask(asked, model, processor, batch_size=size) == ask(asked, model, processor, batch_size=5)


def test_the_order_of_the_questions_changes_no_answer(asked, model, processor):
    order = np.random.default_rng(0).permutation(len(asked)).tolist()
    mixed = ask([asked[i] for i in order], model, processor, batch_size=4)
    assert mixed == [ask(asked, model, processor)[i] for i in order]


def test_the_picture_matters_and_blind_questions_lack_it(asked, model, processor):
    seeing, unseeing = ask(asked, model, processor), ask(blind(asked), model, processor)
    assert seeing != unseeing
    same = [answer for question, answer in zip(asked, unseeing, strict=True) if question.text == ASKED[0]]
    assert len(same) == 5 and len(set(same)) == 1  # without pictures, the same words get the same answer


def test_an_answer_ends_at_its_stop(asked, model, processor):
    ends = torch.tensor([[5, processor.stop_ids[0], 6, 7]] * len(asked))
    (first, *_) = answers(asked, model=model, processor=processor, generate=lambda *_, **__: ends)
    assert first == processor.text([5])


def test_progress_counts_every_question(asked, model, processor):
    done = []
    ask(asked, model, processor, batch_size=3, progress=done.append)
    assert sum(done) == len(asked) and len(done) > 1


def test_scenes_stay_together_where_they_fit(asked):
    parts = batches(asked, 4)
    assert sorted(row for rows, _ in parts for row in rows) == list(range(len(asked)))
    for rows, group in parts:
        assert len(rows) <= 4
        assert group[0] == 0 and all(b - a in (0, 1) for a, b in itertools.pairwise(group))
        for place, row in enumerate(rows):
            again = [g for g, other in zip(group, rows, strict=True) if asked[other].scene == asked[row].scene]
            assert set(again) == {group[place]}


def test_a_batch_of_nothing_is_refused(asked, model, processor):
    with pytest.raises(InputError, match="--batch 1 or more"):
        ask(asked, model, processor, batch_size=0)


def test_a_prompt_longer_than_the_context_is_refused(asked, model, processor):
    with pytest.raises(InputError, match="context"):
        ask(asked, model, processor, max_new_tokens=100)


def test_what_steers_is_another_question_and_what_is_answered_stays(asked, run, monkeypatch):
    """Steered by itself nothing changes; what is seen is what the other conversation would be shown."""
    model = budgeted(run.model, 6, "foveal", explore=0.0)
    settings = {"shared": False, "max_new_tokens": 4}
    own = [question.example for question in asked]
    content = [{"type": "image"}, {"type": "text", "text": "yes no two"}]
    other = replace(own[0], messages=({"role": "user", "content": content},))
    assert ask(asked, model, run.processor, steering=own, **settings) == ask(asked, model, run.processor, **settings)
    shown, see = [], type(model).see
    monkeypatch.setattr(type(model), "see", lambda self, batch: shown.append((batch, see(self, batch))) or shown[-1][1])
    for steering in (other, None):
        shown.clear()
        ask(asked[:1], model, run.processor, steering=[steering], **settings)
        (_, cut), (read, _), *_ = shown
        assert read.seen is cut and torch.equal(
            read.input_ids, run.processor.prompt(own[:1], plan=model.plan).input_ids
        )
        whole = run.processor.prompt([other if steering else own[0]], plan=model.plan)
        whole = whole if steering else replace(whole, prompt=torch.zeros_like(whole.prompt))
        assert torch.equal(cut.features, see(model, whole).features)
        assert not torch.equal(cut.features, see(model, run.processor.prompt(own[:1], plan=model.plan)).features)
