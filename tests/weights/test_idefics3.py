"""Idefics3 and SmolVLM against their references: known answers, and freshly made random tiny models."""

import pytest
import torch
from safetensors.torch import save_file

from foveal.core.errors import InputError
from foveal.front import load
from foveal.weights.files import read_checkpoint, write_json

IMAGE, TOKENS = 98, 4
EXACT = {"atol": 1e-5, "rtol": 1e-5}


@pytest.mark.parametrize("name", ["idefics3", "smolvlm"])
def test_known_answers(known_answers, tmp_path, name):
    known = known_answers(name)
    write_json(tmp_path / "config.json", known.config)
    save_file(known.weights, tmp_path / "model.safetensors")
    model = load(tmp_path)
    given = {key: value for key, value in known.inputs.items() if key != "pixel_shuffle"}
    with torch.no_grad():
        output = model(**given, output_hidden_states=True)
        seen = model.model.vision(model.batch(**given).visual)
    valid = given["attention_mask"].bool()
    torch.testing.assert_close(output.logits[valid], known.outputs["logits"][valid], **EXACT)
    for i, state in enumerate(output.hidden_states):
        torch.testing.assert_close(state[valid], known.outputs[f"hidden_states.{i}"][valid], **EXACT)
    torch.testing.assert_close(seen.features, known.outputs["vision"].flatten(0, 1), **EXACT)
    torch.testing.assert_close(output.image_hidden_states, known.outputs["connector"].flatten(0, 1), **EXACT)


def reference(seed, kind="Idefics3", *, vocabulary=99, image=IMAGE, side=16, **settings):
    """A random tiny model of transformers: tiles of so many pixels a side, 4 tokens each."""
    import transformers as hf

    torch.manual_seed(seed)
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = hf.LlamaConfig(
        **{**small, "num_key_value_heads": 2, "vocab_size": vocabulary, "max_position_embeddings": 512},
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    vision = {**small, "image_size": side, "patch_size": 4}
    config = getattr(hf, f"{kind}Config")(
        text_config=text, vision_config=vision, image_token_id=image, scale_factor=2, **settings
    )
    model = getattr(hf, f"{kind}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.2).add_(1 if "norm" in name and weight.ndim == 1 else 0)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 0
    return model


def inputs(tiles_by_row, *, fills=((16, 16),), left=True, seed=0, side=16):
    """Rows of words and of tiles that fill so much of their square in turn, as a processor returns them."""
    generator = torch.Generator().manual_seed(seed)
    rows, most, turn = [], max(tiles_by_row), 0
    room = (len(tiles_by_row), most)
    pixels, shown = torch.zeros(*room, 3, side, side), torch.zeros(*room, side, side)
    for number, count in enumerate(tiles_by_row):
        row = torch.randint(3, 90, (4,), generator=generator).tolist()
        for tile in range(count):
            height, width = fills[turn % len(fills)]
            turn += 1
            pixels[number, tile, :, :height, :width] = torch.randn(3, height, width, generator=generator)
            shown[number, tile, :height, :width] = 1
            row += [IMAGE] * TOKENS + torch.randint(3, 90, (2,), generator=generator).tolist()
        rows.append(row)
    width = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = torch.tensor(row), 1
    given = {"input_ids": ids, "attention_mask": mask}
    return {**given, "pixel_values": pixels, "pixel_attention_mask": shown.long()} if most else given


CASES = {
    "one tile": ([1], ((16, 16),), "Idefics3", 16),
    "rows of several": ([3, 0, 2], ((16, 16),), "SmolVLM", 16),
    "tiles with filling": ([2, 3], ((16, 16), (9, 16), (16, 5)), "Idefics3", 16),
    "no whole patches": ([2, 1], ((18, 18),), "SmolVLM", 18),  # as 384 pixels in patches of 14
    "no whole patches and filling": ([2, 3], ((19, 19), (19, 17), (9, 19), (18, 5)), "Idefics3", 19),
}


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_equals_transformers(tmp_path, case, left):
    tiles, fills, kind, side = CASES[case]
    theirs = reference(len(case), kind, side=side, tie_word_embeddings=left)
    theirs.save_pretrained(tmp_path)
    ours, given = load(tmp_path), inputs(tiles, fills=fills, left=left, seed=len(case), side=side)
    real = given["attention_mask"].bool()
    led = torch.cat([torch.zeros_like(real[:, :1]), real[:, :-1]], dim=1)  # what padding predicts is undefined
    labels = torch.where(real & led, given["input_ids"], -100)
    with torch.no_grad():
        expected, output = (model(**given, labels=labels) for model in (theirs, ours))
    torch.testing.assert_close(output.logits[real], expected.logits[real], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(output.loss, expected.loss, **EXACT)
    if left:
        new = theirs.generate(**given, max_new_tokens=8, do_sample=False)[:, real.shape[1] :]
        assert torch.equal(ours.generate(**given, max_new_tokens=8), new)


def test_written_back_it_is_the_same_checkpoint(tmp_path):
    theirs = reference(2)
    theirs.save_pretrained(tmp_path / "there")
    load(tmp_path / "there").save_pretrained(tmp_path / "back")
    again = type(theirs).from_pretrained(tmp_path / "back")
    for name, weight in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_a_row_with_other_places_than_its_tiles_bring_is_refused(tmp_path):
    reference(3).save_pretrained(tmp_path)
    given = inputs([2, 1])
    given["pixel_values"], given["pixel_attention_mask"] = given["pixel_values"][[1, 0]], None
    with pytest.raises(InputError, match=f"row 0 has {2 * TOKENS} image tokens in input_ids but its 1 images bring 4"):
        load(tmp_path)(**given)
    with pytest.raises(InputError, match=r"pixel_values \[3, 16, 16\]; give \[rows, images, channels, height, width\]"):
        load(tmp_path)(**{**given, "pixel_values": given["pixel_values"][0, 0]})
    alone = {name: value[:1] for name, value in given.items() if name in ("input_ids", "attention_mask")}
    with pytest.raises(InputError, match="pixel_values show images of row 1 but input_ids have 1 rows"):
        load(tmp_path)(**{**given, **alone})


def test_a_missing_weight_is_named(tmp_path):
    reference(4).save_pretrained(tmp_path)
    state = read_checkpoint(tmp_path)
    del state["model.connector.modality_projection.proj.weight"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"missing: model\.connector\.modality_projection\.proj\.weight"):
        load(tmp_path)
