"""Videos asked about in words: frames, times and tokens as the checkpoints' own processors write them."""

import importlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
from transformers.video_utils import VideoMetadata

from foveal.core.errors import InputError
from foveal.front import load
from foveal.preprocess.films import Film, in_words, taken, together
from foveal.preprocess.video import Video
from tests.preprocess.test_own_processors import picture, words
from tests.weights import test_idefics3, test_llava_next, test_qwen_vl

SEEN, COUNT = (24, 40), 5
PAD, START, END = "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
QUESTION = "what is there? "
FAKE = "<fake_token_around_image>"
QWEN = {
    "patch_size": 4,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 256, "longest_edge": 2500},
}
LOOKS = {
    "qwen2_vl": ("Qwen2VL", QWEN, {**QWEN, "size": {"shortest_edge": 128, "longest_edge": 700}, "fps": 2}),
    "qwen2_5_vl": ("Qwen2VL", QWEN, {**QWEN, "size": {"shortest_edge": 128, "longest_edge": 700}, "fps": 2}),
    "qwen3_vl": ("Qwen2VL", QWEN, {**QWEN, "size": {"shortest_edge": 128, "longest_edge": 3000}, "fps": 2}),
    "llava_onevision": (
        "LlavaOnevision",
        {"size": {"height": 24, "width": 24}, "image_grid_pinpoints": test_llava_next.PINPOINTS["LlavaOnevision"]},
        {"size": {"height": 24, "width": 24}, "num_frames": 4},
    ),
    "smolvlm": (
        "SmolVLM",
        {"size": {"longest_edge": 48}, "max_image_size": {"longest_edge": 16}},
        {"video_sampling": {"max_frames": 64, "fps": 1, "video_size": {"longest_edge": 20}}},
    ),
}
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}:{% for p in m['content'] %}{% if p['type'] == 'image' %}IMAGE"
    "{% elif p['type'] == 'video' %}VIDEO{% else %}{{ p['text'] }}{% endif %}{% endfor %}\n{% endfor %}assistant:"
)


def frames():
    return [picture(SEEN, seed) for seed in range(COUNT)]


@pytest.fixture
def clip(tmp_path):
    """A directory of frames, one a second."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for number, one in enumerate(frames()):
        one.save(folder / f"{number}.png")
    return folder


def model(kind, count, ids):
    if kind.startswith("qwen"):
        tokens = {"image_token_id": ids["<|image_pad|>"], "video_token_id": ids[PAD]}
        tokens |= {"vision_start_token_id": ids[START], "vision_end_token_id": ids[END]}
        return test_qwen_vl.reference(1, kind, text={"vocab_size": count, "eos_token_id": None}, **tokens)
    if kind == "smolvlm":
        return test_idefics3.reference(0, "SmolVLM", vocabulary=count, image=ids["<image>"])
    made = {"vocabulary": count, "image": ids["<image>"], "video_token_id": ids["<video>"]}
    return test_llava_next.reference(0, "LlavaOnevision", **made)


@pytest.fixture
def checkpoint(tmp_path):
    """A directory of a tiny model with its tokenizer and settings, and the reference's model."""

    def make(kind):
        tokenizer = words()
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|image_pad|>", PAD, START, END]})
        image, video = ("<image>", "<video>") if not kind.startswith("qwen") else ("<|image_pad|>", PAD)
        around = (START, END) if kind.startswith("qwen") else ("", "")
        shown = TEMPLATE.replace("IMAGE", image.join(around)).replace("VIDEO", video.join(around))
        if kind == "smolvlm":  # its older templates know of no videos
            shown = shown.replace("{% elif p['type'] == 'video' %}<video>", "")
        tokenizer.chat_template = shown
        theirs = model(kind, len(tokenizer), tokenizer.get_vocab())
        theirs.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        name, look, video = LOOKS[kind]
        described = {"image_processor_type": f"{name}ImageProcessor", **look}
        (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(described))
        (tmp_path / "model" / "video_preprocessor_config.json").write_text(json.dumps(video))
        return tmp_path / "model", theirs, tokenizer

    return make


def brought(kind, size=None):
    """The frames by the Pillow-backed processor of the images, each of at most so many pixels."""
    name, look, _ = LOOKS[kind]
    if kind.startswith("qwen"):
        made, size = importlib.import_module("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl"), size
        of = made.Qwen2VLImageProcessorPil(**{**look, "size": {"shortest_edge": 128, "longest_edge": size}})
        every = [of([one], return_tensors="pt") for one in frames()]
        return [one["pixel_values"] for one in every], every[0]["image_grid_thw"][0]
    pil = importlib.import_module(f"transformers.models.{kind}.image_processing_pil_{kind}")
    look = {**look, "do_image_splitting": False, "size": {"longest_edge": 20}} if kind == "smolvlm" else look
    of = getattr(pil, f"{name}ImageProcessorPil")(**look)
    every = of([[one] for one in frames()], return_tensors="pt")["pixel_values"]
    return every[:, 0] if kind == "smolvlm" else every


def of_qwen(kind):
    """What its processors return for the video: patches two frames deep, their grid and the words in its place."""
    chosen = [0, 1, 2, 3, 4, 4] if kind == "qwen3_vl" else [0, 1, 2, 3]
    values, (_, rows, columns) = brought(kind, 600 if kind == "qwen3_vl" else 700)
    halves = [one.view(-1, 3, 2, 16)[:, :, :1] for one in values]
    deep = [torch.cat([halves[a], halves[b]], 2).flatten(1) for a, b in zip(chosen[::2], chosen[1::2], strict=True)]
    grid = torch.tensor([[len(deep), rows, columns]])
    given = {"pixel_values_videos": torch.cat(deep), "video_grid_thw": grid}
    if kind == "qwen2_5_vl":  # 4 of 5 frames, one a second
        given["second_per_grid_ts"] = torch.tensor([2 / VideoMetadata(COUNT, 1.0, frames_indices=chosen).sampled_fps])
    if kind != "qwen3_vl":
        return given, START + PAD * int(grid.prod() // 4) + END
    own = SimpleNamespace(
        video_processor=SimpleNamespace(merge_size=2, temporal_patch_size=2), video_token=PAD, vision_start_token=START
    )
    own.vision_end_token, own._calculate_timestamps = END, lambda *a: Qwen3VLProcessor._calculate_timestamps(own, *a)
    about = SimpleNamespace(fps=1.0, frames_indices=[0, 1, 2, 3, 4])
    told = Qwen3VLProcessor.replace_video_token(
        own, {**given, "video_grid_thw": grid.numpy(), "video_metadata": [about]}, 0
    )
    return given, START + told + END


def of_others(kind):
    values = brought(kind)
    if kind == "smolvlm":
        one = FAKE + "<global-img>" + "<image>" * 4 + FAKE
        told = "You are provided the following series of five frames from a 0:00:05 [H:MM:SS] video.\n"
        told += "".join(f"\nFrame from 00:0{second}:{one}" for second in range(5))
        return {"pixel_values": values[None]}, told + "\n\n"
    return {"pixel_values_videos": values[[0, 1, 2, 3]][None, :, 0]}, "<video>" * (4 * 4 + 1)


@pytest.mark.parametrize("kind", LOOKS)
def test_asks_and_answers_as_transformers_does(checkpoint, clip, kind):
    folder, theirs, tokenizer = checkpoint(kind)
    ours = load(folder)
    given, video = of_qwen(kind) if kind.startswith("qwen") else of_others(kind)
    ids = torch.tensor([tokenizer(f"user:{video}{QUESTION}assistant:", add_special_tokens=False)["input_ids"]])
    batch = ours.processor.prompt([(clip, QUESTION)], plan=ours.model.plan)
    assert batch.input_ids.tolist() == ids.tolist()
    given |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if kind.startswith("qwen"):
        given["mm_token_type_ids"] = 2 * (ids == theirs.config.video_token_id).int()
    told = ours.batch(**given)
    assert torch.equal(batch.image_slot, told.image_slot)
    assert told.positions is None or torch.equal(batch.positions, told.positions)
    values = told.visual.values.view_as(batch.visual.values)
    torch.testing.assert_close(batch.visual.values, values, atol=1e-6, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(ours.model(batch).logits, theirs(**given).logits, atol=5e-5, rtol=1e-4)
    new = theirs.generate(**given, max_new_tokens=5, do_sample=False)[:, ids.shape[1] :]
    said = ours.answer(None, QUESTION, videos=clip, max_new_tokens=5)
    assert list(said.token_ids) == new[0, : len(said.token_ids)].tolist() and said.visual_tokens > 0
    again = load(ours.save(folder / "run")).answer(clip, QUESTION, max_new_tokens=5)
    assert again.token_ids == said.token_ids


def test_pictures_and_videos_side_by_side(checkpoint, clip):
    folder, _, tokenizer = checkpoint("qwen3_vl")
    ours = load(folder)
    batch = ours.processor.prompt([([picture((16, 16)), clip], QUESTION)], plan=ours.model.plan)
    assert [int((batch.input_ids == tokenizer.get_vocab()[one]).sum()) for one in ("<|image_pad|>", PAD)] == [
        batch.visual.layout.counts[0] // 4,
        batch.visual.layout.counts[1] // 4,
    ]
    with pytest.raises(InputError, match="is no video; name a file"):
        ours.answer(None, QUESTION, videos=str(clip / "0.png"))


@pytest.mark.parametrize(
    ("apart", "looked", "expected"),
    [  # 9 frames so far apart in time, of 3 places a second: 2 frames a second are looked at, or at least 4
        (0.5, 8, [0, 3, 6, 10]),
        (0.1, 4, [0, 1]),
        (10.0, 8, [0, 67, 135, 202]),
    ],
)
def test_seconds_are_places_in_time_where_a_checkpoint_counts_them(checkpoint, apart, looked, expected):
    ours = load(checkpoint("qwen2_5_vl")[0])
    film = Video(frames=(picture(SEEN, 0),) * 9, seconds=tuple(apart * number for number in range(9)))
    batch = ours.processor.prompt([([picture((16, 16)), film], QUESTION)], plan=ours.model.plan)
    laid = ours.model.connector.plan(batch.visual.layout)
    assert laid.frames == (1, looked // 2)
    first, count = int((batch.image_slot[0] == laid.counts[0]).nonzero()), laid.counts[1]
    times = batch.positions[0, first : first + count, 0].view(looked // 2, -1)
    assert (times - times[0, 0]).tolist() == [[place] * times.shape[1] for place in expected]
    second = 2 / VideoMetadata(9, 1 / apart, frames_indices=list(range(looked))).sampled_fps
    assert expected == (torch.arange(looked // 2) * (3 * torch.tensor(second))).long().tolist()


def test_an_opened_video_tells_its_own_times(checkpoint):
    folder, _, tokenizer = checkpoint("qwen3_vl")
    ours = load(folder)
    film = Video(frames=tuple(frames()), seconds=(0.0, 0.5, 1.0, 1.5, 2.0))
    text = tokenizer.decode(ours.processor.prompt([(film, QUESTION)], plan=ours.model.plan).input_ids[0])
    assert [f"<{time} seconds>" in text for time in ("0.2", "1.2", "2.0")] == [True] * 3


@pytest.mark.parametrize(
    ("rule", "expected"),
    [  # 100 frames at 10 a second, 2 of them a second looked at
        ("qwen2_vl", list(range(0, 100, 5))),
        ("qwen3_vl", np.linspace(0, 99, 20).round().astype(int).tolist()),
        ("llava_onevision", list(range(0, 100, 5))),
        ("smolvlm", np.linspace(0, 99, 20, dtype=int).tolist()),
    ],
)
def test_frames_are_those_of_the_rule(rule, expected):
    assert taken(rule, 100, 10.0, most=768, least=4, fps=2.0, depth=2 if rule == "qwen2_vl" else 1) == expected
    for total in (1, 2, 3):
        some = taken(rule, total, 10.0, most=8, least=4, fps=2.0, depth=2)
        assert some == sorted(set(some)) and some[0] >= 0 and some[-1] < total


def test_a_long_video_loses_its_ends_where_the_rule_says_so():
    assert taken("smolvlm", 1000, 10.0, most=8, least=1, fps=1.0, depth=1) == np.linspace(
        10, 990, 8, dtype=int
    ).tolist()  # fmt: skip


def test_numbers_in_words():
    told = {
        0: "zero",
        12: "twelve",
        20: "twenty",
        64: "sixty-four",
        100: "one hundred",
        121: "one hundred and twenty-one",
    }
    assert {number: in_words(number) for number in told} == told
    with pytest.raises(InputError, match="fewer than 1000"):
        in_words(1000)


def test_all_frames_together_have_so_many_pixels():
    for size, count in (((300, 200), 8), ((20, 500), 3), ((10, 12), 5), ((1000, 1000), 400)):
        high, wide = together(size, count, multiple=32, pixels=(128 * 1024, 768 * 1024), depth=2)
        assert high % 32 == wide % 32 == 0 and (count * high * wide <= 768 * 1024 or 32 in (high, wide))


def test_a_film_in_one_place_has_words_around_it():
    film = Film(intro="a film ", end=" there")
    assert film([0.0, 1.0], 2.0, depth=2, marker="<image>") == "a film <image> there"
