"""Images that keep their shape in patches: the same values and the same answers as transformers makes of them."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from foveal.core.errors import InputError
from foveal.core.types import Patches
from foveal.front import load
from foveal.preprocess.tiling import Tiling, area
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.video import Video, pixels
from tests.preprocess.test_own_processors import picture, words
from tests.weights.test_qwen_vl import KINDS, reference

SIDES = st.integers(1, 3000)
LOOK = {"patch_size": 4, "merge_size": 2, "size": {"shortest_edge": 256, "longest_edge": 2500}}
SIZES = [(30, 50), (8, 8), (5, 200), (64, 41), (200, 3)]


@given(SIDES, SIDES, st.sampled_from([28, 32]), st.sampled_from([(3136, 1003520), (65536, 70000), (1, 10**8)]))
def test_sizes_are_the_references(height, width, multiple, limits):
    size = (height, width)
    if max(size) > 200 * min(size):
        with pytest.raises(InputError, match="too long and thin: one side may be up to 200 times the other"):
            area(size, multiple=multiple, pixels=limits)
        return
    expected = smart_resize(height, width, factor=multiple, min_pixels=limits[0], max_pixels=limits[1])
    assert area(size, multiple=multiple, pixels=limits) == expected


@pytest.mark.parametrize("settings", [LOOK, {**LOOK, "merge_size": 1, "temporal_patch_size": 3, "resample": 2}])
def test_values_and_grids_are_the_references_bit_for_bit(settings):
    pictures = [picture(size, seed) for seed, size in enumerate(SIZES)]
    expected = Qwen2VLImageProcessorPil(**settings)(pictures, return_tensors="pt")
    for named in ("Qwen2VLImageProcessor", "Qwen2VLImageProcessorFast", "Qwen2_5_VLImageProcessor"):
        look = ImageTransform.from_huggingface({"image_processor_type": named, **settings})
        made = look.pixels(pictures)
        assert isinstance(made, Patches) and made.block == settings["merge_size"]
        assert torch.tensor(made.grids).equal(expected["image_grid_thw"])
        assert torch.equal(made.values, expected["pixel_values"])
        assert [look.planned(one).tile for one in pictures] == [(4 * h, 4 * w) for _, h, w in made.grids]


def test_old_names_of_the_limits_are_read():
    look = ImageTransform.from_huggingface(
        {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14}
    )
    assert look.tiling == Tiling(kind="area", tile=28, patch=14, pixels=(3136, 12845056))


def test_frames_of_a_video_stand_two_in_a_patch():
    look = ImageTransform.from_huggingface({"image_processor_type": "Qwen2VLImageProcessor", **LOOK})
    frames = tuple(picture((30, 50), seed) for seed in range(3))
    film = pixels([Video(frames=frames, seconds=(0.0, 1.0, 2.0)), frames[0]], look)
    ((_, rows, columns), still) = film.grids
    assert film.grids[0][0] == 2 and still == (1, rows, columns)
    whole = film.values.view(3, rows * columns, 3, 2, 4, 4)
    assert torch.equal(whole[1, :, :, 0], whole[1, :, :, 1])  # the third frame stands for the fourth
    assert torch.equal(whole[0, :, :, 0], whole[2, :, :, 0]) and not torch.equal(whole[0, :, :, 0], whole[0, :, :, 1])


def test_a_smaller_area_is_found_for_a_context_that_is_too_short():
    first, *_, last = Tiling(kind="area", tile=8, patch=4, pixels=(64, 640)).smaller()
    assert first.pixels == (64, 576) and last.pixels == (64, 64)


def test_numbers_out_of_range_are_told():
    for wrong in ({"tile": 30}, {"pixels": (100, 50)}, {"depth": 0}):
        with pytest.raises(InputError, match=r"an area of .* pixels in multiples of"):
            Tiling(**{"kind": "area", "tile": 28, "patch": 14, **wrong})


@pytest.fixture
def checkpoint(tmp_path):
    """A directory of a tiny model with its tokenizer and image settings, and the reference's model."""

    def make(kind):
        marker = "<|image_pad|>"
        tokenizer = words(f"<|vision_start|>{marker}<|vision_end|>")
        tokenizer.add_special_tokens({"additional_special_tokens": [marker, "<|vision_start|>", "<|vision_end|>"]})
        named = {"vocab_size": len(tokenizer), "eos_token_id": None}
        theirs = reference(1, kind, text=named, image_token_id=tokenizer.convert_tokens_to_ids(marker))
        theirs.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        described = {"image_processor_type": "Qwen2VLImageProcessor", **LOOK}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(described))
        return tmp_path, theirs, tokenizer, marker

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_asks_and_answers_as_transformers_does(checkpoint, kind):
    folder, theirs, tokenizer, marker = checkpoint(kind)
    ours, pictures = load(folder), [picture(size, seed) for seed, size in enumerate(SIZES[:2])]
    question = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": "what is there? "}]
    asked = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
    given = dict(Qwen2VLImageProcessorPil(**LOOK)(pictures, return_tensors="pt"))
    for grid in given["image_grid_thw"]:
        text = text.replace(marker, "MARK" * int(grid.prod() // 4), 1)
    ids = torch.tensor([tokenizer(text.replace("MARK", marker), add_special_tokens=False)["input_ids"]])
    kinds = (ids == theirs.config.image_token_id).int()
    given |= {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": kinds}
    batch, told = ours.processor.prompt([(pictures, "what is there? ")], plan=ours.model.plan), ours.batch(**given)
    assert torch.equal(batch.input_ids, ids) and torch.equal(batch.positions, told.positions)
    assert torch.equal(batch.image_slot, told.image_slot) and torch.equal(batch.visual.values, told.visual.values)
    with torch.no_grad():
        torch.testing.assert_close(ours.model(batch).logits, theirs(**given).logits, atol=5e-5, rtol=1e-4)
    new = theirs.generate(**given, max_new_tokens=5, do_sample=False)[:, ids.shape[1] :]
    said = ours.answer(pictures, "what is there? ", max_new_tokens=5)
    assert list(said.token_ids) == new[0, : len(said.token_ids)].tolist()
    ours.save(folder / "run")
    again = load(folder / "run").answer(pictures, "what is there? ", max_new_tokens=5)
    assert again.token_ids == said.token_ids and again.visual_tokens == said.visual_tokens
