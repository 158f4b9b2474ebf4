"""LLaVA against its reference: known answers, and freshly made random tiny models of every combination."""

import copy
import json
import pickle

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.preprocess.words import word_tokenizer
from foveal.weights.files import read_checkpoint

IMAGE = 98
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def checkpoint(tmp_path):
    def write(config, state):
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "model.safetensors")
        return tmp_path

    return write


@pytest.mark.parametrize("name", ["llava_clip", "llava_clip_full_multilayer", "llava_siglip"])
def test_known_answers(known_answers, checkpoint, name):
    known = known_answers(name)
    model = load(checkpoint(known.config, known.weights))
    output = model(**known.inputs, output_hidden_states=True)
    valid = known.inputs["attention_mask"].bool()
    torch.testing.assert_close(output.logits[valid], known.outputs["logits"][valid], **TOLERANCE)
    for i, state in enumerate(output.hidden_states):
        torch.testing.assert_close(state[valid], known.outputs[f"hidden_states.{i}"][valid], **TOLERANCE)
    expected = known.outputs["multi_modal_projector"].flatten(0, 1)
    torch.testing.assert_close(output.image_hidden_states, expected, **TOLERANCE)
    length = known.inputs["input_ids"].shape[1]
    new = known.outputs["greedy"][:, length:]
    assert torch.equal(model.generate(**known.inputs, max_new_tokens=new.shape[1]), new)


def reference(seed, *, tower="clip", text="llama", **settings):
    """A random tiny LLaVA of transformers."""
    import transformers as hf

    torch.manual_seed(seed)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    vision = {**small, "image_size": 24, "patch_size": 8}
    towers = {"clip": hf.CLIPVisionConfig, "siglip": hf.SiglipVisionConfig, "dinov2": hf.Dinov2WithRegistersConfig}
    tower_config = towers[tower](**vision)
    text_class = {"llama": hf.LlamaConfig, "qwen2": hf.Qwen2Config, "qwen3": hf.Qwen3Config}[text]
    text_config = text_class(**small, num_key_value_heads=2, vocab_size=99, max_position_embeddings=128, eos_token_id=2)
    config = hf.LlavaConfig(
        vision_config=tower_config, text_config=text_config, image_token_index=IMAGE, pad_token_id=0, **settings
    )
    model = hf.LlavaForConditionalGeneration(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3 if weight.ndim > 1 else 0.1).add_(1.0 if weight.ndim == 1 else 0.0)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model


def inputs(per_image, images_by_row, *, left=True, seed=0):
    """Rows of words and images, padded, as a processor returns them."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for count in images_by_row:
        row = torch.randint(3, 90, (4,), generator=generator).tolist()
        for _ in range(count):
            row += [IMAGE] * per_image + torch.randint(3, 90, (3,), generator=generator).tolist()
        rows.append(row)
    width = max(map(len, rows))
    pad = [[0] * (width - len(row)) for row in rows]
    ids = torch.tensor([p + row if left else row + p for p, row in zip(pad, rows, strict=True)])
    mask = torch.tensor(
        [[0] * len(p) + [1] * len(r) if left else [1] * len(r) + [0] * len(p) for p, r in zip(pad, rows, strict=True)]
    )
    pixels = torch.randn(sum(images_by_row), 3, 24, 24, generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}


CASES = [
    {"tower": "clip", "vision_feature_layer": -2, "vision_feature_select_strategy": "default"},
    {"tower": "clip", "vision_feature_layer": -1, "vision_feature_select_strategy": "full", "text": "qwen2"},
    {"tower": "clip", "vision_feature_layer": [-2, 1], "vision_feature_select_strategy": "default", "text": "qwen3"},
    {"tower": "siglip", "vision_feature_layer": -1, "vision_feature_select_strategy": "full"},
    {"tower": "siglip", "vision_feature_layer": [0, -1], "vision_feature_select_strategy": "default"},
    {"tower": "clip", "projector_hidden_act": "relu", "multimodal_projector_bias": False},
    {"tower": "clip", "tie_word_embeddings": True},
    {"tower": "dinov2", "vision_feature_layer": -2, "vision_feature_select_strategy": "default"},
    {"tower": "dinov2", "vision_feature_layer": [1, -1], "vision_feature_select_strategy": "full"},
]


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("case", range(len(CASES)))
def test_equals_transformers(tmp_path, case, left):
    theirs = reference(case, **CASES[case])
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    full = CASES[case].get("vision_feature_select_strategy", "default") == "full"
    per_image = 9 + {"clip": 1, "siglip": 0, "dinov2": 1 + 4}[CASES[case]["tower"]] - (not full)
    given = inputs(per_image, [1, 2, 1], left=left)
    real = given["attention_mask"].bool()
    led = torch.cat([torch.zeros_like(real[:, :1]), real[:, :-1]], dim=1)  # what padding predicts is undefined
    labels = torch.where(real & led, given["input_ids"], -100)
    with torch.no_grad():
        expected, output = theirs(**given, labels=labels), ours(**given, labels=labels)
    valid = given["attention_mask"].bool()
    torch.testing.assert_close(output.logits[valid], expected.logits[valid], atol=5e-5, rtol=1e-5)
    torch.testing.assert_close(output.loss, expected.loss, atol=1e-5, rtol=1e-5)
    if left:
        new = theirs.generate(**given, max_new_tokens=8, do_sample=False)[:, given["input_ids"].shape[1] :]
        assert torch.equal(ours.generate(**given, max_new_tokens=8), new)


def test_text_alone_equals_transformers(tmp_path):
    theirs = reference(1)
    theirs.save_pretrained(tmp_path)
    ids = torch.randint(3, 90, (2, 7))
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path)(input_ids=ids).logits, theirs(input_ids=ids).logits, **TOLERANCE)


def test_written_back_it_is_the_same_checkpoint(tmp_path):
    import transformers as hf

    theirs = reference(2, tower="siglip", vision_feature_select_strategy="full")
    theirs.save_pretrained(tmp_path / "there")
    load(tmp_path / "there").save_pretrained(tmp_path / "back")
    again = hf.LlavaForConditionalGeneration.from_pretrained(tmp_path / "back")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_its_own_processor_is_written_back_as_it_came_by_way_of_a_run_too(tmp_path):
    """Byte for byte: transformers then reads the same pictures and words from it."""
    import transformers as hf

    reference(3).save_pretrained(tmp_path / "there")
    words = word_tokenizer(["where is the fox ?"], special=["<image>"])
    look = hf.CLIPImageProcessor(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12})
    hf.LlavaProcessor(
        image_processor=look, tokenizer=words, patch_size=4, num_additional_image_tokens=1, chat_template="{{ 'fox' }}"
    ).save_pretrained(tmp_path / "there")
    strangers = ("training_args.bin", "train.json", "notes.txt", "modeling_llava.py")
    for name in strangers:
        (tmp_path / "there" / name).write_bytes(b"no part of it")
    load(tmp_path / "there").save_pretrained(tmp_path / "back")
    load(tmp_path / "there").save(tmp_path / "run")
    again = load(tmp_path / "run")
    again.save(tmp_path / "run")
    again.save_pretrained(tmp_path / "over")
    for folder in (tmp_path / "back", tmp_path / "over"):
        there = hf.AutoProcessor.from_pretrained(folder)
        picture = Image.effect_noise((20, 10), 50).convert("RGB")
        assert there(images=picture, text="<image> where is the fox ?")["input_ids"]
        assert not any((folder / name).exists() for name in strangers)
        for name in ("processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            assert (folder / name).read_bytes() == (tmp_path / "there" / name).read_bytes(), name


def test_copies_and_pickles_are_models_of_their_own(tmp_path):
    reference(3).save_pretrained(tmp_path)
    ours, given = load(tmp_path, dtype="auto"), inputs(9, [1])
    assert {weight.dtype for weight in ours.parameters()} == {torch.float32}  # the file's own
    run = load(ours.save(tmp_path / "run"))
    copies = [copied for one in (ours, run) for copied in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one))]
    for other in copies:
        assert torch.equal(other(**given).logits, ours(**given).logits)
        assert other.renaming is not ours.renaming and not other.training
        with torch.no_grad():
            other.model.connector.maps[0].weight.zero_()
        assert not torch.equal(other(**given).logits, ours(**given).logits)


def test_a_tower_without_a_kind_is_clips(tmp_path):
    reference(3).save_pretrained(tmp_path)
    given, expected = inputs(9, [1]), load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["vision_config"]["model_type"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(load(tmp_path)(**given).logits, expected(**given).logits)


def test_every_spelling_loads(tmp_path):
    """Files carry the names that transformers had before version 5, its modules the new ones."""
    theirs = reference(3)
    theirs.save_pretrained(tmp_path)
    given = inputs(9, [1])
    filed = load(tmp_path)(**given).logits
    modules = {name: weight.clone() for name, weight in theirs.state_dict().items()}
    assert set(modules) != set(read_checkpoint(tmp_path))
    save_file(modules, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path)(**given).logits, filed)


@pytest.mark.parametrize(("markers", "images"), [(2, 1), (1, 2), (1, 0), (0, 1)])
def test_images_and_markers_must_agree(tmp_path, markers, images):
    reference(4).save_pretrained(tmp_path)
    given = inputs(9, [markers])
    given["pixel_values"] = torch.randn(images, 3, 24, 24) if images else None
    with pytest.raises(
        InputError, match=f"{9 * markers} image tokens in input_ids but {images} images bring {9 * images}"
    ):
        load(tmp_path)(**given)


@pytest.mark.parametrize(("head", "tied"), [("none", True), ("equal", True), ("another", False)])
def test_a_head_that_text_config_alone_ties_is_tied_unless_the_file_holds_another(tmp_path, head, tied):
    """As LLaVA-Interleave is published: tied in text_config, not above it, and without a head in the file."""
    import transformers as hf

    theirs = reference(6, text="qwen2")
    theirs.save_pretrained(tmp_path)
    state, config = read_checkpoint(tmp_path), json.loads((tmp_path / "config.json").read_text())
    table = next(name for name in state if name.endswith("embed_tokens.weight"))
    lm_head = next(name for name in state if name.endswith("lm_head.weight"))
    if head == "none":
        del state[lm_head]
    elif head == "equal":
        state[lm_head] = state[table].clone()
    config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"] = False, True
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "model.safetensors")
    theirs, ours = hf.LlavaForConditionalGeneration.from_pretrained(tmp_path).eval(), load(tmp_path)
    assert (ours.model.head.map.weight is ours.model.language.embedding.weight) is tied
    given = inputs(9, [1])
    with torch.no_grad():
        torch.testing.assert_close(ours(**given).logits, theirs(**given).logits, atol=5e-5, rtol=1e-5)


def test_a_missing_weight_is_named(tmp_path):
    reference(5).save_pretrained(tmp_path)
    state = read_checkpoint(tmp_path)
    del state["multi_modal_projector.linear_2.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"missing: multi_modal_projector\.linear_2\.bias;"):
        load(tmp_path)
