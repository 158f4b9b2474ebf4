"""An image tokenizer by itself: what it is made of, what it refuses, and that it is a run as any other."""

import pytest
import torch

import foveal
from foveal.core.errors import InputError
from foveal.core.types import Batch, Pixels
from foveal.models import assembly
from foveal.models.config import ModelConfig
from tests.tiny import tiny_tokenizer

VQ = {"name": "vq", "codes": 12, "width": 8, "latent": 4, "base": 32, "multiples": [1, 2], "blocks": 1}
LANGUAGE = {"name": "decoder", "vocabulary": 9, "width": 8, "depth": 1, "heads": 2}


def batch_of(values):
    ids = torch.zeros(len(values), 1, dtype=torch.long)
    return Batch(input_ids=ids, valid=ids == 0, prompt=ids == 0, image_slot=ids - 1, visual=Pixels.whole(values))


def test_a_run_of_a_tokenizer_comes_back_bit_for_bit(tmp_path):
    made = tiny_tokenizer()
    made.model.usage += 0.5
    read = foveal.load(made.save(tmp_path / "run"))
    assert read.model.config == made.model.config and read.model.usage.equal(made.model.usage)
    batch = batch_of(torch.rand(2, 3, 16, 16))
    assert read(batch).pixels.equal(made(batch).pixels) and read(batch).codes.shape == (2, 2, 2)
    assert read.model.plan([(16, 16)]).counts == (4,)
    assert read.model.plan([(16, 16)] * 3, frames=(1, 2)).counts == (4, 8)
    with pytest.raises(InputError, match="an image tokenizer, which neither reads nor writes words"):
        read.answer(None, "What is it?")
    with pytest.raises(InputError, match="an image tokenizer"):
        read.draw(["a fox"])


def test_a_batch_without_pixels_is_refused():
    ids = torch.zeros(1, 1, dtype=torch.long)
    with pytest.raises(InputError, match="no pixels for an image tokenizer"):
        tiny_tokenizer()(Batch(input_ids=ids, valid=ids == 0, prompt=ids == 0, image_slot=ids - 1))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"vision": {**VQ, "decoder": False}}, "vision 'vq' makes no pixels of codes"),
        ({"vision": "vit"}, "vision 'vit' makes no pixels of codes; take 'vq'"),
        ({"vision": VQ, "language": LANGUAGE}, "vision alone and the model has language too"),
        ({"vision": VQ, "heads": {"answer": "classification"}}, "the model has heads too"),
        ({}, ".autoencoder. needs vision and the model names none; take one of .*vq"),
    ],
)
def test_what_is_no_tokenizer_alone_is_refused(config, said):
    with pytest.raises(InputError, match=said):
        assembly.assemble(ModelConfig.parse({"assembly": "autoencoder", **config}))


@pytest.mark.parametrize("name", ["causal", "masked", "seq2seq"])
def test_the_others_do_not_do_without_language(name):
    config = ModelConfig.parse({"assembly": name, "vision": VQ})
    assert config == ModelConfig.parse(config.dump())
    with pytest.raises(InputError, match=f".{name}. needs language and the model names none; take one of decoder, "):
        assembly.check(config)
