"""Llama 3.2 Vision against its reference: known answers, and freshly made random tiny models."""

import pytest
import torch
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.models.assembly import empty
from foveal.weights import mllama
from foveal.weights.files import read_checkpoint, write_json

IMAGE, VOCABULARY = 99, 97
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def test_known_answers(known_answers, tmp_path):
    known = known_answers("mllama")
    write_json(tmp_path / "config.json", known.config)
    save_file(known.weights, tmp_path / "model.safetensors")
    model = load(tmp_path)
    with torch.no_grad():
        output = model(**known.inputs, output_hidden_states=True)
        seen = model.model.vision(model.batch(**known.inputs).visual)
    valid = known.inputs["attention_mask"].bool()
    torch.testing.assert_close(output.logits[valid], known.outputs["logits"][valid], **EXACT)
    assert len(output.hidden_states) == sum(name.startswith("hidden_states.") for name in known.outputs) == 5
    for i, state in enumerate(output.hidden_states):
        torch.testing.assert_close(state[valid], known.outputs[f"hidden_states.{i}"][valid], **EXACT)
    torch.testing.assert_close(seen.features, known.outputs["vision"].flatten(0, 3), **EXACT)
    torch.testing.assert_close(
        output.image_hidden_states, known.outputs["multi_modal_projector"].flatten(0, 3), **EXACT
    )


def reference(seed, *, text=None, vision=None, image=IMAGE):
    """A random tiny Llama 3.2 Vision of transformers."""
    import transformers as hf

    torch.manual_seed(seed)
    small = {"hidden_size": 32, "intermediate_size": 48}
    tower = {
        **{"hidden_size": 16, "intermediate_size": 24, "attention_heads": 2, "num_hidden_layers": 3},
        **{"num_global_layers": 2, "image_size": 8, "patch_size": 4, "max_num_tiles": 4},
        **{"intermediate_layers_indices": [0, 1], **(vision or {})},
    }
    tower["vision_output_dim"] = tower["hidden_size"] * (1 + len(tower["intermediate_layers_indices"]))
    words = {"vocab_size": VOCABULARY, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2}
    layers = {"num_hidden_layers": 5, "cross_attention_layers": [1, 3], "pad_token_id": 0}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = hf.MllamaConfig(
        text_config={**small, **words, **layers, **heads, **(text or {})},
        vision_config=tower,
        image_token_index=image,
    )
    model = hf.MllamaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.5 if "gate" in name and weight.ndim == 1 else 0.2)
            weight.add_(1 if "norm" in name and weight.ndim == 1 else 0)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model


def inputs(rows, *, ratios=None, left=True, side=8, tiles=4, seed=0):
    """Rows of words and of images by the numbers of their ratios, as a processor returns them.

    Text sees the last image before it, and no filling.
    """
    ratios = ratios or [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
    generator = torch.Generator().manual_seed(seed)
    most, words = max(map(len, rows)), []
    pixels, ids = torch.zeros(len(rows), most, tiles, 3, side, side), torch.zeros(len(rows), most, dtype=torch.long)
    filled, marks = torch.zeros(len(rows), most, tiles, dtype=torch.long), []
    filled[..., 0] = 1
    for number, row in enumerate(rows):
        said, marks = torch.randint(3, 90, (4,), generator=generator).tolist(), [*marks, []]
        for place, ratio in enumerate(row):
            count = ratios[ratio - 1][0] * ratios[ratio - 1][1]
            pixels[number, place, :count] = torch.randn(count, 3, side, side, generator=generator)
            ids[number, place], filled[number, place, :count] = ratio, 1
            marks[-1].append(len(said))
            said += [IMAGE, *torch.randint(3, 90, (3,), generator=generator).tolist()]
        words.append(said)
    length = max(map(len, words))
    tokens, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.long)
    seen = torch.zeros(len(rows), length, most, tiles, dtype=torch.long)
    for number, said in enumerate(words):
        begin = length - len(said) if left else 0
        tokens[number, begin : begin + len(said)], mask[number, begin : begin + len(said)] = torch.tensor(said), 1
        for place, mark in enumerate(marks[number]):
            until = [*marks[number], len(said)][place + 1]
            seen[number, begin + mark : begin + until, place] = filled[number, place]
    given = {"input_ids": tokens, "attention_mask": mask}
    sight = {"pixel_values": pixels, "aspect_ratio_ids": ids, "aspect_ratio_mask": filled, "cross_attention_mask": seen}
    return {**given, **sight} if most else given


ROPE = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
CASES = {
    "plain": {},
    "first and last": {
        "text": {"cross_attention_layers": [0, 2, 4], "num_key_value_heads": 4, "rope_parameters": ROPE}
    },
    "another tower": {
        "text": {"cross_attention_layers": [2], "num_key_value_heads": 1, "hidden_act": "gelu", "rms_norm_eps": 1e-6},
        "vision": {
            **{"intermediate_layers_indices": [2, 0, 1], "num_global_layers": 1, "image_size": 12, "norm_eps": 1e-4},
            **{"max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]], "hidden_act": "gelu_new"},
        },
    },
}
IMAGES = {"one": [[1]], "two in a row": [[2, 3]], "different counts": [[2], [3, 1, 2], []]}


def given_for(case, images, **settings):
    vision = CASES[case].get("vision", {})
    sizes = {"side": vision.get("image_size", 8), "tiles": vision.get("max_num_tiles", 4)}
    return inputs(IMAGES[images], ratios=vision.get("supported_aspect_ratios"), **sizes, **settings)


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("case", CASES)
def test_equals_transformers(tmp_path, case, images, left):
    theirs = reference(len(case), **CASES[case])
    theirs.save_pretrained(tmp_path)
    ours, given = load(tmp_path), given_for(case, images, left=left, seed=len(images))
    real = given["attention_mask"].bool()
    led = torch.cat([torch.zeros_like(real[:, :1]), real[:, :-1]], dim=1)  # what padding predicts is undefined
    scored = real & led & (given["input_ids"] < VOCABULARY)
    labels = torch.where(scored, given["input_ids"], -100)
    with torch.no_grad():
        expected, output = (model(**given, labels=labels, output_hidden_states=True) for model in (theirs, ours))
    torch.testing.assert_close(output.logits[real], expected.logits[real], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(output.loss, expected.loss, **EXACT)
    assert len(output.hidden_states) == len(expected.hidden_states)
    for mine, state in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[real], state[real], atol=2e-5, rtol=1e-5)
    if left:
        cached = "first" not in case  # the reference counts its text by the first layer's cache
        new = theirs.generate(**given, max_new_tokens=8, do_sample=False, use_cache=cached)
        assert torch.equal(ours.generate(**given, max_new_tokens=8), new[:, given["input_ids"].shape[1] :])


def test_any_mask_of_tiles_equals_transformers(tmp_path):
    theirs = reference(1)
    theirs.save_pretrained(tmp_path)
    ours, given = load(tmp_path), inputs([[2, 6], [5, 1]])
    chance = torch.rand(given["cross_attention_mask"].shape, generator=torch.Generator().manual_seed(2))
    real = given["attention_mask"].bool()
    for mask in ((chance > 0.6).long(), torch.zeros_like(chance).long()):
        given["cross_attention_mask"] = mask
        with torch.no_grad():
            torch.testing.assert_close(ours(**given).logits[real], theirs(**given).logits[real], atol=2e-5, rtol=1e-5)
        new = theirs.generate(**given, max_new_tokens=6, do_sample=False)[:, given["input_ids"].shape[1] :]
        assert torch.equal(ours.generate(**given, max_new_tokens=6), new)


def test_text_alone_equals_transformers(tmp_path):
    theirs = reference(2)
    theirs.save_pretrained(tmp_path)
    ours, given = load(tmp_path), inputs([[], []])
    with torch.no_grad():
        expected, output = (model(**given, output_hidden_states=True) for model in (theirs, ours))
    torch.testing.assert_close(output.logits, expected.logits, **EXACT)
    assert len(output.hidden_states) == len(expected.hidden_states) == 3 + 1
    new = theirs.generate(**given, max_new_tokens=6, do_sample=False)[:, given["input_ids"].shape[1] :]
    assert torch.equal(ours.generate(**given, max_new_tokens=6), new)


def test_written_back_it_is_the_same_checkpoint(tmp_path):
    import transformers as hf

    theirs = reference(3)
    theirs.save_pretrained(tmp_path / "there")
    ours = load(tmp_path / "there")
    ours.save_pretrained(tmp_path / "back")
    again = hf.MllamaForConditionalGeneration.from_pretrained(tmp_path / "back")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    given = inputs([[2, 1]])
    ours.save(tmp_path / "run")
    assert torch.equal(load(tmp_path / "run")(**given).logits, ours(**given).logits)


def test_every_spelling_loads(tmp_path):
    """Files carry the names that transformers had before version 5, its modules the new ones."""
    theirs = reference(4)
    theirs.save_pretrained(tmp_path)
    given = inputs([[2]])
    filed = load(tmp_path)(**given).logits
    modules = {name: weight.clone() for name, weight in theirs.state_dict().items()}
    assert set(modules) != set(read_checkpoint(tmp_path))
    save_file(modules, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path)(**given).logits, filed)


def test_what_does_not_belong_together_is_told(tmp_path):
    reference(5).save_pretrained(tmp_path)
    ours, given = load(tmp_path), inputs([[2, 6], [5]])
    for name in ("aspect_ratio_ids", "cross_attention_mask"):
        with pytest.raises(InputError, match=f"pixel_values without {name}"):
            ours(**{**given, name: None})
    with pytest.raises(InputError, match=r"cross_attention_mask \[2, 12, 1, 4\] for input_ids \[2, 12\]"):
        ours(**{**given, "cross_attention_mask": given["cross_attention_mask"][:, :, :1]})
    with pytest.raises(InputError, match="aspect_ratio_ids has 9; this model knows ratios 1 to 8"):
        ours(**{**given, "aspect_ratio_ids": given["aspect_ratio_ids"] + 3})
    fewer = given["aspect_ratio_mask"].clone()
    fewer[0, 1, 3] = 0
    with pytest.raises(InputError, match=r"aspect_ratio_mask shows \[2, 3, 2, 1\] .* fill \[2, 4, 2, 1\]"):
        ours(**{**given, "aspect_ratio_mask": fewer})


def test_what_cannot_be_loaded_is_told(tmp_path):
    reference(6).save_pretrained(tmp_path)
    state = read_checkpoint(tmp_path)
    name = next(name for name in state if name.endswith("layers.3.cross_attn_mlp_gate"))
    del state[name]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=f"missing: {name};"):
        load(tmp_path)
    reference(7, text={"cross_attention_layers": [1, 2]}).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"cross_attention_layers \[1, 2\] of 5 layers"):
        load(tmp_path)


def test_the_released_config_makes_a_model_of_the_released_size():
    """Old files scale rotary positions under another name, and leave out what equals the defaults."""
    import transformers as hf

    scaling = {**ROPE, "original_max_position_embeddings": 8192}
    del scaling["rope_theta"]
    text = {"model_type": "mllama_text_model", "rope_theta": 5e5, "rope_scaling": scaling}
    config = {"model_type": "mllama", "text_config": text, "vision_config": {"image_size": 560}}
    made = mllama.model_config(config)
    assert made.language.settings.rope.scaling == "llama3" and made.language.settings.rope.original == 8192
    assert made.language.settings.depth == 32 and made.fusion.settings.layers == (3, 7, 11, 15, 19, 23, 27, 31)
    with torch.device("meta"):
        theirs = hf.MllamaForConditionalGeneration(hf.MllamaConfig(vision_config={"image_size": 560}))
    ours = empty(made).state_dict()
    shapes = {name: weight.shape for name, weight in mllama.renaming(config).to_theirs(ours).items()}
    assert shapes == {name: weight.shape for name, weight in theirs.state_dict().items()}
    assert sum(weight.numel() for weight in ours.values()) == 10_670_220_835
