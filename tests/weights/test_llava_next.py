"""LLaVA-NeXT and LLaVA-OneVision against their references: known answers, and random tiny models."""

import json

import pytest
import torch
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.preprocess.tiling import Tiling
from foveal.weights import llava_next
from foveal.weights.files import read_checkpoint, write_json

IMAGE, VIDEO, SIDE = 98, 97, 24
EXACT = {"atol": 1e-5, "rtol": 1e-5}
PINPOINTS = {
    "LlavaNext": [[24, 48], [48, 24], [48, 48], [72, 24]],
    "LlavaOnevision": [[24 * rows, 24 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)],
}


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_known_answers(known_answers, tmp_path, name):
    known = known_answers(name)
    write_json(tmp_path / "config.json", known.config)
    save_file(known.weights, tmp_path / "model.safetensors")
    model = load(tmp_path)
    given = {key: value for key, value in known.inputs.items() if "video" not in key}
    with torch.no_grad():
        output = model(**given, output_hidden_states=True)
    valid = given["attention_mask"].bool()
    torch.testing.assert_close(output.logits[valid], known.outputs["logits"][valid], **EXACT)
    for i, state in enumerate(output.hidden_states if "hidden_states.0" in known.outputs else ()):
        torch.testing.assert_close(state[valid], known.outputs[f"hidden_states.{i}"][valid], **EXACT)
    assert list(output.visual.layout.counts) == known.outputs["feature_lens"].tolist()
    packed = torch.cat([known.outputs[f"packed.{i}"] for i in range(len(given["image_sizes"]))])
    torch.testing.assert_close(output.image_hidden_states, packed, **EXACT)


def test_known_answers_about_a_video(known_answers, tmp_path):
    known = known_answers("llava_onevision")
    write_json(tmp_path / "config.json", known.config)
    save_file(known.weights, tmp_path / "model.safetensors")
    given = {"input_ids": known.inputs["video_input_ids"], "pixel_values_videos": known.inputs["pixel_values_videos"]}
    with torch.no_grad():
        output = load(tmp_path)(**given)
    torch.testing.assert_close(output.image_hidden_states, known.outputs["video_features"].flatten(0, 1), **EXACT)
    torch.testing.assert_close(output.logits, known.outputs["video_logits"], **EXACT)
    assert output.visual.frame.tolist() == [0] * 4 + [1] * 5


def reference(seed, kind="LlavaNext", *, vocabulary=99, image=IMAGE, **settings):
    """A random tiny model of transformers: tiles of 24 pixels in 9 patches."""
    import transformers as hf

    torch.manual_seed(seed)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {**small, "image_size": SIDE, "patch_size": 8}
    parts = (hf.CLIPVisionConfig, hf.LlamaConfig) if kind == "LlavaNext" else (hf.SiglipVisionConfig, hf.Qwen2Config)
    words = {"num_key_value_heads": 2, "vocab_size": vocabulary, "max_position_embeddings": 512, "eos_token_id": 2}
    if kind == "LlavaOnevision":
        settings = {"vision_aspect_ratio": "anyres_max_2", "video_token_id": VIDEO, **settings}
    config = getattr(hf, f"{kind}Config")(
        vision_config=parts[0](**vision),
        text_config=parts[1](**small, **words),
        image_token_id=image,
        image_grid_pinpoints=PINPOINTS[kind],
        **settings,
    )
    model = getattr(hf, f"{kind}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3 if weight.ndim > 1 else 0.1).add_(1.0 if weight.ndim == 1 else 0.0)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model


def inputs(ours, kind, sizes_by_row, *, left=True, seed=0):
    """Rows of words and images of these sizes, padded, with tiles filled up as a processor returns them."""
    generator = torch.Generator().manual_seed(seed)
    tiling = Tiling(tile=SIDE, pinpoints=tuple(map(tuple, PINPOINTS[kind])))
    cuts = [[tiling(size).cut for size in sizes] for sizes in sizes_by_row]
    rows = []
    for mine in cuts:
        row = torch.randint(3, 90, (4,), generator=generator).tolist()
        for cut in mine:
            row += [IMAGE] * ours.model.plan([cut]).total + torch.randint(3, 90, (3,), generator=generator).tolist()
        rows.append(row)
    every = [cut for mine in cuts for cut in mine]
    pixels = torch.zeros(len(every), max(cut.tiles for cut in every), 3, SIDE, SIDE)
    for tiles, cut in zip(pixels, every, strict=True):
        tiles[: cut.tiles] = torch.randn(cut.tiles, 3, SIDE, SIDE, generator=generator)
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = torch.tensor(row), 1
    sizes = torch.tensor([cut.size for cut in every])
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels, "image_sizes": sizes}


CASES = {
    "one image": ("LlavaNext", [[(30, 50)]], {}),
    "several of all shapes": ("LlavaNext", [[(100, 20), (24, 24)], [(61, 56)], [(5, 200)]], {}),
    "full, other layers": (
        "LlavaNext",
        [[(50, 30)]],
        {"vision_feature_layer": [-1, -2], "multimodal_projector_bias": False, "tie_word_embeddings": True},
    ),
    "one vision": ("LlavaOnevision", [[(70, 71), (20, 30)], [(72, 20)]], {}),
}


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_equals_transformers(tmp_path, case, left):
    kind, sizes, settings = CASES[case]
    theirs = reference(len(case), kind, **settings)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    given = inputs(ours, kind, sizes, left=left, seed=len(case))
    real = given["attention_mask"].bool()
    led = torch.cat([torch.zeros_like(real[:, :1]), real[:, :-1]], dim=1)  # what padding predicts is undefined
    labels = torch.where(real & led, given["input_ids"], -100)
    with torch.no_grad():
        expected, output = (model(**given, labels=labels) for model in (theirs, ours))
    torch.testing.assert_close(output.logits[real], expected.logits[real], atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(output.loss, expected.loss, **EXACT)
    if left:
        new = theirs.generate(**given, max_new_tokens=6, do_sample=False)[:, real.shape[1] :]
        assert torch.equal(ours.generate(**given, max_new_tokens=6), new)


def test_images_and_videos_side_by_side(tmp_path):
    """Several images of a row are not cut, and a video's frames are seen at half their grid."""
    theirs = reference(5, "LlavaOnevision")
    theirs.save_pretrained(tmp_path)
    chance = torch.Generator().manual_seed(0)
    ids = torch.tensor([[5, *[VIDEO] * (2 * 4 + 1), 6, *[IMAGE] * 10, 7, *[IMAGE] * 10, 8]])
    given = {
        **{"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        "pixel_values": torch.randn(2, 1, 3, SIDE, SIDE, generator=chance),
        "image_sizes": torch.tensor([[50, 40], [20, 60]]),
        "batch_num_images": torch.tensor([2]),
        "pixel_values_videos": torch.randn(1, 2, 3, SIDE, SIDE, generator=chance),
    }
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(**given).logits, theirs(**given).logits, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["LlavaNext", "LlavaOnevision"])
def test_written_back_it_is_the_same_checkpoint(tmp_path, kind):
    theirs = reference(2, kind)
    theirs.save_pretrained(tmp_path / "there")
    ours = load(tmp_path / "there")
    ours.save_pretrained(tmp_path / "back")
    again = type(theirs).from_pretrained(tmp_path / "back")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    given = inputs(ours, kind, [[(30, 50)]])
    ours.save(tmp_path / "run")
    assert torch.equal(load(tmp_path / "run")(**given).logits, ours(**given).logits)


@pytest.mark.parametrize("kind", ["LlavaNext", "LlavaOnevision"])
def test_of_what_text_config_alone_ties_one_vision_ties_its_head(tmp_path, kind):
    reference(3, kind).save_pretrained(tmp_path)
    config, state = json.loads((tmp_path / "config.json").read_text()), read_checkpoint(tmp_path)
    config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"] = False, True
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({name: one for name, one in state.items() if "lm_head" not in name}, tmp_path / "model.safetensors")
    if kind == "LlavaNext":  # whose reference would draw a head at random
        with pytest.raises(InputError, match=r"missing: \S*lm_head\.weight"):
            load(tmp_path)
        return
    ours = load(tmp_path).model
    assert ours.head.map.weight is ours.language.embedding.weight


def test_what_does_not_belong_together_is_told(tmp_path):
    reference(3).save_pretrained(tmp_path)
    ours = load(tmp_path)
    given = inputs(ours, "LlavaNext", [[(30, 50)], [(60, 20)]])
    with pytest.raises(InputError, match="pixel_values without image_sizes"):
        ours(**{**given, "image_sizes": None})
    with pytest.raises(InputError, match=r"pixel_values \[2, 1, 3, 24, 24\] for image_sizes that make 9 tiles of 2"):
        ours(**{**given, "pixel_values": given["pixel_values"][:, :1]})
    total = int((given["input_ids"] == IMAGE).sum())
    given["input_ids"][given["input_ids"] == IMAGE] = 5
    with pytest.raises(InputError, match=f"0 image tokens in input_ids but 2 images bring {total}"):
        ours(**given)


def test_other_weights_and_settings_are_refused(tmp_path):
    reference(4).save_pretrained(tmp_path)
    state = read_checkpoint(tmp_path)
    del state["image_newline" if "image_newline" in state else "model.image_newline"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"missing: model\.image_newline"):
        load(tmp_path)
    config = reference(4, "LlavaOnevision").config.to_dict() | {"vision_aspect_ratio": "square"}
    with pytest.raises(InputError, match="vision_aspect_ratio 'square' is not supported"):
        llava_next.model_config(config)
