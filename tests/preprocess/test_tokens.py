import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.preprocess.chat import Span
from foveal.preprocess.tokens import Coder, encoded

KINDS = ["plain", "chatml", "qa", "vicuna"]
WORDS = st.text("ab cats?.\n", max_size=12)


@pytest.mark.parametrize("kind", KINDS)
def test_markers_become_negative_whether_the_tokenizer_knows_them_or_not(tokenizers, kind):
    ids, _ = Coder(tokenizers[kind], "<image>")([Span(text="a <image> b <image>")])
    assert [i for i in ids if i < 0] == [-1, -2]
    assert "<image>" in tokenizers[kind].get_vocab() or kind in ("chatml", "qa")  # and what is saved stays as it was


def test_the_start_token_comes_once(tokenizers):
    coder = Coder(tokenizers["vicuna"], "<image>")
    assert coder([Span(text="USER: a")])[0].tolist() == tokenizers["vicuna"]("USER: a")["input_ids"]
    assert coder([Span(text="<s>USER: a")])[0].tolist().count(1) == 1


@pytest.mark.parametrize(
    ("kind", "prompt", "answer"),
    [
        ("vicuna", "USER: <image>\nWhat is in the dog's house? ASSISTANT:", " yes</s>"),
        ("chatml", "<|im_start|>user\nWhat? cats<|im_end|>\n<|im_start|>assistant\n", "yes, 12 cats<|im_end|>"),
        ("qa", "question: cats?\nanswer:", " there are 12.<|im_end|>"),
        ("plain", "<user><image> what is there?<assistant>", "red apple<eos>"),
    ],
)
def test_pieces_read_as_the_whole_string_does(tokenizers, kind, prompt, answer):
    tokenizer = tokenizers[kind]
    image = tokenizer.convert_tokens_to_ids("<image>") if "<image>" in tokenizer.get_vocab() else None
    whole = [-1 if i == image else i for i in tokenizer(prompt + answer)["input_ids"]]
    coder = Coder(tokenizer, "<image>")
    ids, loss = coder([Span(text=prompt[:9]), Span(text=prompt[9:]), Span(text=answer, answer=True)])
    assert ids.tolist() == whole
    assert tokenizer.decode(ids[loss]).replace(" ", "") == answer.replace(" ", "")


@given(before=WORDS, answer=WORDS, after=WORDS, kind=st.sampled_from(KINDS))
def test_a_prompt_has_the_same_ids_with_and_without_its_answer(tokenizers, before, answer, after, kind):
    coder = Coder(tokenizers[kind], "<image>")
    end = tokenizers[kind].eos_token
    alone, _ = coder([Span(text="a" + before)])
    ids, loss = coder([Span(text="a" + before), Span(text=answer + end, answer=True), Span(text=after)])
    assert ids[: len(alone)].tolist() == alone.tolist()
    places = np.flatnonzero(loss)
    assert places[0] == len(alone)
    assert (np.diff(places) == 1).all()
    assert ids[places[-1]] == tokenizers[kind].eos_token_id


def test_the_first_token_never_carries_a_loss(tokenizers):
    _, loss = Coder(tokenizers["plain"], "<image>")([Span(text="cats are there", answer=True)])
    assert loss.tolist() == [False, True, True]


def test_a_template_that_loses_an_image_is_told(tokenizers, example):
    coder = Coder(tokenizers["plain"], "<image>")
    with pytest.raises(InputError, match="row 2 has 2 images but its chat template wrote 1 markers"):
        encoded(example("a", images=2), [Span(text="<image> a")], coder, "row 2")
    with pytest.raises(InputError, match="row 2 has no text at all"):
        encoded(example("a", images=0), [], coder, "row 2")


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(InputError, match="str is a slow tokenizer"):
        Coder("words", "<image>")
