"""What the adapter asks of a model, without lmms-eval itself: `test_lmms_eval` runs the two together."""

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.decode.sampling import greedy
from foveal.interop.lmms import asked, checked, count, drawn, losses, replies, stops
from tests.tiny import tiny_run, tiny_tokenizer

WORDS = ["what colour is it", "how many", "red green blue one two three"]


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 28, 3), np.uint8))


@pytest.fixture(scope="module")
def loaded():
    return tiny_run(WORDS)


@pytest.fixture(scope="module")
def questions(loaded):
    texts = ("what colour is it", "how many", "how many is it what colour")
    return [asked(loaded, [picture(i)] * (i < 2), text) for i, text in enumerate(texts)]


def test_a_batch_is_answered_as_each_alone(loaded, questions):
    together = replies(loaded, questions, max_new_tokens=6, until=[])
    assert together == [replies(loaded, [one], max_new_tokens=6, until=[])[0] for one in questions]
    assert together[0] == loaded.answer(picture(0), "what colour is it", max_new_tokens=6).text.strip()
    assert len(set(together)) > 1


def test_an_answer_ends_before_what_ends_it(loaded, questions):
    whole = replies(loaded, questions[:1], max_new_tokens=6, until=[])[0]
    first, *_, last = whole.split()
    assert first != last
    assert (
        replies(loaded, questions[:1], max_new_tokens=6, until=[last, "never"])[0] == whole.partition(last)[0].strip()
    )


def test_more_than_the_context_holds_is_cut(loaded, questions):
    assert len(replies(loaded, questions[:1], max_new_tokens=10_000, until=[])[0].split()) < 80


def test_losses_are_those_of_the_answers_tokens(loaded, questions):
    """By one row at a time, and by the token that the model gives the best score at every step."""
    pairs = [(one, answer) for one in questions for answer in ("red", "blue two three")]
    together = losses(loaded, pairs)
    for pair, (loss, same) in zip(pairs, together, strict=True):
        (alone,) = losses(loaded, [pair])
        assert loss == pytest.approx(alone[0], abs=1e-4) and same == alone[1] and loss > 0
    batch = loaded.processor.prompt([questions[0]], plan=loaded.model.plan)
    with torch.no_grad():
        first = loaded.model(batch).logits[0, -1].log_softmax(-1)
    red = loaded.processor.tokenizer.convert_tokens_to_ids("red")
    assert together[0][0] > -float(first[red])


def test_settings():
    assert drawn({}) is drawn({"temperature": 0}) is drawn({"temperature": 1, "do_sample": False}) is greedy
    assert drawn({"temperature": 0.5, "top_p": 0.9}) is not greedy
    assert stops({"until": "\n"}) == stops({"until": ["\n", ""]}) == ["\n"] and stops({"until": None}) == []
    with pytest.raises(InputError, match="num_beams=3: answers are not searched for in beams; give 1"):
        drawn({"num_beams": 3})


@pytest.mark.parametrize("given", [0, -1, 1.5, True, "abc", "auto", "0", "1.5"])
def test_counts_of_none_are_told(given):
    with pytest.raises(InputError, match=rf"^budget={given}: no whole number of 1 or more; give one"):
        count(given, "budget")
    assert count("64", "budget") == count(64, "budget") == 64


def test_a_run_that_writes_nothing_is_refused():
    with pytest.raises(InputError, match="runs/vq writes no answers"):
        checked(tiny_tokenizer(), "runs/vq")
