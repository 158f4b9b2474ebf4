"""Pictures are encoded once, and come out as if they had been encoded again."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import Held
from foveal.core.types import Layout, VisualTokens
from foveal.layers.albums import taken, together
from foveal.models.budget import budgeted
from foveal.models.causal import assemble
from foveal.models.config import ModelConfig
from foveal.models.gallery import ROOM, Gallery
from foveal.preprocess.processor import Processor
from foveal.preprocess.tiling import Tiling
from tests.tiny import tiny_run

PICTURES = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8)) for i in range(3)]


@pytest.fixture
def run():
    return tiny_run(["where is the cat ?"])


def counted(run):
    seen = []
    run.model.vision.register_forward_hook(lambda part, given, made: seen.append(len(given[0].values)))
    return seen


def test_a_picture_is_seen_once(run):
    seen, gallery = counted(run), Gallery(run.model, run.processor)
    first = gallery([PICTURES[0], PICTURES[1], PICTURES[0]])
    again = gallery([PICTURES[1], PICTURES[2], PICTURES[1]])
    assert seen == [2, 1]
    with torch.no_grad():
        wanted = run.model.vision(run.processor.pixels([PICTURES[1], PICTURES[2], PICTURES[1]]))
    torch.testing.assert_close(again.features, wanted.features)
    assert torch.equal(again.boxes, wanted.boxes) and torch.equal(again.image, wanted.image)
    assert again.layout == wanted.layout
    assert torch.equal(first.features[:16], first.features[32:])


def test_another_picture_in_the_same_place_is_seen_anew(run, tmp_path):
    seen, gallery, path = counted(run), Gallery(run.model, run.processor), tmp_path / "a.png"
    for changed, picture in enumerate([PICTURES[0], PICTURES[1], PICTURES[1]]):
        picture.save(path)
        os.utime(path, ns=(changed > 0, changed > 0))
        made = gallery([str(path)])
    assert seen == [1, 1]
    torch.testing.assert_close(made.features, gallery([PICTURES[1]]).features)


def test_new_pictures_in_memory_are_no_older_ones(run):
    gallery, fresh = Gallery(run.model, run.processor), Gallery(run.model, run.processor, room=0)
    for shade in range(0, 250, 25):
        picture = Image.new("RGB", (16, 16), (shade, 0, 0))  # where the last one lay, if nobody holds that
        assert torch.equal(gallery([picture]).features, fresh([picture]).features)
        del picture


def test_a_picture_in_memory_takes_room_and_a_file_none(run, tmp_path):
    def room(image):
        gallery = Gallery(run.model, run.processor)
        gallery([image])
        return ROOM - gallery.room

    picture = Image.effect_noise((40, 30), 50).convert("RGB")
    picture.save(tmp_path / "a.png")
    file = room(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    assert [room(one) - file for one in (picture, np.asarray(picture), Held(data))] == [3600, 3600, len(data)]


def test_an_array_that_changes_is_seen_anew(run):
    seen, gallery, picture = counted(run), Gallery(run.model, run.processor), np.array(PICTURES[0])
    made = [gallery([picture]), gallery([picture])]
    picture[:] = np.array(PICTURES[1])
    made.append(gallery([picture]))
    assert seen == [1, 1] and torch.equal(made[0].features, made[1].features)
    torch.testing.assert_close(made[2].features, gallery([PICTURES[1]]).features)


def test_what_has_no_room_is_seen_again(run):
    seen, gallery = counted(run), Gallery(run.model, run.processor, room=1)
    gallery.fill(PICTURES, size=1)
    gallery([PICTURES[0], PICTURES[1]])
    gallery([PICTURES[1]])
    assert seen == [1, 1, 1]


def test_what_is_needed_is_kept_too(run):
    gallery = Gallery(run.model, run.processor, needs=("attention",))
    gallery.fill([*PICTURES, *PICTURES], size=2)
    told = gallery(PICTURES[::-1])
    with torch.no_grad():
        wanted = run.model.vision.attended(run.processor.pixels(PICTURES[::-1]))
    torch.testing.assert_close(told.attention, wanted.attention)
    torch.testing.assert_close(told.keys, wanted.keys)


def test_without_an_encoder_there_is_nothing_to_keep(run):
    blind = assemble(ModelConfig.parse({"language": {"name": "decoder", "vocabulary": 9, "width": 8, "heads": 2}}))
    with pytest.raises(InputError, match="sees no pictures"):
        Gallery(blind, run.processor)


def test_albums_taken_apart_are_together_again():
    layout = Layout.of_grids([(2, 3), (1, 2), (2, 2)])
    features = torch.randn(layout.total, 4)
    whole = VisualTokens.on_layout(features, layout, (features * 2,))
    made = together([taken(whole, [place]) for place in range(3)])
    assert made.layout == whole.layout and torch.equal(made.features, whole.features)
    assert torch.equal(made.levels[0], whole.levels[0]) and torch.equal(made.image, whole.image)
    assert taken(whole, [2, 2]).layout.counts == (4, 4)


def test_tiles_are_seen_once_and_what_is_left_of_them_is_the_same(run):
    tiling = Tiling(kind="anyres", tile=16, pinpoints=((32, 32), (16, 32)))
    settings = replace(run.processor.config, image=replace(run.processor.config.image, tiling=tiling))
    processor = Processor(tokenizer=run.processor.tokenizer, config=settings)
    pictures = [Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 15), "blue")]
    seen, gallery = counted(run), Gallery(run.model, processor)
    gallery.fill(pictures, size=1)
    assert seen == [5, 3]
    model = budgeted(run.model, 9, cover=0.6)
    asked = [(picture, "where is the cat ?") for picture in pictures[::-1]]
    with torch.no_grad():
        kept, opened = (
            model.see(processor.prompt(asked, plan=model.plan, visual=visual)) for visual in (gallery, None)
        )
    assert seen[2:4] != [5, 3] and kept.layout == opened.layout
    torch.testing.assert_close(kept.features, opened.features)
    assert torch.equal(kept.boxes, opened.boxes)
