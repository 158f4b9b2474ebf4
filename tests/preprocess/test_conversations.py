"""Conversations of several turns: the tokens that the checkpoint's own template makes of them in transformers."""

from copy import deepcopy

import pytest
from PIL import Image

from foveal.core.example import Example
from foveal.preprocess.processor import Processor, ProcessorConfig
from tests.preprocess.conftest import byte_level, llama_like

WORDS = ("<image>", "<|vision_start|>", "<|vision_end|>", "<end_of_utterance>", "<|eot_id|>")
PARTS = "{% for p in m['content'] %}{{ 'IMAGE' if p['type'] == 'image' else p['text'] }}{% endfor %}"
TEMPLATES = {
    "llava": (
        "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['role'].upper() + ': ' }}{% endif %}"
        "{% for p in m['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
        "{% for p in m['content'] | selectattr('type', 'equalto', 'text') %}{{ p['text'] + ' ' }}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
    "qwen2_vl": (
        "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
        "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
        "{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
        + PARTS.replace("IMAGE", "<|vision_start|><image><|vision_end|>")
        + "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "smolvlm": (
        "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
        "{{ ':' if m['content'][0]['type'] == 'image' else ': ' }}"
        + PARTS.replace("IMAGE", "<image>")
        + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
    ),
    "mllama": (
        "{{ bos_token }}{% set seen = namespace(any=false) %}{% for m in messages %}{% for p in m['content'] %}"
        "{% if p['type'] == 'image' %}{% set seen.any = true %}{% endif %}{% endfor %}{% endfor %}"
        "{% if not seen.any %}{{ 'system: a date<|eot_id|>' }}{% endif %}{% for m in messages %}"
        "{{ m['role'] + '\n\n' }}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
        + PARTS.replace("IMAGE", "<image>")
        + "{% endif %}<|eot_id|>{% endfor %}{% if add_generation_prompt %}{{ 'assistant\n\n' }}{% endif %}"
    ),
    "vicuna": (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}{% elif m['role'] == 'user' %}"
        "{{ ' USER: ' + m['content'].strip() }}{% else %}{{ ' ASSISTANT: ' + m['content'].strip() + eos_token }}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
    ),
    "thinking": (
        "{% for m in messages %}{% set said = m['content'].split('</think>')[-1] if m['role'] == 'assistant' else "
        "m['content'] %}{{ '<|im_start|>' + m['role'] + '\n' + said + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}
IMAGE = {"type": "image"}


def said(role, *parts):
    return {"role": role, "content": [IMAGE if one is None else {"type": "text", "text": one} for one in parts]}


CONVERSATIONS = {
    "two turns": [said("user", None, "What is it?"), said("assistant", "a cat"), said("user", "Is it red?")],
    "an image later": [said("user", "What?"), said("assistant", "yes"), said("user", None, "And in this?")],
    "images in several": [
        *(said("user", None, "What is it?"), said("assistant", "a cat")),
        *(said("user", None, "Is it?"), said("assistant", "no"), said("user", "And there?")),
    ],
    "a system": [
        *(said("system", "Be brief."), said("user", None, "What?")),
        *(said("assistant", "a cat"), said("user", "Is it red?")),
    ],
    "an empty answer": [said("user", None, "What?"), said("assistant", ""), said("user", "Is it?")],
    "outer spaces": [said("user", None, " What? "), said("assistant", " a cat\n"), said("user", " Is it? ")],
    "thoughts": [said("user", None, "What?"), said("assistant", "<think>hm</think>a cat"), said("user", "Is it?")],
    "an answer first": [said("assistant", "yes"), said("user", None, "Is it?")],
    "an end in an answer": [said("user", None, "What?"), said("assistant", "a <|im_end|> b"), said("user", "Is it?")],
}


@pytest.fixture(params=[byte_level, llama_like], ids=["bytes", "llama"])
def asking(request):
    """A processor of a template, and its tokenizer."""
    tokenizer = request.param()
    tokenizer.add_special_tokens({"additional_special_tokens": list(WORDS)})
    tokenizer.bos_token = tokenizer.bos_token or "<|endoftext|>"

    def make(template):
        own = deepcopy(tokenizer)
        own.chat_template = TEMPLATES.get(template, template)
        return Processor(tokenizer=own, config=ProcessorConfig(template="tokenizer")), own

    return make


def theirs(tokenizer, messages):
    """What transformers makes of a conversation, as its template takes it."""
    if "'image'" not in tokenizer.chat_template:
        texts = ["".join("<image>\n" if p is IMAGE else p["text"] for p in one["content"]) for one in messages]
        messages = [{**one, "content": text} for one, text in zip(messages, texts, strict=True)]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=not text.startswith(tokenizer.bos_token))["input_ids"]


def ours(processor, messages, plan):
    images = [part for one in messages if isinstance(one["content"], list) for part in one["content"] if part is IMAGE]
    pictures = (Image.new("RGB", (9, 9)),) * len(images)
    return processor.prompt([Example(id="7", messages=tuple(messages), images=pictures)], plan=plan(1, 1))


@pytest.mark.parametrize("named", CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_conversation_has_the_tokens_of_transformers(asking, plan, template, named):
    processor, tokenizer = asking(template)
    messages = CONVERSATIONS[named]
    assert ours(processor, messages, plan).input_ids[0].tolist() == theirs(tokenizer, messages)


@pytest.mark.parametrize("template", ["llava", "qwen2_vl"])
def test_an_image_in_an_answer_is_written_as_the_template_does_it(asking, plan, template):
    processor, tokenizer = asking(template)
    messages = [said("user", "What?"), said("assistant", "yes ", None), said("user", "Is it?")]
    assert ours(processor, messages, plan).input_ids[0].tolist() == theirs(tokenizer, messages)


@pytest.mark.parametrize("template", ["llava", "smolvlm"])
def test_text_by_itself_is_a_part_for_a_template_of_parts(asking, plan, template):
    processor, tokenizer = asking(template)
    short = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "yes"}, said("user", "Is it?")]
    whole = [said("user", "What?"), said("assistant", "yes"), said("user", "Is it?")]
    assert ours(processor, short, plan).input_ids[0].tolist() == theirs(tokenizer, whole)
    silent = [said("user", "What?"), said("assistant"), said("user", "Is it?")]
    empty = [said("user", "What?"), said("assistant", ""), said("user", "Is it?")]
    assert ours(processor, silent, plan).input_ids[0].tolist() == theirs(tokenizer, empty)


@pytest.mark.parametrize("template", TEMPLATES)
def test_what_was_answered_steers_no_sight(asking, plan, template):
    processor, tokenizer = asking(template)
    one, other = (
        ours(processor, [said("user", None, "What is it?"), said("assistant", text), said("user", "And?")], plan)
        for text in ("a cat", "the house")
    )
    read = one.input_ids[one.prompt].tolist()
    assert read == other.input_ids[other.prompt].tolist() == one.input_ids[0, : len(read)].tolist()
    assert "What is it?" in tokenizer.decode(read) and "cat" not in tokenizer.decode(read)
