"""Processors of checkpoints that cut images: the same tokens and the same pixels as transformers makes of them."""

import importlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.front import load
from foveal.models.budget import endow
from tests.preprocess.conftest import byte_level
from tests.weights import test_idefics2, test_idefics3, test_llava_next, test_mllama, test_ovis2

WORDS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<|image|>", "<video>")
MARKS = ("<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")
PLACES = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}:{% for p in m['content'] %}{% if p['type'] == 'image' %}IMAGE"
    "{% else %}{{ p['text'] }}{% endif %}{% endfor %}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def words(marker="<image>"):
    """A tokenizer with every word that stands around images, and a chat template that places these."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": [*WORDS, *PLACES, *MARKS]})
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.chat_template = "{{ bos_token }}" + TEMPLATE.replace("IMAGE", marker)
    return tokenizer


KINDS = {
    "idefics3": (
        "Idefics3",
        {"size": {"longest_edge": 48}, "max_image_size": {"longest_edge": 16}},
        {"image_seq_len": 4},
    ),
    "idefics3 of no whole patches": (
        "Idefics3",
        {"size": {"longest_edge": 54}, "max_image_size": {"longest_edge": 18}},
        {"image_seq_len": 4},
    ),
    "llava_next": (
        "LlavaNext",
        {
            **{"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}},
            "image_grid_pinpoints": test_llava_next.PINPOINTS["LlavaNext"],
        },
        {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "llava_onevision": (
        "LlavaOnevision",
        {
            "size": {"height": 24, "width": 24},
            "image_grid_pinpoints": test_llava_next.PINPOINTS["LlavaOnevision"],
        },
        {
            "video_processor": None,
            "num_image_tokens": 9,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_2",
        },
    ),
    "idefics2": ("Idefics2", {"size": {"shortest_edge": 8, "longest_edge": 20}}, {"image_seq_len": 3}),
    "mllama": ("Mllama", {"size": {"height": 8, "width": 8}}, {}),
    "ovis2": (
        "Ovis2",
        {"size": {"height": 24, "width": 24}, "crop_to_patches": True, "max_patches": 6},
        {"image_seq_length": 4},
    ),
}


def theirs(kind, tokenizer):
    """A processor of transformers with its Pillow-backed image processor."""
    (name, look, settings), kind = KINDS[kind], kind.split()[0]
    pil = importlib.import_module(f"transformers.models.{kind}.image_processing_pil_{kind}")
    image = getattr(pil, f"{name}ImageProcessorPil")(**look)
    of = getattr(importlib.import_module(f"transformers.models.{kind}.processing_{kind}"), f"{name}Processor")
    return of(image_processor=image, tokenizer=tokenizer, chat_template=tokenizer.chat_template, **settings)


def picture(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def model(kind, tokenizer):
    count, image = len(tokenizer), tokenizer.convert_tokens_to_ids("<|image|>" if kind == "mllama" else "<image>")
    if kind.startswith("idefics3"):
        side = KINDS[kind][1]["max_image_size"]["longest_edge"]
        return test_idefics3.reference(0, vocabulary=count, image=image, side=side)
    if kind == "llava_next":
        return test_llava_next.reference(0, vocabulary=count, image=image)
    if kind == "llava_onevision":
        return test_llava_next.reference(0, "LlavaOnevision", vocabulary=count, image=image)
    if kind == "ovis2":
        image, *marks = tokenizer.convert_tokens_to_ids(list(MARKS))
        return test_ovis2.reference(0, vocabulary=count, image=image, marks=marks, vision={"hidden_stride": 2})
    if kind == "idefics2":
        return test_idefics2.reference(0, text={"vocab_size": count, "max_position_embeddings": 512}, image=image)
    return test_mllama.reference(0, text={"vocab_size": image, "max_position_embeddings": 512}, image=image)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A directory of a tiny model with the tokenizer's words, and the processor of transformers for it."""
    monkeypatch.setattr(  # one of videos wants torchvision
        "transformers.processing_utils.ProcessorMixin.check_argument_for_proper_class", lambda *given: None
    )

    def make(kind):
        tokenizer = words("<|image|>" if kind == "mllama" else "<image>")
        made = model(kind, tokenizer)
        made.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        name, look, _ = KINDS[kind]
        described = {"image_processor_type": f"{name}ImageProcessor", **look}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(described))
        return tmp_path, made, theirs(kind, tokenizer)

    return make


CONVERSATIONS = [[(30, 50)], [(16, 16), (90, 21)], [(5, 200)]]


@pytest.mark.parametrize("sizes", CONVERSATIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_asks_as_transformers_does(checkpoint, kind, sizes):
    folder, reference, processor = checkpoint(kind)
    ours, pictures = load(folder), [picture(size, seed) for seed, size in enumerate(sizes)]
    question = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": "what is there? "}]
    text = processor.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
    nested = pictures if kind in ("llava_next", "ovis2") else [pictures]
    given = processor(images=nested, text=[text], return_tensors="pt")
    batch = ours.processor.prompt([(pictures, "what is there? ")], plan=ours.model.plan)
    assert torch.equal(batch.input_ids, given["input_ids"])
    with torch.no_grad():
        mine, wanted = ours.model(batch).logits, reference(**given).logits
    torch.testing.assert_close(mine[..., : wanted.shape[-1]], wanted, atol=5e-5, rtol=1e-4)
    new = reference.generate(**given, max_new_tokens=5, do_sample=False)[:, given["input_ids"].shape[1] :]
    said = ours.answer(pictures, "what is there? ", max_new_tokens=5)
    assert list(said.token_ids) == new[0, : len(said.token_ids)].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_later_turns_are_asked_about_as_transformers_does(checkpoint, kind):
    folder, _, processor = checkpoint(kind)
    ours, pictures = load(folder), [picture((30, 50)), picture((16, 16), 1)]
    parts = [[{"type": "image"}, {"type": "text", "text": "what?"}], [{"type": "text", "text": "a cat"}]]
    roles = ("user", "assistant", "user")
    messages = [
        {"role": role, "content": content} for role, content in zip(roles, [*parts, parts[0][::-1]], strict=True)
    ]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    nested = pictures if kind in ("llava_next", "ovis2") else [pictures]
    given = processor(images=nested, text=[text], return_tensors="pt")
    example = Example(id="talk", messages=tuple(messages), images=tuple(pictures))
    batch = ours.processor.prompt([example], plan=ours.model.plan)
    assert torch.equal(batch.input_ids, given["input_ids"])


@pytest.mark.parametrize("kind", ["idefics3", "ovis2"])
def test_tiles_of_no_known_image_have_no_budget(checkpoint, kind):
    folder, _, _ = checkpoint(kind)
    model, asked = load(folder), [picture((30, 50))]
    batch = model.processor.prompt([(asked, "what is it")], plan=model.model.plan)
    tiles = batch.visual.values if kind == "ovis2" else batch.visual.values[None]
    given = {"input_ids": batch.input_ids, "pixel_values": tiles}
    assert model.generate(**given, max_new_tokens=2).shape == (1, 2)
    assert model.answer(asked, "what is it", budget=3, max_new_tokens=1).visual_tokens == 3
    with pytest.raises(InputError, match=r"a row of \d tiles under a budget, and .* ask by answer"):
        model.generate(**given, max_new_tokens=2, budget=3)
    endow(model.model, {"name": "foveal", "budget": 3})
    with pytest.raises(InputError, match=r"a row of \d tiles under a budget"):
        model(**given)
