"""An encoder that is trained already stands in a recipe's place by one setting: a checkpoint or a run."""

import json
from pathlib import Path

import pytest
import torch
import transformers as hf
import yaml
from PIL import Image

import foveal
from foveal.cli.main import run
from foveal.weights.files import write_json

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {**SMALL, "vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
LOOK = {"size": {"height": 16, "width": 16}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.3, 0.3]}
FLEXIBLE = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 4, "max_num_patches": 16}
TOWER = {**SMALL, "patch_size": 4, "image_size": 16}
KINDS = {
    "clip": lambda: hf.CLIPModel(hf.CLIPConfig(text_config=TEXT, vision_config=TOWER)),
    "siglip": lambda: hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=TOWER)),
    "siglip alone": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**TOWER)),
    "siglip2": lambda: hf.Siglip2Model(
        hf.Siglip2Config(text_config=TEXT, vision_config={**SMALL, "patch_size": 4, "num_patches": 16})
    ),
    "dinov2": lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**TOWER)),
}
RECIPE = {
    "model": {
        "connector": {"name": "mlp", "depth": 2},
        "language": {"name": "decoder", "width": 16, "depth": 1, "heads": 2, "kv_heads": 2, "inner": 24, "context": 64},
    },
    "processor": {"template": "plain", "context": 64, "image": {"size": 32}},
    "training": {"stages": [{"name": "all", "steps": 2, "batch_size": 2, "train": ["connector", "language"]}]},
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    lines = []
    for place, colour in enumerate(["red", "blue"]):
        Image.new("RGB", (20, 16), colour).save(f"data/{place}.png")
        content = [{"type": "image"}, {"type": "text", "text": "what colour is it"}]
        said = [{"role": "user", "content": content}, {"role": "assistant", "content": colour}]
        lines.append({"id": str(place), "images": [f"{place}.png"], "messages": said})
    Path("data/train.jsonl").write_text("\n".join(json.dumps(one) for one in lines))
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE))


def checkpoint(kind):
    torch.manual_seed(0)
    KINDS[kind]().save_pretrained("tower")
    named = {"clip": "CLIP", "dinov2": "Bit"}.get(kind, "Siglip")
    crop = {"crop_size": {"height": 16, "width": 16}} if named != "Siglip" else {}
    look = FLEXIBLE if kind == "siglip2" else {**LOOK, **crop, "image_processor_type": f"{named}ImageProcessor"}
    write_json(Path("tower/preprocessor_config.json"), look)


def same(run, source):
    theirs, ours = source.state_dict(), run.model.vision.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(weight, theirs[name]) for name, weight in ours.items())


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_brings_weights_settings_and_its_pictures(place, kind):
    checkpoint(kind)
    assert run(["train", "recipe.yaml", "--data", "data", "model.vision=tower"]) == 0
    made = foveal.load("runs/recipe")
    same(made, foveal.load("tower").vision)
    assert made.processor.config.image.mean == ((0.5, 0.5, 0.5) if kind == "siglip2" else (0.4, 0.5, 0.6))
    answer = made.answer("data/0.png", "what colour is it", max_new_tokens=2)
    assert answer.visual_tokens == 16


def test_other_taps_beside_it_and_a_run_in_its_place(place, capsys):
    checkpoint("clip")
    tapped = "model.vision={from: tower, layers: [-1, 1], image: {resample: bilinear}}"
    assert run(["train", "recipe.yaml", "--data", "data", tapped]) == 0
    made = foveal.load("runs/recipe")
    assert made.model.config.vision.settings.layers == (-1, 1)
    assert (made.processor.config.image.resample, made.processor.config.image.mean[0]) == ("bilinear", 0.4)
    assert run(["train", "recipe.yaml", "--data", "data", "model.vision=runs/recipe", "--out", "second"]) == 0
    second = foveal.load("second")
    same(second, made.model.vision)
    assert second.processor.config.image == made.processor.config.image
    for wrong, told in {
        "model.vision=towre": "unknown vision 'towre'",
        "model.vision={from: tower, layer: [-1]}": "did you mean 'layers'",
    }.items():
        assert run(["train", "recipe.yaml", "--data", "data", wrong]) == 2
        assert told in capsys.readouterr().err
