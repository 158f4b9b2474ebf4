"""The front door: what `foveal.load` and `foveal.build` take and refuse."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import foveal
import foveal.recipes
from foveal.core.errors import InputError
from foveal.models.config import ModelConfig
from tests.models.test_causal import TINY

RECIPES = Path(foveal.recipes.__path__[0])


def test_build_takes_an_object_a_mapping_and_a_file(tmp_path):
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"model": TINY}))
    counts = []
    for config in (ModelConfig.parse(TINY), TINY, {"model": TINY}, tmp_path / "model.yaml"):
        counts.append(sum(p.numel() for p in foveal.build(config).parameters()))
    assert len(set(counts)) == 1


def test_build_takes_a_recipe_whose_words_are_known():
    recipe = yaml.safe_load((RECIPES / "demo.yaml").read_text())
    with pytest.raises(InputError, match=r"words are those of its training data; give model.language a vocabulary"):
        foveal.build(RECIPES / "demo.yaml")
    recipe["model"]["language"]["vocabulary"] = 300
    assert foveal.build(recipe).model.language.vocabulary == 300
    assert foveal.build(RECIPES / "vq.yaml").processor is None
    with pytest.raises(InputError, match=r"init.from starter starts from a run; load that run, or train the recipe"):
        foveal.build(RECIPES / "evidence.yaml")


def test_a_fresh_model_follows_the_seed():
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(foveal.build(TINY).model.connector.maps[0].weight)
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**TINY, "connector": {"name": "mpl"}}, "did you mean 'mlp'"),
        ({**TINY, "connector": "identity"}, "vision has 12 and language 16"),
        ({"model": TINY, "init": {"vison": "imagenet"}}, "did you mean 'vision'"),
        ({"model": TINY, "init": {"vision": "imagenet"}}, "imagenet weights are for vision efficientnet_lite, not vit"),
        ({**TINY, "connector": 5}, "connectors: 5 is no component"),
        ({**TINY, "connector": {"name": "mlp", "depth": 0}}, "model.connector.depth is 0; give 1 or more"),
        ({**TINY, "language": {**TINY["language"], "width": 0}}, "model.language.width is 0; give 1 or more"),
        ({**TINY, "language": {**TINY["language"], "depth": -1}}, "model.language.depth is -1; give 0 or more"),
        ("nowhere.yaml", "there is no config nowhere.yaml"),
    ],
)
def test_build_refuses_in_one_line(config, message):
    with pytest.raises(InputError, match=message):
        foveal.build(config)


def test_load_refuses_in_one_line(tmp_path):
    with pytest.raises(InputError, match="there is no directory"):
        foveal.load(tmp_path / "nothing")
    with pytest.raises(InputError, match="unknown format 'huggingfase'; did you mean 'huggingface'"):
        foveal.load(tmp_path, format="huggingfase")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bloom"}))
    with pytest.raises(InputError, match=r"holds a 'bloom' model; Foveal loads llava, .*llama"):
        foveal.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llavva"}))
    with pytest.raises(InputError, match="holds a 'llavva' model; did you mean 'llava'"):
        foveal.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 32}))
    with pytest.raises(InputError, match="names no model_type; write it there, one of llava, ") as told:
        foveal.load(tmp_path)
    kinds = str(told.value).partition("one of ")[2].split(", ")
    assert len(kinds) == len(set(kinds))
    with pytest.raises(InputError, match="did you mean 'float32'"):
        foveal.load(tmp_path, dtype="float23")
    for dtype in ("int8", torch.bool):
        with pytest.raises(InputError, match=r"dtype .* holds no fractions, as weights need; give float32, bfloat16"):
            foveal.load(tmp_path, dtype=dtype)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"vision_config": {"model_type": "clip_vision_model"}}, "config.json of a llava lacks text_config, which is"),
        ({"text_config": {}}, "config.json of a llava lacks vision_config, which is an object of settings; copy it"),
        ({"text_config": "x", "vision_config": {}}, "config.json of a llava holds 'x' as text_config"),
        ({"model_type": "qwen2_vl", "text_config": "x"}, "config.json of a qwen2_vl cannot be read"),
    ],
)
def test_a_damaged_config_is_told_with_its_part(tmp_path, config, said):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", **config}))
    with pytest.raises(InputError, match=said):
        foveal.load(tmp_path)


@pytest.mark.parametrize(
    ("config", "format", "said"),
    [
        ({}, "foveal", r"format 'foveal', but .* holds no config\.yaml; give a run, or leave format out"),
        ({"multiway": True, "encoder_embed_dim": 8}, "pix2seq", "format 'pix2seq', but .* holds a 'beit3' model"),
        ({"num_bins": 4, "num_classes": 2, "max_len": 9, "pad_idx": 0}, "beit3", "holds a 'pix2seq' model"),
        ({"model_type": "visual_bert"}, "vilbert", "holds a 'visual_bert' model"),
        ({"hidden_size": 8}, "vilbert", 'holds a \'unknown\' model .*write "model_type": "vilbert" there'),
    ],
)
def test_a_directory_of_another_format_is_told_with_both(tmp_path, config, format, said):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=said):
        foveal.load(tmp_path, format=format)


@pytest.mark.parametrize("device", ["gpu", "cuda:99", torch.device("cuda", 99)])
def test_a_device_that_is_not_there_is_told(device):
    with pytest.raises(InputError, match=r"device '(gpu|cuda:99)' is none that this torch has; give one of cpu"):
        foveal.load("starter", device=device)


def test_importing_is_light():
    import subprocess
    import sys

    code = "import foveal, sys; print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = foveal.laod
