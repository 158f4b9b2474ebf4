"""The tower of SigLIP 2 at native aspect ratio gives the numbers of its reference, and goes back into its format."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import Siglip2VisionConfig, Siglip2VisionModel

from foveal.core.errors import InputError
from foveal.front import build, load
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer
from foveal.weights.files import read_checkpoint, write_json
from foveal.weights.siglip2 import tower_settings

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SIZES = [
    {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_patches": 16},
    {"hidden_size": 18, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3, "num_patches": 25},
    {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "num_patches": 1},
]
SHAPES = [(3, 4), (1, 1), (2, 7), (7, 1), (4, 4)]  # rows and columns of patches


def reference(*, seed=0, attention="sdpa", **settings):
    torch.manual_seed(seed)
    config = Siglip2VisionConfig(**{"patch_size": 4, **settings})
    made = Siglip2VisionModel._from_config(config, attn_implementation=attention).eval()
    for weight in made.parameters():  # fresh references have zero biases and unit norms, which would hide mistakes
        torch.nn.init.normal_(weight, std=0.3)
    return made


def ours(made, folder, **wanted):
    made.save_pretrained(folder)
    return load(folder, **wanted)


def rows(shapes=SHAPES, *, seed=1, room=17, values=48):
    """Patches of images in rows that noise fills up, as a processor's arguments."""
    given = torch.randn(len(shapes), room, values, generator=torch.Generator().manual_seed(seed))
    sizes = torch.tensor(shapes)
    return {
        "pixel_values": given,
        "pixel_attention_mask": (torch.arange(room) < sizes.prod(1)[:, None]).int(),
        "spatial_shapes": sizes,
    }


def compare(mine, theirs, mask):
    there = mask.bool()
    torch.testing.assert_close(mine.last_hidden_state[there], theirs.last_hidden_state[there], **CLOSE)
    assert not mine.last_hidden_state[~there].any()
    assert (mine.pooler_output is None) == (theirs.pooler_output is None)
    if mine.pooler_output is not None:
        torch.testing.assert_close(mine.pooler_output, theirs.pooler_output, **CLOSE)
    for a, b in zip(mine.hidden_states or (), theirs.hidden_states or (), strict=True):
        torch.testing.assert_close(a[there], b[there], **CLOSE)


@torch.no_grad()
def test_known_answers(known_answers, tmp_path):
    known = known_answers("tower_siglip2")
    write_json(tmp_path / "config.json", known.config)
    save_file(known.weights, tmp_path / "model.safetensors")
    there, told = known.inputs["pixel_attention_mask"].bool(), known.outputs
    output = load(tmp_path)(**known.inputs, output_hidden_states=True)
    torch.testing.assert_close(output.last_hidden_state[there], told["last_hidden_state"][there], **CLOSE)
    torch.testing.assert_close(output.pooler_output, told["pooler_output"], **CLOSE)
    assert len(output.hidden_states) == 3
    for i, state in enumerate(output.hidden_states):
        torch.testing.assert_close(state[there], told[f"hidden_states.{i}"][there], **CLOSE)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("size", range(len(SIZES)))
@torch.no_grad()
def test_fresh_references(tmp_path, size, attention):
    made, given = reference(seed=size, attention=attention, **SIZES[size]), rows(seed=size)
    mine = ours(made, tmp_path)
    compare(
        mine(**given, output_hidden_states=True),
        made(**given, output_hidden_states=True),
        given["pixel_attention_mask"],
    )
    assert mine(**given).hidden_states is None


@torch.no_grad()
def test_an_image_alone_equals_itself_among_others(tmp_path):
    mine, given = ours(reference(**SIZES[0]), tmp_path), rows()
    every = mine(**given)
    for image, (high, wide) in enumerate(SHAPES):
        own = slice(image, image + 1)
        alone = mine(given["pixel_values"][own, : high * wide], spatial_shapes=[(high, wide)])
        torch.testing.assert_close(every.last_hidden_state[own, : high * wide], alone.last_hidden_state, **CLOSE)
        torch.testing.assert_close(every.pooler_output[own], alone.pooler_output, **CLOSE)


@torch.no_grad()
def test_what_fills_a_row_is_not_seen(tmp_path):
    mine, given = ours(reference(**SIZES[0]), tmp_path), rows()
    hidden = given["pixel_attention_mask"][..., None] == 0
    changed = {**given, "pixel_values": given["pixel_values"].masked_fill(hidden, 1e4)}
    assert torch.equal(mine(**given).pooler_output, mine(**changed).pooler_output)


@torch.no_grad()
def test_written_back_the_reference_loads_it(tmp_path):
    made, given = reference(**SIZES[1]), rows()
    mine = ours(made, tmp_path / "theirs")
    mine.save_pretrained(tmp_path / "whole")
    again, told = Siglip2VisionModel.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.equal(weight, made.state_dict()[name]) for name, weight in again.state_dict().items())
    assert torch.equal(load(tmp_path / "whole")(**given).last_hidden_state, mine(**given).last_hidden_state)


@torch.no_grad()
def test_older_spellings_and_short_configs_are_read(tmp_path):
    made, given = reference(**SIZES[2], vision_use_head=False), rows()
    state = {f"vision_model.{name}": weight for name, weight in made.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    config = {"model_type": "siglip2_vision_model", "patch_size": 4, "vision_use_head": False, **SIZES[2]}
    write_json(tmp_path / "config.json", config)
    compare(load(tmp_path)(**given), made(**given), given["pixel_attention_mask"])
    full = Siglip2VisionConfig().to_dict()
    assert tower_settings({}) == tower_settings(full) and tower_settings(full)["positions"] == 16


def test_dtype_is_cast_and_every_weight_trains(tmp_path):
    made, given = reference(**SIZES[0]), rows()
    half = ours(made, tmp_path, dtype="bfloat16")
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16} and not half.training
    assert half(**given).pooler_output.dtype == torch.bfloat16
    half.save_pretrained(tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    whole = load(tmp_path)
    whole(**given).pooler_output.square().sum().backward()
    assert all(
        weight.grad is not None and weight.grad.any()
        for name, weight in whole.named_parameters()
        if name[-8:] != "key.bias"
    )


@torch.no_grad()
def test_a_recipe_takes_its_weights_and_answers_about_raw_pictures(tmp_path):
    """Two pictures of other shapes in a batch, each as alone."""
    made, tokenizer = reference(**SIZES[0]), word_tokenizer(["what is there ?"])
    tower = ours(made, tmp_path)
    vision = {"name": "qwen_vit", **tower_settings(made.config.to_dict())}
    language = {"name": "decoder", "vocabulary": len(tokenizer), "width": 12, "depth": 1, "heads": 2}
    model = {"vision": vision, "connector": "linear", "language": language}
    run = build({"model": model, "init": {"vision": str(tmp_path)}}).model.eval()
    for name, weight in tower.vision.state_dict().items():
        assert torch.equal(weight, run.vision.state_dict()[name]), name
    look = ImageTransform(size=4, resample="bilinear", tiling=Tiling(kind="naflex", tile=4, patch=4, most=9, depth=1))
    processor = Processor(tokenizer=tokenizer, config=ProcessorConfig(image=look))
    asked = [(Image.effect_noise(size, 90).convert("RGB"), "what is there ?") for size in ((30, 11), (8, 50))]
    batch = processor.prompt(asked, plan=run.plan)
    both = run(batch)
    assert both.visual.layout.grids == ((2, 4), (7, 1))
    for row, one in enumerate(asked):
        alone = run(processor.prompt([one], plan=run.plan))
        own = slice(both.visual.layout.offsets[row], both.visual.layout.offsets[row + 1])
        torch.testing.assert_close(both.visual.features[own], alone.visual.features, **CLOSE)
        torch.testing.assert_close(both.logits[row, -1], alone.logits[0, -1], **CLOSE)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"spatial_shapes": torch.tensor(SHAPES[:2])}, "2 spatial_shapes for 5 images; give each image its own"),
        ({"spatial_shapes": [(3, 4), (0, 1), *SHAPES[2:]]}, r"image 1 is of 0 x 1 patches \(rows x columns\)"),
        ({"spatial_shapes": [(3, 6), *SHAPES[1:]]}, "image 0 is of 3 x 6 patches .* its row holds 1 to 17"),
        ({"spatial_shapes": [(3, 5), *SHAPES[1:]]}, r"shows \[12, 1, 14, 7, 16\] patches and spatial_shapes \[15, 1"),
        ({"pixel_values": torch.zeros(5, 17, 27)}, "patches of 27 values for a tower that reads 48, 4 x 4 pixels of 3"),
    ],
)
def test_arguments_that_differ_are_told(tmp_path, change, told):
    mine = ours(reference(**SIZES[2]), tmp_path)
    with pytest.raises(InputError, match=told):
        mine(**{**rows(), **change})


def test_every_fault_of_a_checkpoint_is_named(tmp_path):
    made = reference(**SIZES[2])
    ours(made, tmp_path)
    state = read_checkpoint(tmp_path)
    del state["head.probe"]
    save_file({**state, "embeddings.patch_embedding.weight": torch.zeros(16, 47)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as told:
        load(tmp_path)
    assert "missing: head.probe" in str(told.value) and "patch_embedding.weight [16 47] where" in str(told.value)
    with pytest.raises(InputError, match="num_patches is 12; learned positions fill a square"):
        tower_settings({"num_patches": 12})


@torch.no_grad()
def test_a_whole_model_is_read_for_its_tower(tmp_path):
    from transformers import Siglip2Config, Siglip2Model

    text = {**SIZES[0], "vocab_size": 40, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(0)
    whole = Siglip2Model(Siglip2Config(text_config=text, vision_config={**SIZES[0], "patch_size": 4})).eval()
    whole.save_pretrained(tmp_path)
    given, theirs = rows(), Siglip2VisionModel.from_pretrained(tmp_path).eval()
    compare(load(tmp_path)(**given), theirs(**given), given["pixel_attention_mask"])
