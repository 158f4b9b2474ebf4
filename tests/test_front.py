"""The front door: what `foveal.load` and `foveal.build` take and refuse."""

import ast
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Unpack, get_type_hints

import pytest
import torch
import yaml

import foveal
import foveal.recipes
from foveal import front
from foveal.core.errors import InputError
from foveal.models.asked import Asking, Loaded
from foveal.models.config import ModelConfig
from foveal.models.talk import _WRITING, stream_answer
from foveal.weights.huggingface import HuggingFaceCausal
from foveal.weights.run import Run
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
        ({"model": TINY, "init": "imagenet"}, "init is 'imagenet'; give a mapping from parts to their sources"),
        ({"model": TINY, "init": {"vision": None}}, "init.vision is None; name a source"),
        ({**TINY, "features": "x"}, "model.features is 'x'; give it a value of type int"),
        ({**TINY, "features": True}, "model.features is True; give it a value of type int"),
        ({**TINY, "features": -1}, "model.features is -1; give the width of a region's features, 1 or more"),
        ({**TINY, "heads": 3}, r"model.heads is 3; give it a value of type dict\[str, Any\]"),
        ({**TINY, "assembly": 5}, "model.assembly is 5; give it a value of type str"),
    ],
)
def test_build_refuses_in_one_line(config, message):
    with pytest.raises(InputError, match=message):
        foveal.build(config)


UNTYPED = """
import foveal
from foveal.core.errors import InputError

TINY = {"language": {"name": "decoder", "vocabulary": 10, "width": 8, "depth": 1, "heads": 2}}
asked = [
    *(lambda given=given: foveal.build(given) for given in (None, 5, [], {"model": None}, {"model": "llava"})),
    *(lambda path=path: foveal.load(path) for path in (None, 5)),
    lambda: foveal.load("starter", dtype=5),
    *(lambda path=path: foveal.build(TINY).save(path) for path in (None, 5)),
]
for one in asked:
    try:
        one()
    except InputError as error:
        print(error)
"""
TOLD = [
    *(f"{given} is no config; give a mapping, or the path of a YAML file" for given in ("None", "5", "[]")),
    *(f"model is {given}; give a mapping of its parts, such as vision and language" for given in ("None", "'llava'")),
    *(f"{path} is no path; give a run, a checkpoint, or starter or smollm2-135m" for path in ("None", "5")),
    "unknown dtype '5'; known: bfloat16, float16, float32",
    *(f"{path} is no place for a run; name a directory" for path in ("None", "5")),
]


def test_what_nobody_checks_the_type_of_is_told_in_one_line():
    """In a process of its own: in this one, whatever has another type is refused at the door."""
    done = subprocess.run([sys.executable, "-c", UNTYPED], capture_output=True, text=True)
    assert done.stdout.splitlines() == TOLD, done.stderr


def test_a_run_is_not_saved_in_no_place():
    with pytest.raises(InputError, match="'' is no place for a run; name a directory"):
        foveal.build(TINY).save("")


def test_a_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    saved = foveal.build(TINY).save("~/run")
    assert (
        saved == tmp_path / "run"
        and foveal.load("~/run").model.config == foveal.build("~/run/config.yaml").model.config
    )


def test_who_reads_types_finds_the_front_door():
    tree = ast.parse(Path(foveal.__file__).read_text(encoding="utf-8"))
    typed = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    names = {alias.asname for node in typed for line in node.body for alias in line.names}
    assert names == {*foveal.__all__} - {"__version__"}
    assert all(callable(getattr(foveal, name)) or name == "relevance" for name in names)


def test_what_is_loaded_is_typed():
    assert ast.parse(inspect.getsource(front.load)).body[0].returns.id == "Model"
    for kind in (Loaded, Run, HuggingFaceCausal):
        assert get_type_hints(kind.answer)["settings"] == Unpack[Asking]
    told = {*inspect.signature(stream_answer).parameters} - {"model", "processor", "images", "text", "writing"}
    assert {*Asking.__annotations__} == told | {*_WRITING}


def test_a_training_that_has_not_ended_is_told(tmp_path):
    place = tmp_path / "mine" / "checkpoints" / "step-00000002-stage-00"
    place.mkdir(parents=True)
    (place / "state.json").write_text("{}")
    for given in (tmp_path / "mine", place.parent, place):
        with pytest.raises(InputError, match=r"mine holds a training that has not ended; the foveal train that began"):
            foveal.load(given)
    foveal.build(TINY).save(tmp_path / "mine")
    for given in (place.parent, place):
        with pytest.raises(InputError, match=r"00 holds what .*, and no run; give .*/mine$|checkpoints holds .*/mine$"):
            foveal.load(given)
    foveal.load(tmp_path / "mine")


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
    with pytest.raises(InputError, match="device 'meta' holds no weights, and what is loaded has some; give one of"):
        foveal.load(tmp_path, device="meta")
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
    code = "import foveal, sys; print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_unknown_attribute():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        _ = foveal.laod
