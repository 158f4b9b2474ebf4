"""Pictures out of prompts: the right number of image words, pixels of their codes, clear refusals."""

import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.core.types import IGNORE, Batch, Layout
from foveal.decode.pictures import pictures
from foveal.decode.sampling import greedy, sampler
from foveal.front import load
from tests.tiny import tiny_painter, tiny_run

PROMPTS = ["draw a fox", "draw an owl or two", "draw"]


@pytest.fixture(scope="module")
def painter():
    return tiny_painter([*PROMPTS, "what is it a fox"])


def codes_of(painter, prompts, sampling):
    batch = painter.processor.prompt([(None, text) for text in prompts], plan=painter.model.plan)
    return pictures(painter.model, batch, count=4, begin=painter.processor.begin_ids, sampling=sampling)


def test_a_row_alone_writes_what_it_writes_in_a_padded_batch(painter):
    codes = codes_of(painter, PROMPTS, greedy)
    assert codes.shape == (3, 4) and (codes >= 0).all() and (codes < 12).all()
    for number, prompt in enumerate(PROMPTS):
        assert torch.equal(codes_of(painter, [prompt], greedy)[0], codes[number])


def test_each_word_is_the_best_of_what_a_picture_may_hold(painter):
    """Without the cache: the text so far, the beginning of an image, and the codes one by one."""
    model, first = painter.model, int(painter.model.picture_words[0])
    batch = painter.processor.prompt([(None, PROMPTS[0])], plan=model.plan)
    ids = torch.cat([batch.input_ids[0], torch.tensor(painter.processor.begin_ids)])
    expected = []
    for _ in range(4):
        there = torch.ones(1, len(ids), dtype=torch.bool)
        text = Batch(input_ids=ids[None], valid=there, prompt=there, image_slot=torch.full((1, len(ids)), -1))
        with torch.no_grad():
            expected.append(int(model(text).logits[0, -1, first:].argmax()))
        ids = torch.cat([ids, torch.tensor([first + expected[-1]])])
    assert codes_of(painter, PROMPTS[:1], greedy)[0].tolist() == expected


def test_pictures_are_the_pixels_of_the_codes(painter, tmp_path):
    torch.manual_seed(5)
    codes = codes_of(painter, PROMPTS, sampler())
    torch.manual_seed(5)
    drawn = painter.draw(PROMPTS)
    with torch.no_grad():
        values = painter.model.vision.decode(codes.view(3, 2, 2))
    for picture, one in zip(drawn, values, strict=True):
        assert picture.size == (16, 16)
        seen = painter.processor.transform(picture)
        torch.testing.assert_close(seen, one.clamp(-1, 1), atol=2 / 255, rtol=0)
    again = load(painter.save(tmp_path / "run"))
    torch.manual_seed(5)
    assert [picture.tobytes() for picture in again.draw(PROMPTS)] == [picture.tobytes() for picture in drawn]
    assert painter.draw([]) == []


def test_an_image_in_an_answer_is_learned_and_one_in_a_question_is_read(painter):
    picture, image = painter.draw(["draw"])[0], {"type": "image"}
    wish, what, fox = ({"type": "text", "text": text} for text in ("draw a fox", "what is it", "a fox"))
    batch = painter.processor.training(
        [
            Example(
                id=name,
                messages=({"role": "user", "content": asked}, {"role": "assistant", "content": said}),
                images=(picture,),
            )
            for name, asked, said in (("d", [wish], [image]), ("q", [image, what], [fox]))
        ],
        plan=painter.model.plan,
    )
    labelled = batch.labels != IGNORE
    seen = batch.image_slot >= 0
    assert (labelled & seen).sum(1).tolist() == [4, 0]
    begin, end = painter.processor.begin_ids[0], painter.processor.tokenizer.eos_token_id
    places = seen[0].nonzero()[:, 0]
    around = batch.labels[0, [int(places[0]) - 1, int(places[-1]) + 1, int(places[-1]) + 2]]
    assert around.tolist() == [begin, end, end]
    output = painter.model(batch, keep="labelled")
    words = painter.model.picture_words[painter.model.vision.encode(painter.processor.transform(picture)[None])]
    assert output.labels[1:5].tolist() == words.flatten().tolist() and len(output.labels) == len(output.logits)


def test_text_holds_no_image_words(painter):
    with torch.no_grad():
        painter.model.head.map.weight[painter.model.picture_words] *= 100
    answer = painter.answer(None, "what is it", max_new_tokens=8)
    assert all(token < int(painter.model.picture_words[0]) for token in answer.token_ids)


def test_what_cannot_draw_says_so(painter):
    with pytest.raises(InputError, match="writes words alone"):
        tiny_run(PROMPTS).draw(PROMPTS)
    with pytest.raises(InputError, match=r"and 5 for the answer, but the context holds 60"):
        painter.draw(["draw a fox " * 20])
    mute = tiny_painter(PROMPTS)
    mute.model.vision.decoder = None
    with pytest.raises(InputError, match="no decoder that makes pixels"):
        mute.draw(PROMPTS)
    assert painter.model.plan([(16, 16)]) == Layout.of_grids([(2, 2)])
