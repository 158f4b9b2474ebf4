"""IDEFICS-2 against its reference: known answers, and freshly made random tiny models."""

import pytest
import torch
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.models.assembly import empty
from foveal.weights import idefics2
from foveal.weights.files import read_checkpoint, write_json

IMAGE, LATENTS = 98, 3
EXACT = {"atol": 1e-5, "rtol": 1e-5}


def test_known_answers(known_answers, tmp_path):
    known = known_answers("idefics2")
    write_json(tmp_path / "config.json", known.config)
    save_file(known.weights, tmp_path / "model.safetensors")
    model = load(tmp_path)
    with torch.no_grad():
        output = model(**known.inputs, output_hidden_states=True)
        seen = model.model.vision(model.batch(**known.inputs).visual)
        projected = model.model.connector.map(seen.features)
    valid = known.inputs["attention_mask"].bool()
    torch.testing.assert_close(output.logits[valid], known.outputs["logits"][valid], **EXACT)
    for i, state in enumerate(output.hidden_states):
        torch.testing.assert_close(state[valid], known.outputs[f"hidden_states.{i}"][valid], **EXACT)
    torch.testing.assert_close(output.image_hidden_states, known.outputs["connector"].flatten(0, 1), **EXACT)
    patches = known.inputs["pixel_attention_mask"][0].unfold(1, 7, 7).unfold(2, 7, 7).flatten(3).all(-1).flatten(1)
    assert patches.sum(1).tolist() == list(seen.layout.counts) == [16, 6]
    torch.testing.assert_close(seen.features, known.outputs["vision"][patches], **EXACT)
    torch.testing.assert_close(projected, known.outputs["modality_projection"][patches], **EXACT)


def reference(seed, *, text=None, vision=None, perceiver=None, image=IMAGE, **settings):
    """A random tiny IDEFICS-2 of transformers."""
    import transformers as hf

    torch.manual_seed(seed)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    text_config = hf.MistralConfig(
        **{**small, "num_key_value_heads": 2, "vocab_size": 99, "max_position_embeddings": 128, **(text or {})},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    heads = {"resampler_n_heads": 3, "resampler_head_dim": 6, "num_key_value_heads": 1}
    sizes = {"resampler_n_latents": LATENTS, "resampler_depth": 2, **heads, "rms_norm_eps": 1e-5}
    config = hf.Idefics2Config(
        text_config=text_config,
        vision_config={**small, "image_size": 20, "patch_size": 4, **(vision or {})},
        perceiver_config={"hidden_size": text_config.hidden_size, **sizes, **(perceiver or {})},
        image_token_id=image,
        **settings,
    )
    model = hf.Idefics2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.2).add_(1 if "norm" in name and weight.ndim == 1 else 0)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model


def inputs(images_by_row, *, sizes, left=True, seed=0, room=(20, 24)):
    """Rows of words and of images of these sizes in turn, padded on all sides as a processor returns them."""
    generator = torch.Generator().manual_seed(seed)
    rows, most, turn = [], max(images_by_row), 0
    pixels, shown = torch.zeros(len(images_by_row), most, 3, *room), torch.zeros(len(images_by_row), most, *room)
    for number, count in enumerate(images_by_row):
        row = torch.randint(3, 90, (4,), generator=generator).tolist()
        for image in range(count):
            height, width = sizes[turn % len(sizes)]
            turn += 1
            pixels[number, image, :, :height, :width] = torch.randn(3, height, width, generator=generator)
            shown[number, image, :height, :width] = 1
            row += [IMAGE] * LATENTS + torch.randint(3, 90, (3,), generator=generator).tolist()
        rows.append(row)
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = torch.tensor(row), 1
    given = {"input_ids": ids, "attention_mask": mask}
    return {**given, "pixel_values": pixels, "pixel_attention_mask": shown.long()} if most else given


CASES = {
    "plain": {},
    "tied, a window": {"text": {"sliding_window": 7, "tie_word_embeddings": True}, "tie_word_embeddings": True},
    "other heads": {
        "text": {"hidden_size": 24, "head_dim": 6, "num_key_value_heads": 4, "sliding_window": None},
        "perceiver": {"resampler_n_heads": 4, "num_key_value_heads": 2, "resampler_depth": 1, "hidden_size": 24},
        "vision": {"image_size": 28, "patch_size": 5, "num_hidden_layers": 2},
    },
}
IMAGES = {
    "one": ([1], [(20, 24)]),
    "one of its own shape": ([1], [(13, 22)]),
    "different counts and shapes": ([2, 0, 3], [(20, 8), (9, 24), (20, 24), (12, 17)]),
}


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("images", IMAGES)
@pytest.mark.parametrize("case", CASES)
def test_equals_transformers(tmp_path, case, images, left):
    theirs = reference(len(case), **CASES[case])
    theirs.save_pretrained(tmp_path)
    ours, counts = load(tmp_path), IMAGES[images]
    given = inputs(counts[0], sizes=counts[1], left=left, seed=len(images))
    real = given["attention_mask"].bool()
    led = torch.cat([torch.zeros_like(real[:, :1]), real[:, :-1]], dim=1)  # what padding predicts is undefined
    labels = torch.where(real & led, given["input_ids"], -100)
    with torch.no_grad():
        expected, output = (model(**given, labels=labels, output_hidden_states=True) for model in (theirs, ours))
    torch.testing.assert_close(output.logits[real], expected.logits[real], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(output.loss, expected.loss, **EXACT)
    assert len(output.hidden_states) == len(expected.hidden_states)
    for mine, state in zip(output.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine[real], state[real], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(output.image_hidden_states, expected.image_hidden_states, **EXACT)
    if left:
        new = theirs.generate(**given, max_new_tokens=8, do_sample=False)[:, given["input_ids"].shape[1] :]
        assert torch.equal(ours.generate(**given, max_new_tokens=8), new)


def test_without_a_mask_all_pixels_are_the_image(tmp_path):
    theirs = reference(1)
    theirs.save_pretrained(tmp_path)
    given = inputs([1, 2], sizes=[(20, 24)])
    del given["pixel_attention_mask"]
    real = given["attention_mask"].bool()
    with torch.no_grad():
        torch.testing.assert_close(
            load(tmp_path)(**given).logits[real], theirs(**given).logits[real], atol=2e-5, rtol=1e-5
        )


def test_text_alone_equals_transformers(tmp_path):
    theirs = reference(2)
    theirs.save_pretrained(tmp_path)
    given = inputs([0, 0], sizes=[])
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(**given).logits, theirs(**given).logits, **EXACT)


def test_written_back_it_is_the_same_checkpoint(tmp_path):
    import transformers as hf

    theirs = reference(3)
    theirs.save_pretrained(tmp_path / "there")
    ours = load(tmp_path / "there")
    ours.save_pretrained(tmp_path / "back")
    again = hf.Idefics2ForConditionalGeneration.from_pretrained(tmp_path / "back")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    given = inputs([1], sizes=[(9, 16)])
    ours.save(tmp_path / "run")
    assert torch.equal(load(tmp_path / "run")(**given).logits, ours(**given).logits)


@pytest.mark.parametrize(("markers", "images"), [((2, 0), (1, 0)), ((1, 1), (2, 0)), ((0, 1), (0, 0))])
def test_images_and_markers_must_agree_in_each_row(tmp_path, markers, images):
    reference(4).save_pretrained(tmp_path)
    row = next(i for i in range(2) if markers[i] != images[i])
    given = inputs(markers, sizes=[(20, 24)])
    pixels = torch.zeros(2, 2, 3, 20, 24)
    for number, count in enumerate(images):
        pixels[number, :count] = 1.0
    given |= {"pixel_values": pixels, "pixel_attention_mask": torch.ones(2, 2, 20, 24)}
    told = f"row {row} has {3 * markers[row]} image tokens in input_ids but its {images[row]} images bring"
    with pytest.raises(InputError, match=told):
        load(tmp_path)(**given)


def test_what_cannot_be_read_is_told(tmp_path):
    reference(5).save_pretrained(tmp_path)
    given = inputs([1], sizes=[(20, 24)])
    given["pixel_attention_mask"][0, 0, 0] = 0
    with pytest.raises(InputError, match="pixel_attention_mask shows no rectangle"):
        load(tmp_path)(**given)
    state = read_checkpoint(tmp_path)
    del state["model.connector.perceiver_resampler.latents"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"missing: model\.connector\.perceiver_resampler\.latents"):
        load(tmp_path)
    reference(6, perceiver={"hidden_act": "gelu"}).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"text_config\.hidden_act is 'silu' but perceiver_config.hidden_act is 'gelu'"
    ):
        load(tmp_path)


def test_the_released_config_makes_a_model_of_the_released_size():
    """Old files name every part's type alike, and leave out what equals the defaults."""
    import transformers as hf

    tower = {"hidden_size": 1152, "image_size": 980, "intermediate_size": 4304, "patch_size": 14}
    tower |= {"num_attention_heads": 16, "num_hidden_layers": 27}
    text = {"model_type": "mistral", "vocab_size": 32003, "max_position_embeddings": 32768}
    config = {
        **{"model_type": "idefics2", "image_token_id": 32001, "perceiver_config": {"model_type": "idefics2"}},
        **{"vision_config": {"model_type": "idefics2", **tower}, "text_config": text},
    }
    made = idefics2.model_config(config)
    assert config["vision_config"]["model_type"] == "idefics2"
    with torch.device("meta"):
        theirs = hf.Idefics2ForConditionalGeneration(hf.Idefics2Config(vision_config=tower, text_config=text))
    ours = empty(made).state_dict()
    shapes = {name: weight.shape for name, weight in idefics2.renaming(config).to_theirs(ours).items()}
    assert shapes == {name: weight.shape for name, weight in theirs.state_dict().items()}
    assert sum(weight.numel() for weight in ours.values()) == 8_402_768_112
