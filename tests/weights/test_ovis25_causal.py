"""A whole Ovis 2.5: its tokenizer has known answers of its own, and stands here before transformers' Qwen3."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.models.budget import budgeted
from foveal.weights.files import read_checkpoint, write_json
from foveal.weights.ovis25 import VisualTokenizer
from tests.preprocess.conftest import byte_level

EXACT = {"atol": 1e-5, "rtol": 1e-5}
VIT = {
    **{"model_type": "siglip2_navit", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "image_size": 12, "patch_size": 4, "window_size": 16, "fullatt_block_indexes": "1"},
}
GRIDS = [(1, 6, 4), (1, 2, 4), (2, 2, 2)]  # two images, and two frames


def made(folder, *, tied=False, vocabulary=99, **vit):
    """A checkpoint directory of random weights, and what it is made of: tokenizer and language model."""
    import transformers as hf

    torch.manual_seed(0)
    seeing = VisualTokenizer(config={**VIT, **vit}, entries=30, width_out=32).eval()
    words = hf.Qwen3Config(
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "head_dim": 8, "vocab_size": vocabulary, "max_position_embeddings": 512},
        **{"tie_word_embeddings": tied, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
    )
    saying = hf.Qwen3ForCausalLM(words).eval()
    with torch.no_grad():
        for name, weight in (*seeing.named_parameters(), *saying.named_parameters()):
            weight.normal_(std=0.3).add_(1 if "norm" in name and name.endswith("weight") else 0)
    seeing.save_pretrained(folder)
    state = {**read_checkpoint(folder), **{f"llm.{name}": weight for name, weight in saying.state_dict().items()}}
    if tied:
        del state["llm.lm_head.weight"]
    save_file({name: weight.contiguous() for name, weight in state.items()}, folder / "model.safetensors")
    parts = {"llm_config": words.to_dict(), "vit_config": {**VIT, **vit}}
    write_json(folder / "config.json", {"model_type": "ovis2_5", "visual_vocab_size": 34, "hidden_size": 32, **parts})
    return seeing, saying


def asked(rows, *, seed=1):
    """Rows of words (a number of them) and of images by their numbers, padded on the left."""
    generator, made = torch.Generator().manual_seed(seed), []
    for row in rows:
        ids = []
        for part in row:
            if isinstance(part, int):
                ids += torch.randint(3, 90, (part,), generator=generator).tolist()
            else:
                times, height, width = GRIDS[int(part)]
                begin, end = (-301, -302) if times == 1 else (-303, -304)
                ids += [begin, *[-300] * (times * height * width // 4), end]
        made.append(ids)
    longest = max(map(len, made))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in made])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in made])
    numbers = [int(part) for row in rows for part in row if isinstance(part, str)]
    grids = [GRIDS[number] for number in numbers]
    values = torch.randn(sum(t * h * w for t, h, w in grids), 48, generator=generator)
    shown = {"pixel_values": values, "grid_thws": torch.tensor(grids)} if grids else {}
    return {"input_ids": ids, "attention_mask": mask, **shown}


def merged(seeing, saying, given):
    """The embeddings as the reference merges them."""
    ids = given["input_ids"]
    hidden = saying.get_input_embeddings()(ids.clamp(min=0))
    if "pixel_values" in given:
        told = seeing(given["pixel_values"], given["grid_thws"])
        for number in range(4):
            hidden[ids == -301 - number] = told.indicator_embeds[number]
        hidden[ids == -300] = told.visual_embeds
    return hidden


@pytest.mark.parametrize("vit", [{}, {"num_patches": 9}, {"hidden_act": "gelu", "use_rope": False}])
@pytest.mark.parametrize("rows", [[[3, "0", 4]], [[2, "0", 1, "1", 3], [4], [1, "2", 2]], [[5], [3]]])
@torch.no_grad()
def test_it_says_what_the_reference_says(tmp_path, vit, rows):
    seeing, saying = made(tmp_path, **vit)
    model, given = load(tmp_path), asked(rows)
    labels = torch.where(given["input_ids"] > 0, given["input_ids"], -100)
    labels[:, :-2] = -100
    output = model(**given, labels=labels)
    wanted = saying(
        inputs_embeds=merged(seeing, saying, given), attention_mask=given["attention_mask"], labels=labels
    )  # fmt: skip
    valid = given["attention_mask"].bool()
    torch.testing.assert_close(output.logits[valid], wanted.logits[valid], **EXACT)
    torch.testing.assert_close(output.loss, wanted.loss, **EXACT)


@torch.no_grad()
def test_it_writes_the_same_words(tmp_path):
    seeing, saying = made(tmp_path, tied=True)
    model, given = load(tmp_path), asked([[2, "0", 1, "1", 3], [4], [1, "2", 2]])
    said = model.generate(**given, max_new_tokens=6, eos_token_id=None, pad_token_id=0)
    hidden, mask = merged(seeing, saying, given), given["attention_mask"]
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    wanted = saying.generate(inputs_embeds=hidden, attention_mask=mask, **settings)
    assert torch.equal(said, wanted)


@torch.no_grad()
def test_it_is_written_back_as_it_was_but_for_the_norm_that_nobody_reads(tmp_path):
    for number, vit in enumerate(({}, {"num_patches": 9})):
        place = tmp_path / str(number)
        place.mkdir()
        made(place, **vit)
        load(place).save_pretrained(place / "back")
        was, now = read_checkpoint(place), read_checkpoint(place / "back")
        gone = {name for name in was if ".post_layernorm." in name}
        assert len(gone) == 2 and set(now) == set(was) - gone
        assert all(torch.equal(now[name], was[name]) for name in now)


@torch.no_grad()
def test_a_budget_leaves_its_marks(tmp_path):
    made(tmp_path)
    model, given = load(tmp_path), asked([[3, "0", 4]])
    assert model.generate(**given, max_new_tokens=2, budget=3).shape == (1, 2)
    view = budgeted(model.model, 3)
    batch = view.spent(model.batch(**given))
    assert (batch.image_slot >= 0).sum() == 3 and (batch.image_slot < -1).sum() == 2
    query, words = view.query(batch), batch.input_ids[batch.prompt & batch.valid & (batch.image_slot == -1)]
    assert torch.equal(query.features[query.valid], view.language.embedding(words)) and len(words) < 12


def test_what_does_not_fit_is_told(tmp_path):
    made(tmp_path)
    model, given = load(tmp_path), asked([[3, "0", 4]])
    with pytest.raises(InputError, match="pixel_values without grid_thws"):
        model(input_ids=given["input_ids"], pixel_values=given["pixel_values"])
    with pytest.raises(InputError, match="pixel_values of 23 patches but grid_thws of 24"):
        model(**{**given, "pixel_values": given["pixel_values"][1:]})
    with pytest.raises(InputError, match="5 image tokens in input_ids but 1 images bring 6"):
        model(**{**given, "input_ids": torch.where(torch.arange(15) == 5, 7, given["input_ids"])})
    config = {**model.config, "hidden_size": 16}
    write_json(tmp_path / "config.json", config)
    with pytest.raises(InputError, match="hidden_size is 16 but that of llm_config 32"):
        load(tmp_path)
    write_json(tmp_path / "config.json", {**config, "hidden_size": 32, "llm_config": None})
    with pytest.raises(InputError, match="names no llm_config"):
        load(tmp_path)
    write_json(tmp_path / "config.json", {**config, "hidden_size": 32, "vit_config": None})
    with pytest.raises(InputError, match=r"config\.json of a ovis2_5 holds None as vit_config"):
        load(tmp_path)
    del config["vit_config"]
    write_json(tmp_path / "config.json", config)
    with pytest.raises(InputError, match=r"config\.json of a ovis2_5 lacks vit_config"):
        load(tmp_path)


def test_it_is_asked_in_words_as_the_reference_formats_them(tmp_path):
    """The reference's formatter: question after picture, an empty thought, marks by ids that no word has."""
    words = byte_level()
    words.add_special_tokens(
        {"additional_special_tokens": ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|video_pad|>"]}
    )
    made(tmp_path, vocabulary=len(words), patch_size=16, image_size=48, window_size=64)
    words.save_pretrained(tmp_path)
    look = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16}, "resample": 3}
    look |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255}
    write_json(tmp_path / "preprocessor_config.json", look)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (448, 460, 3), dtype=np.uint8))
    model = load(tmp_path)
    batch = model.processor.prompt([([picture], "what is there?")], plan=model.model.plan)
    rows, columns = 14, 14  # of blocks of 2 x 2 patches, of the nearest size
    before = "<|im_start|>user\n"
    after = "\nwhat is there?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    ids = [words(text, add_special_tokens=False).input_ids for text in (before, after)]
    told = torch.tensor([[*ids[0], -301, *[-300] * (rows * columns), -302, *ids[1]]])
    small = picture.resize((columns * 32, rows * 32), Image.Resampling.BICUBIC)
    values = (torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255 - 0.5) / 0.5
    patches = values.unflatten(1, (rows, 2, 16)).unflatten(4, (columns, 2, 16)).permute(1, 4, 2, 5, 0, 3, 6)
    given = {"pixel_values": patches.reshape(-1, 768), "grid_thws": torch.tensor([[1, 2 * rows, 2 * columns]])}
    with torch.no_grad():
        ours, wanted = model.model(batch).logits, model(input_ids=told, **given).logits
    torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)
    said = model.answer([picture], "what is there?", max_new_tokens=3, budget=5)
    assert said.visual_tokens == 5
    whole = model.answer([picture], "what is there?", max_new_tokens=3, strategy="grid")
    assert whole.visual_tokens > 5 and "strategy 'grid' spends a budget and there is none" in whole.note
    assert model.answer([picture], "what is there?", max_new_tokens=3).note == ""
