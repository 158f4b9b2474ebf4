"""BLIP-2, InstructBLIP and IDEFICS-1 beside their own processors: asked in words, they say what transformers says."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.types import Pixels
from foveal.front import load
from tests.preprocess.conftest import byte_level, llama_like, word_level
from tests.weights import test_idefics
from tests.weights.test_blip2 import SMALL, TEXTS, random_weights

QUERIES = 4
FAKE = "<fake_token_around_image>"
QUESTION = "How many cats are there? answer:"
KINDS = ["blip2, opt", "blip2, llama", "instructblip, opt", "idefics"]


def begun(tokenizer):
    """A tokenizer that puts its first token before a text, as OPT's does."""
    from tokenizers import processors

    tokenizer.bos_token, tokenizer.pad_token = "<|im_start|>", "<|endoftext|>"
    first = [("<|im_start|>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("<|im_start|> $A", None, first)
    return tokenizer


def words_of(kind):
    tokenizer = llama_like() if "llama" in kind or kind == "idefics" else begun(byte_level())
    tokenizer.add_special_tokens({"additional_special_tokens": [FAKE, "<image>"]})
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def picture_processor(kind):
    name = "idefics" if kind == "idefics" else "blip"
    module = importlib.import_module(f"transformers.models.{name}.image_processing_pil_{name}")
    of = getattr(module, f"{name.capitalize()}ImageProcessorPil")
    return of(image_size=24) if kind == "idefics" else of(size={"height": 24, "width": 24})


def blip(kind, tokenizer):
    """A random tiny BLIP-2 or InstructBLIP of transformers over this tokenizer's words, and its processor."""
    import transformers as hf

    torch.manual_seed(len(kind))
    text = kind.split(", ")[1]
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    parts = {
        "vision_config": {**SMALL, "hidden_size": 24, "image_size": 24, "patch_size": 8},
        "qformer_config": {**SMALL, "vocab_size": 60, "max_position_embeddings": 40},
        "text_config": {"opt": hf.OPTConfig, "llama": hf.LlamaConfig}[text](
            vocab_size=len(tokenizer), max_position_embeddings=128, **ids, **TEXTS[text]
        ),
        "num_query_tokens": QUERIES,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
    }
    of = {"image_processor": picture_processor(kind), "tokenizer": tokenizer, "num_query_tokens": QUERIES}
    if kind.startswith("blip2"):
        model, made = hf.Blip2ForConditionalGeneration(hf.Blip2Config(**parts)), hf.Blip2Processor(**of)
    else:
        model = hf.InstructBlipForConditionalGeneration(hf.InstructBlipConfig(**parts))
        made = hf.InstructBlipProcessor(**of, qformer_tokenizer=word_level())
    model = random_weights(model)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = (
        ids["eos_token_id"],
        ids["pad_token_id"],
    )
    return model, made


@pytest.fixture
def checkpoint(tmp_path):
    """A directory as transformers saves it, with the model and the processor that it holds."""

    def make(kind):
        import transformers as hf

        tokenizer = words_of(kind)
        if kind == "idefics":
            model = test_idefics.reference(3, vocab_size=len(tokenizer), max_position_embeddings=128)
            made = hf.IdeficsProcessor(picture_processor(kind), tokenizer=tokenizer, image_size=24)
        else:
            model, made = blip(kind, tokenizer)
        model.save_pretrained(tmp_path)
        made.save_pretrained(tmp_path)
        return tmp_path, model, made

    return make


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20 + 7 * seed, 31, 3), dtype=np.uint8))


def asked(kind, processor, pictures):
    if kind == "idefics":
        return processor(text=[*pictures, QUESTION], return_tensors="pt")
    return processor(images=pictures[0] if pictures else None, text=QUESTION, return_tensors="pt")


def said(model, given, processor):
    length = given["input_ids"].shape[1]
    new = model.generate(**given, max_new_tokens=6, do_sample=False)
    return processor.tokenizer.decode(new[0, length:] if new.shape[1] > 6 else new[0], skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_are_those_of_transformers(checkpoint, kind):
    folder, theirs, processor = checkpoint(kind)
    ours, given = load(folder), asked(kind, processor, [picture(1)])
    batch = ours.processor.prompt([(picture(1), QUESTION)], plan=ours.model.plan)
    assert torch.equal(batch.input_ids, given["input_ids"])
    torch.testing.assert_close(
        batch.visual.values, given["pixel_values"].view_as(batch.visual.values), atol=1e-6, rtol=0
    )
    if kind.startswith("instructblip"):
        assert torch.equal(batch.question, given["qformer_input_ids"])
    told = ours.answer(picture(1), QUESTION, max_new_tokens=6)
    assert told.text == said(theirs, given, processor) and told.text
    with torch.no_grad():
        mine, other = (ours.model(replace(batch, visual=Pixels.whole(one))).logits for one in seen(batch, -1))
        torch.testing.assert_close(mine, theirs(**given).logits, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(other[:, -1], mine[:, -1], atol=1e-3)


def seen(batch, sign):
    return batch.visual.values, sign * batch.visual.values


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_it_answers_as_before(checkpoint, kind):
    folder, _, _ = checkpoint(kind)
    ours = load(folder)
    again = load(ours.save(folder / "run"))
    assert again.answer(picture(1), QUESTION, max_new_tokens=6) == ours.answer(picture(1), QUESTION, max_new_tokens=6)


def test_pictures_in_a_row_share_the_word_between_them(checkpoint):
    folder, theirs, processor = checkpoint("idefics")
    ours, pictures = load(folder), [picture(1), picture(2)]
    given = asked("idefics", processor, pictures)
    batch = ours.processor.prompt([(pictures, QUESTION)], plan=ours.model.plan)
    assert torch.equal(batch.input_ids, given["input_ids"])
    with torch.no_grad():
        torch.testing.assert_close(ours.model(batch).logits, theirs(**given).logits, atol=1e-5, rtol=1e-5)
    assert ours.answer(pictures, QUESTION, max_new_tokens=6).text == said(theirs, given, processor)


@pytest.mark.parametrize("kind", ["blip2, opt", "idefics"])
def test_text_alone_begins_as_there(checkpoint, kind):
    folder, _, processor = checkpoint(kind)
    ours = load(folder)
    given = asked(kind, processor, [])["input_ids"]
    assert torch.equal(ours.processor.prompt([(None, QUESTION)], plan=ours.model.plan).input_ids, given)


def test_each_image_hears_its_own_question(checkpoint):
    folder, _, processor = checkpoint("instructblip, opt")
    ours, texts = load(folder), [QUESTION, "yes no"]
    given = processor(images=[picture(1), picture(2)], text=texts, return_tensors="pt", padding=True)
    batch = ours.processor.prompt(list(zip([picture(1), picture(2)], texts, strict=True)), plan=ours.model.plan)
    heard = given["qformer_input_ids"].masked_fill(given["qformer_attention_mask"] == 0, -1)
    assert torch.equal(batch.question, heard)
