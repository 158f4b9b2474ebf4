"""What is hidden and exchanged: how much, where, and the same from the same seed."""

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch
from foveal.preprocess.masking import BELONGS, FOREIGN, Masking, Words, mask_regions, mask_words
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer

WORDS = Words.of(100, special=(0, 1, 2), mask=2)


def chance(seed=0):
    return np.random.default_rng(seed)


def texts(rows=200, length=50, **targets):
    ids = torch.randint(0, 100, (rows, length), generator=torch.Generator().manual_seed(0))
    valid = torch.ones_like(ids, dtype=torch.bool)
    valid[0, 5:] = False
    slots = torch.full_like(ids, -1)
    slots[1, :4] = torch.arange(4)
    return Batch(input_ids=ids, valid=valid, prompt=valid, image_slot=slots, targets=targets)


def masked(batch, share=0.15, seed=0):
    return mask_words(batch, share, lambda: WORDS, chance(seed))


def test_a_share_of_the_words_is_hidden_in_the_three_ways():
    batch = texts()
    made = masked(batch)
    chosen = made.labels != IGNORE
    words = batch.valid & (batch.image_slot < 0) & (batch.input_ids > 2)
    assert not (chosen & ~words).any()
    assert chosen.sum() == round(0.15 * int(words.sum()))
    assert torch.equal(made.labels[chosen], batch.input_ids[chosen])
    assert torch.equal(made.input_ids[~chosen], batch.input_ids[~chosen])
    now, was = made.input_ids[chosen], batch.input_ids[chosen]
    shares = [float(part.float().mean()) for part in (now == 2, (now != 2) & (now != was), now == was)]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    assert not ((now == 0) | (now == 1)).any()


def test_the_seed_says_it_all():
    batch = texts()
    assert torch.equal(masked(batch).input_ids, masked(batch).input_ids)
    assert not torch.equal(masked(batch).labels, masked(batch, seed=1).labels)


def test_one_word_at_least_and_none_of_a_foreign_text():
    assert (masked(texts(rows=2, length=8), share=0.01).labels != IGNORE).sum() == 1
    foreign = torch.tensor([FOREIGN] + [BELONGS] * 199)
    assert (masked(texts(matching=foreign), share=1.0).labels[0] == IGNORE).all()


@pytest.mark.parametrize(("total", "count"), [(0, 0), (1, 1), (64, 10), (640, 96)])
def test_a_share_of_the_regions(total, count):
    assert int(mask_regions(total, 0.15, chance()).sum()) == count


def processor(mask=True, **settings):
    words = word_tokenizer(["what colour is it", "red blue green grey"], mask=mask)
    config = ProcessorConfig(image=ImageTransform(size=8), masking=Masking(**settings))
    return Processor(tokenizer=words, config=config)


def examples(example, count=4):
    colours = ("red", "blue", "green", "grey")
    pictures = [Image.new("RGB", (8, 8), (40 * i, 0, 0)) for i in range(count)]
    return [example("what colour is it", colours[i], pictures=[pictures[i]], name=str(i)) for i in range(count)]


def test_a_foreign_text_is_that_of_another_image(example, plan):
    asked = examples(example)
    made = processor(words=0.0, regions=0.0, foreign=1.0).training(asked, plan=plan(), seed=(3,))
    plain = processor(words=0.0, regions=0.0, foreign=0.0).training(asked, plan=plan())
    assert made.targets["matching"].tolist() == [FOREIGN] * 4 and plain.targets == {} and made.labels is None
    assert torch.equal(made.image_slot, plain.image_slot)
    for row in range(4):
        mine = [torch.equal(made.input_ids[row], text) for text in plain.input_ids]
        assert sum(mine) == 1 and not mine[row]


def test_a_row_without_another_image_keeps_its_text(example, plan):
    one = processor(foreign=1.0).training(examples(example, 1), plan=plan())
    assert one.targets["matching"].tolist() == [BELONGS]


def test_questions_of_an_image_share_what_is_hidden_of_it(example, plan):
    red = Image.new("RGB", (8, 8), (200, 0, 0))
    pair = [example(text, "red", pictures=[red]) for text in ("what colour", "colour is")]
    made = processor(words=0.5, foreign=0.0).training([pair], plan=plan(4, 4))
    assert made.input_ids.shape[0] == 2 and made.branch is None
    assert torch.equal(made.image_slot[made.image_slot >= 0].view(2, 16)[0], torch.arange(16))
    assert made.targets["regions"].shape == (16,) and made.targets["regions"].sum() == 2
    assert ((made.labels != IGNORE) & (made.image_slot >= 0)).sum() == 0


def test_what_cannot_be_masked_is_told(example, plan):
    with pytest.raises(InputError, match="no mask token"):
        processor(mask=False).training(examples(example), plan=plan())
    with pytest.raises(InputError, match=r"masking.words is 1.5; give a share"):
        Masking(words=1.5)
