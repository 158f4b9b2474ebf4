"""The user's own processors, made offline: what they write is what a compressed model understands."""

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

import foveal
from tests.interop import tiny

WORDS = ("<pad>", "<s>", "</s>", "<unk>", "where", "is", "the", "cat", "User:", "Assistant:", "\n")
TILES = tuple(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2))


def tokenizer(*special):
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    fast = hf.PreTrainedTokenizerFast(tokenizer_object=made, **names, padding_side="left")
    fast.add_tokens(list(special), special_tokens=True)
    return fast


def llava():
    sides = {"height": 24, "width": 24}
    pictures = hf.CLIPImageProcessorPil(size=sides, crop_size=sides)
    settings = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return hf.LlavaProcessor(pictures, tokenizer("<image>"), **settings)


def idefics3():
    pictures = hf.Idefics3ImageProcessorPil(size={"longest_edge": 48}, max_image_size={"longest_edge": 24})
    words = tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *TILES)
    return hf.Idefics3Processor(pictures, words, image_seq_len=9)


def picture(size, seed):
    pixels = np.random.RandomState(seed).rand(*size, 3) * 255
    return Image.fromarray(pixels.astype("uint8"))


@torch.no_grad()
@pytest.mark.parametrize(("kind", "make", "before"), [("llava", llava, [36] * 3), ("idefics3", idefics3, [27, 45, 27])])
def test_a_batch_of_the_processor_is_cut_image_by_image(kind, make, before):
    processor, model = make(), tiny.model(kind)
    word = processor.tokenizer.convert_tokens_to_ids("<image>")
    model.config.image_token_id = word
    images = [[picture((40, 90), 0)], [picture((30, 30), 1), picture((40, 90), 2)]]
    text = ["User: " + "<image> " * len(each) + "where is the cat Assistant:" for each in images]
    given = processor(images=images, text=text, padding=True, return_tensors="pt")
    foveal.compress(model, budget=8, quiet=processor.tokenizer.get_added_vocab().values())
    new = model.generate(**given, max_new_tokens=3, do_sample=False)
    last = model.foveal.last
    assert list(last.before) == before and last.after == (8, 8, 8)
    assert torch.equal(new[:, : given["input_ids"].shape[1]], given["input_ids"])  # the prompt as the user gave it
    kept = last.source >= 0
    ids = given["input_ids"].gather(1, last.source.clamp(min=0))
    assert ((ids == word) & kept).sum(1).tolist() == [8, 16]
    asked = processor.tokenizer.convert_tokens_to_ids("where")
    assert ((ids == asked) & kept).sum(1).tolist() == [1, 1]
