"""What queries hear of a question while answers are learned is what they hear when it is asked."""

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.example import Example
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer
from tests.models.test_causal import TINY

HEARD = word_tokenizer(["what colour is the cat and where is it now red left"])


def example(number, question, answer, picture=None):
    made = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    told = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
    return Example(id=str(number), images=(picture or Image.fromarray(made),), messages=(asked, told))


@pytest.fixture
def processor():
    own = word_tokenizer(["it is red", "what colour is the cat", "where is the cat left"])
    made = Processor(tokenizer=own, config=ProcessorConfig(image=ImageTransform(size=16, mode="square"), context=64))
    made.listener = HEARD
    return made


@pytest.fixture
def model(processor):
    torch.manual_seed(0)
    connector = {"name": "qformer", "queries": 2, "width": 8, "depth": 1, "heads": 2, "vocabulary": len(HEARD)}
    language = {**TINY["language"], "vocabulary": len(processor.tokenizer)}
    return assemble(ModelConfig.parse({**TINY, "connector": connector, "fusion": "prefix", "language": language}))


@pytest.mark.parametrize("length", [None, 40])
def test_what_is_heard_is_the_question_without_its_answer(processor, model, length):
    rows = [example(0, "what colour is the cat", "red"), example(1, "where is it", "left")]
    asked, learned = processor.prompt(rows, plan=model.plan), processor.training(rows, plan=model.plan, length=length)
    assert torch.equal(learned.question, asked.question)


def test_a_group_hears_what_its_questions_begin_with(processor, model):
    first = example(0, "where is the cat", "left")
    group = [first, example(1, "where is it now", "red", first.images[0])]
    (heard,) = processor.training([group], plan=model.plan).question.tolist()
    assert heard == HEARD("where is")["input_ids"]


def test_questions_that_are_heard_do_not_share_an_image(model):
    assert model.steered
    assert not assemble(ModelConfig.parse(TINY)).steered
    thinned = {**TINY, "fusion": {"name": "dense_sparse", "by": "relevance", "keep": [1.0, 0.5]}}
    assert assemble(ModelConfig.parse(thinned)).steered
