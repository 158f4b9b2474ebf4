import json

import pytest
import torch
import yaml
from PIL import Image

from foveal.core.errors import InputError
from foveal.preprocess import store
from foveal.preprocess.processor import Processor
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer

LLAVA = {
    "model_type": "llava",
    "vision_config": {},
    "image_token_index": 5,
    "text_config": {"max_position_embeddings": 77},
}
IMAGE = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": 8},
    "crop_size": {"height": 8, "width": 8},
}


def same(a, b, plan):
    rows = [(Image.new("RGB", (20, 10), "red"), "What is there? cats"), (None, "yes")]
    x, y = a.prompt(rows, plan=plan()), b.prompt(rows, plan=plan())
    assert torch.equal(x.input_ids, y.input_ids)
    assert torch.equal(x.visual.values, y.visual.values)
    assert a.stop_ids == b.stop_ids


@pytest.mark.parametrize("template", ["plain", "chatml", "vicuna"])
def test_saved_and_loaded(processor, plan, tmp_path, template):
    made = processor(template, order="prefix", image=ImageTransform(size=(8, 4), mode="letterbox"))
    (tmp_path / "config.yaml").write_text("model: {name: x}\n")
    made.save(tmp_path)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["model"] == {"name": "x"}
    for again in (Processor.load(tmp_path), Processor.from_settings(made.settings(), tmp_path)):
        assert again.config == made.config
        same(made, again, plan)
    assert "<image>" in made.tokenizer.get_vocab() or template == "chatml"


def test_a_directory_without_what_is_needed(tmp_path, processor):
    with pytest.raises(InputError, match=r"has no config.yaml; name a run directory"):
        Processor.load(tmp_path)
    (tmp_path / "config.yaml").write_text("model: 1\n")
    with pytest.raises(InputError, match="has no 'processor' part"):
        Processor.load(tmp_path)
    (tmp_path / "config.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="holds list, not keys and values"):
        Processor.load(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [\n")
    with pytest.raises(InputError, match="is not YAML"):
        Processor.load(tmp_path)
    with pytest.raises(InputError, match=r"is not YAML: .* \(line \d+, column \d+\); mend or restore it"):
        Processor.load(tmp_path)
    (tmp_path / "config.yaml").write_bytes(b"\xff\xff: 1")
    with pytest.raises(InputError, match=r"is not YAML: .*; mend or restore it"):
        Processor.load(tmp_path)
    (tmp_path / "config.yaml").write_text("processor: {contxt: 5}\n")
    with pytest.raises(InputError, match="unknown key in processor: 'contxt'; did you mean 'context'"):
        Processor.load(tmp_path)
    (tmp_path / "config.yaml").write_text("processor: {context: 5}\n")
    with pytest.raises(InputError, match=r"holds no tokenizer that loads .*add its tokenizer.json"):
        Processor.load(tmp_path)
    with pytest.raises(InputError, match=r"is no directory; name one that holds a tokenizer.json"):
        Processor.from_settings({}, tmp_path / "none")


def checkpoint(folder, tokenizer, config=LLAVA, image=IMAGE, template=None):
    tokenizer.save_pretrained(folder)
    index = tokenizer.convert_tokens_to_ids("<image>")
    (folder / "config.json").write_text(json.dumps({**config, "image_token_index": index}))
    if image:
        (folder / "preprocessor_config.json").write_text(json.dumps(image))
    if template:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    return Processor.from_huggingface(folder)


def test_a_llava_checkpoint_is_asked_as_vicuna(tokenizers, plan, tmp_path):
    made = checkpoint(tmp_path, tokenizers["vicuna"])
    assert (made.config.template, made.config.context, made.config.marker) == ("vicuna", 77, "<image>")
    assert made.transform.mode == "shortest_crop"
    batch = made.prompt([(Image.new("RGB", (20, 10)), "What is there?")], plan=plan())
    text = "USER: <image>\nWhat is there? ASSISTANT:".replace("<image>", "<image>" * 4)
    assert batch.input_ids[0].tolist() == tokenizers["vicuna"](text)["input_ids"]


def test_a_checkpoints_own_template_comes_first(tokenizers, plan, tmp_path):
    template = "{% for m in messages %}{{ 'USER: ' + m['content'] }}{% endfor %}{{ ' ASSISTANT:' }}"
    made = checkpoint(tmp_path, tokenizers["vicuna"], template=template)
    assert made.config.template == "tokenizer"
    batch = made.prompt([(Image.new("RGB", (20, 10)), "is it")], plan=plan(1, 1))
    assert batch.input_ids[0].tolist() == tokenizers["vicuna"]("USER: <image>\nis it ASSISTANT:")["input_ids"]
    made.save(tmp_path / "again")
    same(made, Processor.load(tmp_path / "again"), plan)
    (tmp_path / "chat_template.json").unlink()
    (tmp_path / "chat_template.jinja").write_text(template)
    same(made, Processor.from_huggingface(tmp_path), plan)


def test_of_two_files_the_one_is_read_that_transformers_reads(tokenizers, tmp_path):
    from transformers.image_processing_utils import BaseImageProcessor
    from transformers.video_processing_utils import BaseVideoProcessor

    said = "{{ 'USER: ' + messages[0]['content'] }}"
    checkpoint(tmp_path, tokenizers["vicuna"], template=said)
    (tmp_path / "chat_template.jinja").write_text("no")
    nested = {"image_processor": {**IMAGE, "image_mean": [0.1, 0.2, 0.3]}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    made = Processor.from_huggingface(tmp_path)
    wanted = BaseImageProcessor.get_image_processor_dict(tmp_path)[0]["image_mean"]
    assert made.transform.mean == tuple(wanted) == (0.1, 0.2, 0.3)
    assert made.tokenizer.chat_template == said
    (tmp_path / "processor_config.json").unlink()
    area = {"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 4, "min_pixels": 64, "max_pixels": 4096}
    limits = [area, {**area, "max_pixels": 2048}, {**area, "max_pixels": 1024}]
    checkpoint(tmp_path, tokenizers["vicuna"], config={**LLAVA, "model_type": "qwen2_vl"}, image=area)
    for put, limit in zip(("preprocessor_config", "video_preprocessor_config", None), limits, strict=True):
        where = tmp_path / f"{put or 'processor_config'}.json"
        where.write_text(json.dumps(limit if put else {"image_processor": area, "video_processor": limit}))
        theirs = BaseVideoProcessor.get_video_processor_dict(tmp_path)[0]
        wanted = (theirs["min_pixels"], theirs["max_pixels"])
        assert Processor.from_huggingface(tmp_path).transform.tiling.film == wanted == (64, limit["max_pixels"])


def test_of_a_list_of_templates_the_default_is_taken(tokenizers, plan, tmp_path):
    named = [
        {"name": "rag", "template": "no"},
        {"name": "default", "template": "{{ 'USER: ' + messages[0]['content'] }}"},
    ]
    asked = checkpoint(tmp_path, tokenizers["vicuna"], template=named).prompt([(None, "is it")], plan=plan())
    assert asked.input_ids[0].tolist() == tokenizers["vicuna"]("USER: is it")["input_ids"]


def test_the_processor_of_transformers_gives_the_same_prompt(tokenizers, plan, tmp_path):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.llava.processing_llava import LlavaProcessor

    made = checkpoint(tmp_path, tokenizers["vicuna"])
    theirs = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(**{k: v for k, v in IMAGE.items() if "type" not in k}),
        tokenizer=tokenizers["vicuna"],
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    image = Image.effect_noise((20, 10), 50).convert("RGB")
    wanted = theirs(images=image, text="USER: <image>\nWhat is there? ASSISTANT:", return_tensors="pt")
    batch = made.prompt([(image, "What is there?")], plan=plan())
    assert torch.equal(batch.input_ids, wanted["input_ids"])
    assert torch.equal(batch.visual.values, wanted["pixel_values"])


def test_a_plain_language_model_has_no_pictures(tokenizers, plan, tmp_path):
    config = {"model_type": "llama", "max_position_embeddings": 99}
    tokenizers["chatml"].save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = Processor.from_huggingface(tmp_path)
    assert (made.config.template, made.config.context) == ("qa", 99)
    assert made.prompt([(None, "cats?")], plan=plan()).visual is None


def test_checkpoints_with_something_missing_or_broken(tokenizers, tmp_path):
    with pytest.raises(InputError, match=r"has no preprocessor_config.json; copy it"):
        checkpoint(tmp_path, tokenizers["vicuna"], image=None)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match=r"preprocessor_config.json is not JSON"):
        Processor.from_huggingface(tmp_path)
    for name in ("processor_config.json", "tokenizer_config.json"):
        before = (tmp_path / name).read_text() if (tmp_path / name).exists() else "{}"
        (tmp_path / name).write_text("[]")
        with pytest.raises(InputError, match=f"{name} holds a list, not an object; copy it again"):
            Processor.from_huggingface(tmp_path)
        (tmp_path / name).write_text(before)
    for content in ("{}", "[]", ""):
        (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(InputError, match="holds no tokenizer that loads"):
            Processor.from_huggingface(tmp_path)


@pytest.mark.parametrize("named", ["TheirOwnTokenizer", None])
def test_words_of_a_kind_that_nobody_knows_are_those_of_tokenizer_json(tmp_path, capfd, named):
    """A class of the checkpoint's own, or a model type that transformers has not: no code, no warning, the same ids."""
    words = word_tokenizer(["what is it ?"])
    words.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "tokenizer_config.json").read_text())
    told = {**told, "tokenizer_class": named, "auto_map": {"AutoTokenizer": ["own.TheirOwnTokenizer", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in told.items() if v is not None}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "zzz"}))
    assert store.tokenizer(tmp_path)("what is it?")["input_ids"] == words("what is it?")["input_ids"]
    assert "zzz" not in capfd.readouterr().err
