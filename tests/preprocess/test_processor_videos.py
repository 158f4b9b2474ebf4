"""Conversations that show videos: slots for every frame, and the errors of what cannot be done with one."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.core.types import Layout
from foveal.preprocess.video import Frames, open_video


@pytest.fixture
def clip(tmp_path):
    """A directory of three frames, each of its own colour."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (12, 10), (80 * number, 0, 0)).save(folder / f"{number}.png")
    return folder


def film(sizes, frames=None):
    """The plan of a model with two tokens an image."""
    return Layout.of_grids([(1, 2)] * len(sizes)).filmed(frames)


def asked(*images, answer="a cat"):
    parts = [{"type": "video" if not isinstance(image, Image.Image) else "image"} for image in images]
    return Example(
        id="e",
        images=images,
        messages=(
            {"role": "user", "content": [*parts, {"type": "text", "text": "What moved?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ),
    )


@pytest.mark.parametrize("template", ["plain", "chatml", "qa", "vicuna"])
def test_a_video_takes_a_place_for_every_token_of_its_frames(processor, clip, template):
    made = processor(template, video=Frames(count=2))
    still = Image.new("RGB", (4, 4))
    batch = made.training([asked(still, clip), asked(clip)], plan=film)
    assert batch.visual.frames == (1, 2, 2) and batch.visual.values.shape[0] == 5
    assert batch.owner.tolist() == [0, 0, 1]
    assert [row[row >= 0].tolist() for row in batch.image_slot] == [list(range(6)), list(range(6, 10))]
    for place, source in ((1, clip / "0.png"), (2, clip / "2.png"), (4, clip / "2.png")):
        assert torch.equal(batch.visual.values[place], made.transform(source))


def test_a_prompt_shows_a_video_by_path_or_opened(processor, clip):
    made = processor(video=Frames(count=2))
    by_path = made.prompt([(str(clip), "What moved?")], plan=film)
    opened = made.prompt([(open_video(clip), "What moved?")], plan=film)
    assert torch.equal(by_path.visual.values, opened.visual.values) and by_path.visual.frames == (2,)
    assert torch.equal(by_path.image_slot, opened.image_slot)


def test_without_settings_up_to_eight_frames_are_seen(processor, clip):
    made = processor()
    assert made.prompt([(clip, "What moved?")], plan=film).visual.frames == (3,)
    assert "video" not in made.settings()
    assert processor(video=Frames(count=2)).settings()["video"]["count"] == 2


def test_the_tokens_of_a_video_share_an_order_where_these_of_an_image_do(processor, clip):
    batch = processor(video=Frames(count=2), mutual=True).training([asked(clip)], plan=film)
    assert len(batch.order[batch.image_slot >= 0].unique()) == 1


def test_what_a_video_cannot_be_is_told(processor, clip):
    with pytest.raises(InputError, match=r"regions of videos are not made here, and .*clip is one"):
        processor(regions="windows").training([asked(clip)], plan=film)
    with pytest.raises(InputError, match="labels are those of pictures"):
        processor(video=Frames(count=2)).training([asked(clip)], plan=film, cells=True)
    with pytest.raises(InputError, match="2 <image> markers in example 'e' but 1 images"):
        processor().training([replace(asked(clip, clip), images=(clip,))], plan=film)
    with pytest.raises(InputError, match=r"\d+ tokens \(12 of them of images\), but 8 fit|tokens for 8"):
        processor(context=8).training([asked(clip, clip)], plan=film)
