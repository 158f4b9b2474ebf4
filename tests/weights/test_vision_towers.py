"""CLIP and SigLIP towers give the numbers of their references, and go back into their format."""

import json

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

from foveal import front
from foveal.core.errors import InputError
from foveal.core.lookup import build, spec
from foveal.core.types import Pixels
from foveal.weights import vision_towers
from foveal.weights.files import read_checkpoint, write_checkpoint
from foveal.weights.names import Renaming, load_strict
from foveal.weights.pretrained import pretrained

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
REFERENCES = {"clip": (CLIPVisionConfig, CLIPVisionModel), "siglip": (SiglipVisionConfig, SiglipVisionModel)}
SIZES = [
    {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "image_size": 24},
    {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 30},
    {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8},
]


def reference(kind, *, seed=0, attention="sdpa", **settings):
    config, model = REFERENCES[kind]
    torch.manual_seed(seed)
    made = model._from_config(config(**{"patch_size": 8, **settings}), attn_implementation=attention).eval()
    for weight in made.parameters():  # fresh references have zero biases and unit norms, which would hide mistakes
        torch.nn.init.normal_(weight, std=0.3)
    return made


def ours(made, folder, **wanted):
    made.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert vision_towers.matches(config)
    return vision_towers.load(folder, config, **wanted)


def images(*size, seed=1):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(seed))


def compare(mine, theirs):
    torch.testing.assert_close(mine.last_hidden_state, theirs.last_hidden_state, **CLOSE)
    assert (mine.pooler_output is None) == (theirs.pooler_output is None)
    if mine.pooler_output is not None:
        torch.testing.assert_close(mine.pooler_output, theirs.pooler_output, **CLOSE)
    for a, b in zip(mine.hidden_states or (), theirs.hidden_states or (), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("name", ["tower_clip", "tower_siglip"])
@torch.no_grad()
def test_known_answers(known_answers, tmp_path, name):
    known = known_answers(name)
    write_checkpoint(tmp_path, known.weights)
    model = vision_towers.load(tmp_path, known.config)
    output = model(pixel_values=known.inputs["pixel_values"], output_hidden_states=True)
    for i, state in enumerate(output.hidden_states):
        torch.testing.assert_close(state, known.outputs[f"hidden_states.{i}"], **CLOSE)
    torch.testing.assert_close(output.last_hidden_state, known.outputs["last_hidden_state"], **CLOSE)
    torch.testing.assert_close(output.pooler_output, known.outputs["pooler_output"], **CLOSE)
    if "interp" in known.outputs:
        resized = model(known.inputs["pixel_values_interp"], interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(resized, known.outputs["interp"], **CLOSE)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("size", range(len(SIZES)))
@pytest.mark.parametrize("kind", REFERENCES)
@torch.no_grad()
def test_fresh_references(tmp_path, kind, size, attention):
    settings = SIZES[size]
    made = reference(kind, seed=size, attention=attention, **settings)
    mine = ours(made, tmp_path)
    values = images(settings["image_size"], settings["image_size"], seed=size)
    compare(mine(pixel_values=values, output_hidden_states=True), made(values, output_hidden_states=True))
    assert mine(values).hidden_states is None


@pytest.mark.parametrize("size", [(24, 24), (16, 32), (48, 40), (8, 72), (32, 16)])
@pytest.mark.parametrize("kind", REFERENCES)
@torch.no_grad()
def test_interpolated_positions(tmp_path, kind, size):
    made = reference(kind, **SIZES[0])
    values = images(*size)
    mine = ours(made, tmp_path)(values, interpolate_pos_encoding=True, output_hidden_states=True)
    compare(mine, made(values, interpolate_pos_encoding=True, output_hidden_states=True))


@pytest.mark.parametrize("select", ["default", "full"])
@pytest.mark.parametrize("layers", [(-2,), (-1,), (0,), (2,), (-2, 1, -4)])
@pytest.mark.parametrize("kind", REFERENCES)
@torch.no_grad()
def test_taps_are_those_of_llava(kind, layers, select):
    made = reference(kind, **SIZES[0])
    settings = vision_towers.vision_settings(made.config.to_dict(), layers=layers, select=select)
    encoder = build("vision", spec("vision", settings))
    rules = vision_towers.vision_rules(made.config.model_type)
    state = {f"vision_tower.vision_model.{name}": weight for name, weight in made.state_dict().items()}
    state = Renaming(rules).to_ours(state)
    load_strict(encoder, {name.removeprefix("vision."): weight for name, weight in state.items()}, "there")
    hidden = made(images(24, 24), output_hidden_states=True).hidden_states
    wanted = torch.cat([hidden[layer][:, int(select == "default") :] for layer in layers], dim=-1)
    torch.testing.assert_close(encoder(Pixels.whole(images(24, 24))).features, wanted.flatten(0, 1), **CLOSE)


@pytest.mark.parametrize("kind", REFERENCES)
@torch.no_grad()
def test_written_back_the_reference_loads_it(tmp_path, kind):
    made = reference(kind, **SIZES[1])
    mine = ours(made, tmp_path / "theirs")
    mine.save_pretrained(tmp_path / "whole")
    mine.save_pretrained(tmp_path / "shards", max_shard_bytes=9000)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    for folder in (tmp_path / "whole", tmp_path / "shards"):
        again, told = type(made).from_pretrained(folder, output_loading_info=True)
        assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert all(torch.equal(weight, made.state_dict()[name]) for name, weight in again.state_dict().items())
        back = vision_towers.load(folder, json.loads((folder / "config.json").read_text()))
        assert torch.equal(back(images(30, 30)).last_hidden_state, mine(images(30, 30)).last_hidden_state)


@torch.no_grad()
def test_older_spellings_are_read(tmp_path):
    made = reference("clip", **SIZES[2])
    state = {f"vision_model.{name}": weight for name, weight in made.state_dict().items()}
    torch.save({**state, "vision_model.embeddings.position_ids": torch.arange(2)[None]}, tmp_path / "pytorch_model.bin")
    mine = vision_towers.load(tmp_path, made.config.to_dict())
    compare(mine(images(8, 8)), made(images(8, 8)))


def test_a_config_that_leaves_out_defaults_is_filled():
    for config, _ in REFERENCES.values():
        full = config().to_dict()
        short = {"model_type": full["model_type"]}
        assert vision_towers.vision_settings(short) == vision_towers.vision_settings(full)
    without = vision_towers.vision_settings({"model_type": "siglip_vision_model", "vision_use_head": False})
    assert without["pool"] is False


def test_a_siglip_without_head_pools_nothing(tmp_path):
    made = reference("siglip", **SIZES[2], vision_use_head=False)
    with torch.no_grad():
        compare(ours(made, tmp_path)(images(8, 8)), made(images(8, 8)))


def test_dtype_is_cast_and_every_weight_trains(tmp_path):
    made = reference("siglip", **SIZES[2])
    half = ours(made, tmp_path, dtype=torch.bfloat16, device="cpu")
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16} and not half.training
    assert half(images(8, 8)).last_hidden_state.dtype == torch.bfloat16
    half.save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    whole = ours(made, tmp_path)
    output = whole(images(8, 8))
    (output.last_hidden_state.sum() + output.pooler_output.square().sum()).backward()
    assert all(weight.grad is not None for weight in whole.parameters())


def test_every_fault_of_a_checkpoint_is_named(tmp_path):
    made = reference("clip", **SIZES[2])
    ours(made, tmp_path)
    config, state = made.config.to_dict(), read_checkpoint(tmp_path)
    bias = state.pop("encoder.layers.0.mlp.fc1.bias")
    write_checkpoint(tmp_path, {**state, "class_embedding": bias, "post_layernorm.bias": torch.zeros(17)})
    with pytest.raises(InputError) as told:
        vision_towers.load(tmp_path, config)
    assert str(tmp_path) in str(told.value)
    for part in (
        "missing: encoder.layers.0.mlp.fc1.bias",
        "unexpected: class_embedding",
        "post_layernorm.bias [17] where [16] belongs",
    ):
        assert part in str(told.value)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "clip_vision"}, "did you mean 'clip_vision_model'"),
        ({"model_type": "clip_vision_model", "image_size": [24, 32]}, r"image_size is \[24, 32\]"),
        ({"model_type": "clip_vision_model", "hidden_size": "big"}, "width is 'big'"),
    ],
)
def test_other_configs_are_refused(config, told):
    with pytest.raises(InputError, match=told):
        vision_towers.vision_settings(config)


def test_another_size_wants_interpolation(tmp_path):
    mine = ours(reference("clip", **SIZES[0]), tmp_path)
    with pytest.raises(InputError, match="interpolate_pos_encoding"):
        mine(images(32, 24))


@pytest.mark.parametrize("kind", REFERENCES)
@torch.no_grad()
def test_a_whole_model_is_read_for_its_tower(tmp_path, kind):
    """As the reference's class of the tower alone reads it; its words stay behind."""
    import transformers as hf

    whole, small = {"clip": (hf.CLIPConfig, hf.CLIPModel), "siglip": (hf.SiglipConfig, hf.SiglipModel)}[kind], SIZES[0]
    text = {**small, "vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    whole[1](whole[0](text_config=text, vision_config={**small, "patch_size": 8})).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == kind and any("text_model" in name for name in read_checkpoint(tmp_path))
    config["vision_config"].pop("model_type")
    mine, theirs = vision_towers.load(tmp_path, config), REFERENCES[kind][1].from_pretrained(tmp_path).eval()
    compare(mine(images(24, 24)), theirs(images(24, 24)))
    mine.save_pretrained(tmp_path / "back")
    assert torch.equal(
        front.load(tmp_path / "back")(images(24, 24)).last_hidden_state, mine(images(24, 24)).last_hidden_state
    )
    found = spec("vision", vision_towers.vision_settings(mine.config))
    assert pretrained("vision", str(tmp_path), found).keys() == {f"vision.{name}" for name in mine.vision.state_dict()}
