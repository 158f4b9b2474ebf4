"""Small tokenizers of the three kinds that matter, and a plan as a model makes it."""

import pytest
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from foveal.core.example import Box, Example
from foveal.core.types import Layout
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer

TEXTS = [
    "What is in the top left?",
    "How many cats are there? There are 12 of them, I think.",
    "Is there a red apple next to the dog's house? yes no",
    "user assistant system question: answer: USER: ASSISTANT: 2",
]


def word_level():
    return word_tokenizer(TEXTS, phrases=["red apple", "top left"])


def byte_level():
    """As SmolLM2 and Qwen2: bytes, no start token, ChatML tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )


def llama_like():
    """As Llama 2 and Vicuna: a space before the first word, bytes as a fallback, a start token, `<image>`."""
    pieces = sorted({word for text in TEXTS for word in text.split()})
    letters = sorted({letter for text in TEXTS for letter in text if letter != " "})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *letters]
    merges: list[tuple[str, str]] = []
    for piece in pieces:
        word = "\u2581"
        for letter in piece:
            if word + letter not in tokens:
                tokens.append(word + letter)
                merges.append((word, letter))
            word += letter
    tokens = list(dict.fromkeys(tokens))
    model = models.BPE(
        {t: i for i, t in enumerate(tokens)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    strip = decoders.Strip(" ", 1, 0)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), strip]
    )
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in ("<unk>", "<s>", "</s>", "<image>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>"],
    )


KINDS = {"plain": word_level, "chatml": byte_level, "qa": byte_level, "vicuna": llama_like}


@pytest.fixture(scope="session")
def tokenizers():
    """A tokenizer for each template."""
    return {name: make() for name, make in KINDS.items()}


@pytest.fixture(scope="session")
def processor(tokenizers):
    """`processor("vicuna", order="prefix")` on 8 x 8 pixels."""

    def make(template="plain", **settings):
        config = {"image": ImageTransform(size=8, resample="bilinear"), **settings}
        return Processor(tokenizer=tokenizers[template], config=ProcessorConfig(template=template, **config))

    return make


@pytest.fixture(scope="session")
def plan():
    """`plan(rows, columns)` gives every image that grid."""

    def of(rows=2, columns=2):
        return lambda sizes: Layout.of_grids([(rows, columns)] * len(sizes))

    return of


@pytest.fixture(scope="session")
def example():
    """`example("What?", "A cat.", images=2)`: alternating questions and answers, the images in the first question."""

    def make(*texts, images=1, pictures=None, boxes=(), name="e"):
        pictures = tuple(pictures) if pictures is not None else tuple(picture(i) for i in range(images))
        messages = []
        for place, text in enumerate(texts):
            parts = [{"type": "image"} for _ in pictures] if place == 0 else []
            role = ("user", "assistant")[place % 2]
            messages.append({"role": role, "content": [*parts, {"type": "text", "text": text}]})
        boxes = tuple(Box(label=label, xyxy=xyxy) for label, xyxy in boxes)
        return Example(id=name, messages=tuple(messages), images=pictures, boxes=boxes)

    return make


def picture(number, size=(12, 10)):
    return Image.new("RGB", size, (number * 40 % 256, 10, 200))
