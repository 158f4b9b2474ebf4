"""Pictures in quarters: equal to the processor of transformers that makes them, and each told apart."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from foveal.cli.main import run
from foveal.core.errors import InputError
from foveal.core.example import Box, Example
from foveal.front import load
from foveal.preprocess.image import Part, image_size, open_image, parts, stamp
from foveal.preprocess.quarters import quartered
from foveal.preprocess.tiling import Tiling
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.video import pixels
from foveal.training.features import image_key
from tests.preprocess.test_own_processors import KINDS, model, picture, theirs, words

TILING = Tiling(kind="native", tile=50, shortest=20, longest=50, quarters=True)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """An IDEFICS-2 whose preprocessor splits images, as idefics2-8b's does, with the processor of transformers."""
    monkeypatch.setattr(
        "transformers.processing_utils.ProcessorMixin.check_argument_for_proper_class", lambda *given: None
    )
    name, look, settings = KINDS["idefics2"]
    look = {**look, "do_image_splitting": True}
    monkeypatch.setitem(KINDS, "idefics2", (name, look, settings))
    tokenizer = words("<image>")
    made = model("idefics2", tokenizer)
    made.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": f"{name}Image", **look}))
    return tmp_path, made, theirs("idefics2", tokenizer)


@pytest.mark.parametrize("sizes", [[], [(31, 53)], [(16, 17), (90, 21)]], ids=str)
def test_asks_as_transformers_does(checkpoint, sizes):
    folder, reference, processor = checkpoint
    ours, pictures = load(folder), [picture(size, seed) for seed, size in enumerate(sizes)]
    question = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": "what is there? "}]
    text = processor.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
    given = processor(text=text, images=[pictures] if pictures else None, return_tensors="pt")
    batch = ours.processor.prompt([(pictures, "what is there? ")], plan=ours.model.plan)
    marked = given["input_ids"] == ours.config["image_token_id"]
    assert int(marked.sum()) == 5 * 3 * len(sizes)
    assert torch.equal(batch.image_slot >= 0, marked)
    assert torch.equal(batch.input_ids[~marked], given["input_ids"][~marked])
    if pictures:
        assert torch.equal(batch.visual.values, given["pixel_values"][0])
    new = reference.generate(**given, max_new_tokens=4, do_sample=False)[0, given["input_ids"].shape[1] :].tolist()
    stops = [place for place, token in enumerate(new) if token in ours.processor.stop_ids]
    told = ours.answer(pictures, "what is there? ", max_new_tokens=4).token_ids
    assert list(told) == (new[: stops[0] + 1] if stops else new)


def test_parts_open_in_order_and_are_told_apart(tmp_path):
    path = tmp_path / "one.png"
    whole = picture((5, 7))
    whole.save(path)
    sizes = [(2, 3), (2, 4), (3, 3), (3, 4), (5, 7)]
    assert [image_size(part) for part in parts(path)] == sizes
    opened = [open_image(part) for part in parts(path)]
    assert [(one.height, one.width) for one in opened] == sizes
    canvas = Image.new("RGB", whole.size)
    for part, one in zip(parts(path)[:4], opened, strict=False):
        canvas.paste(one, part.box((5, 7))[:2])
    assert canvas.tobytes() == opened[4].tobytes() == whole.tobytes()
    assert len({image_key(part) for part in parts(path)}) == 5
    assert stamp(Part(image=path, number=1)) == stamp(path)


@pytest.mark.parametrize("made", [ImageTransform.pixels, lambda look, images: pixels(images, look)])
def test_a_picture_is_decoded_once_for_its_parts(tmp_path, monkeypatch, made):
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for seed, path in enumerate(paths):
        picture((31, 53), seed).save(path)
    images = [*parts(paths[0]), *parts(paths[1]), paths[0]]
    look = ImageTransform(size=50, tiling=TILING)
    apart = look.joined([look.cut(image) for image in images]).values
    read, seen = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", lambda path: seen.append(path) or read(path))
    assert torch.equal(made(look, images).values, apart)
    assert seen == [*paths, paths[0]]


def test_markers_go_with_the_parts_and_boxes_with_the_whole():
    images, box = (picture((8, 8)), picture((9, 9))), Box(label="a", xyxy=(0.0, 0.0, 1.0, 1.0), image=1)
    shown, text = {"type": "image"}, {"type": "text", "text": "what?"}
    parted = Example(id="a", messages=({"role": "user", "content": [shown, text, shown]},), images=images, boxes=(box,))
    made = quartered(parted, TILING, "<image>")
    assert [part["type"] for part in made.messages[0]["content"]] == [*["image"] * 5, "text", *["image"] * 5]
    assert [part.number for part in made.images] == [0, 1, 2, 3, 4] * 2 and made.boxes[0].image == 9
    assert quartered(made, TILING, "<image>") is made
    written = Example(id="b", messages=({"role": "user", "content": "<image> and <image>"},), images=images)
    assert quartered(written, TILING, "<image>").messages[0]["content"] == "<image>" * 5 + " and " + "<image>" * 5
    assert quartered(written, Tiling(kind="native"), "<image>") is written


def test_counts_that_do_not_agree_are_told_as_they_were_given(checkpoint):
    with pytest.raises(InputError, match="1 <image> markers in example 'question' but 2 images"):
        load(checkpoint[0]).answer([picture((8, 8)), picture((9, 9))], "<image> what is there?")


def test_features_of_parts_are_cached(checkpoint, monkeypatch):
    """An encoder that learns nothing sees each part once, and the words read what it said."""
    folder, _, _ = checkpoint
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    (folder / "data").mkdir()
    picture((31, 53), 0).save("data/0.png")
    content = [{"type": "image"}, {"type": "text", "text": "what is there? "}]
    said = [{"role": "user", "content": content}, {"role": "assistant", "content": "what"}]
    (folder / "data" / "train.jsonl").write_text(json.dumps({"id": "0", "images": ["0.png"], "messages": said}))
    stage = {"name": "all", "steps": 2, "train": ["connector"], "batch_size": 1}
    training = {"device": "cpu", "features": {"dtype": "fp32"}, "stages": [stage]}
    recipe = {"init": {"from": str(folder)}, "data": {"path": "data"}, "training": training}
    (folder / "tiny.yaml").write_text(json.dumps(recipe))
    assert run(["train", "tiny.yaml"]) == 0
    assert run(["train", "tiny.yaml", "training.features=null", "--out", "seen"]) == 0
    cached, seen = (load(folder / place).state_dict() for place in ("runs/tiny", "seen"))
    for name, weight in cached.items():
        torch.testing.assert_close(weight, seen[name], atol=1e-6, rtol=1e-5)
