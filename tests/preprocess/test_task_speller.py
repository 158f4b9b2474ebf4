from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.config import dump, parse
from foveal.core.errors import InputError
from foveal.core.example import Box, Example
from foveal.preprocess.detection import Detection
from foveal.preprocess.noise import Augmentation
from foveal.preprocess.task_speller import TaskSpeller, asked
from foveal.preprocess.tasks import TASKS, Tasks
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer

WORDS = word_tokenizer(["where is the cat ? a picture with a dog and no cat ."])
PLAIN = Augmentation(noise=False, corruption="none", order="none")
OUTLINE = ((4.0, 4.0, 20.0, 4.0, 20.0, 16.0, 12.0, 10.0, 4.0, 16.0), (30.0, 2.0, 38.0, 2.0, 38.0, 8.0))
CAT = Box(label="cat", xyxy=(4.0, 2.0, 38.0, 16.0), segmentation=OUTLINE)
DOG = Box(label="dog", xyxy=(0.0, 0.0, 10.0, 10.0), keypoints=((1.0, 2.0, 2), (0.0, 0.0, 0), (9.0, 9.0, 1)))
ALL = {"detect": 1.0, "mask": 2.0, "keypoints": 1.0, "caption": 0.5, "find": 1.0}


def speller(mode="letterbox", *, layout="official", augmentation=PLAIN, **tasks):
    settings = {"weights": ALL, "points": ("nose", "ear", "tail"), "hidden_words": 0.0, **tasks}
    config = Detection(classes=("cat", "dog"), bins=401, max_objects=3, layout=layout, augmentation=augmentation,
                       tasks=Tasks(**settings))  # fmt: skip
    return TaskSpeller(config, ImageTransform(size=64, mode=mode), WORDS)


def example(text="", answer="", *boxes, **meta):
    said = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return Example(
        id="e", messages=tuple(said) if text else (), images=(Image.new("RGB", (40, 20)),), boxes=boxes, meta=meta
    )


def learned(one, given, task):
    """The one row that an example brings, of a task alone: what is read, what follows, and how much it counts."""
    alone = speller(one.transform.mode, layout=one.config.layout, weights={task: 1.0},
                    hidden_words=one.settings.hidden_words, max_points=one.settings.max_points)  # fmt: skip
    batch = alone.training([given], None, np.random.default_rng(0))
    assert batch.targets["task"].tolist() == [TASKS.index(task)]
    return batch.input_ids[0], batch.targets["follow"][0], batch.targets["weighs"][0]


def answer(one, given, task):
    """The tokens to write, and what stands before them."""
    read, follow, weighs = learned(one, given, task)
    begun = one.prompt([given], None, task).input_ids[0]
    assert torch.equal(read[: len(begun)], begun) and not weighs[: len(begun) - 1].any()
    return follow[len(begun) - 1 :]


def test_settings_come_back_and_contradictions_are_refused():
    config = speller().config
    assert parse(Detection, dump(config), where="x") == config
    for wrong, said in (
        ({"weights": {"mark": 1.0}}, "unknown task 'mark'; did you mean 'mask'"),
        ({"weights": {}}, "weights and shares above 0"),
        ({"shares": {"find": 0.0}}, "weights and shares above 0"),
        ({"max_points": 2}, "at least 3 points"),
    ):
        with pytest.raises(InputError, match=said):
            Tasks(**wrong)


def test_an_example_teaches_what_is_known_of_it():
    one = speller(asked=("where",))
    where = example("where is the cat?", "left", CAT, DOG, kind="where", evidence=[0])
    assert one.possible(where) == ["detect", "mask", "keypoints", "find"] and one.about(where) is CAT
    assert one.possible(example("what?", "a dog", kind="caption")) == ["detect", "caption"]
    assert one.about(replace(where, meta={"kind": "where", "evidence": [0, 1]})) is None
    assert one.about(replace(where, meta={"kind": "where", "evidence": [1], "words": [1]})) is None
    assert one.about(replace(where, meta={"kind": "count", "evidence": [0]})) is None
    assert speller().about(replace(where, boxes=(DOG,), meta={})) is DOG
    gone = replace(where, boxes=(replace(CAT, xyxy=(50.0, 2.0, 60.0, 16.0)),))
    drawn = {int(one.training([gone], None, np.random.default_rng(seed)).targets["task"]) for seed in range(20)}
    assert one.possible(gone) == ["detect", "mask", "find"] and drawn == {0}
    with pytest.raises(InputError, match=r"example 'e' \(count\) teaches none of find"):
        speller(weights={"find": 1.0}).training([example("how?", "1", CAT, DOG, kind="count")], None, _chance())


def _chance():
    return np.random.default_rng(0)


@pytest.mark.parametrize("mode", ["square", "letterbox", "pad_square"])
@pytest.mark.parametrize("layout", ["official", "port", "class_led"])
def test_every_task_there_and_back(mode, layout):
    one = speller(mode, layout=layout)
    marked = example("where is the dog?", "left", CAT, DOG, evidence=[1])
    picture, sure = marked.images[0], replace(DOG, score=0.5)
    mask = one.outlined(picture, CAT, answer(one, replace(marked, boxes=(CAT,)), "mask"))
    assert [len(polygon) for polygon in mask.segmentation] == [10, 6]
    for told, true in zip(mask.segmentation, OUTLINE, strict=True):
        assert told == pytest.approx(true, abs=0.2)
    tokens = answer(one, replace(marked, boxes=(DOG,)), "keypoints")
    points = one.pointed(picture, sure, tokens, torch.full(tokens.shape, 0.5))
    assert points.score == pytest.approx(0.25) and [v for _, _, v in points.keypoints] == [2, 0, 2]
    assert points.keypoints[0][:2] == pytest.approx((1, 2), abs=0.2)
    assert points.keypoints[2][:2] == pytest.approx((9, 9), abs=0.2)
    (found,) = one.found(picture, tokens := answer(one, marked, "find"), torch.ones(len(tokens)))
    assert found.label == "dog" and found.xyxy == pytest.approx(DOG.xyxy, abs=0.2)
    told = answer(one, example("what?", "A dog and a cat.", kind="caption"), "caption")
    assert one.said(told) == "a dog and a cat." and told[-1] == one.task_codec.stop
    assert one.vocabulary == one.task_codec.vocabulary > max(map(int, told))


def test_tasks_stand_beside_each_other_and_weigh_as_told():
    one = speller(augmentation=Augmentation(noise=False, corruption="none"))
    rows = [example("where is the cat?", "left", CAT, DOG, evidence=[0]), example("what?", "a dog", kind="caption")]
    seen = {}
    for seed in range(30):
        batch = one.training(rows, None, np.random.default_rng(seed))
        for task, follow, weighs in zip(*(batch.targets[name] for name in ("task", "follow", "weighs")), strict=True):
            seen[TASKS[task]] = max(seen.get(TASKS[task], 0.0), float(weighs.max()))
            assert not weighs[follow == 40].any() or TASKS[task] == "mask"
        assert batch.full and batch.input_ids.shape == batch.targets["weighs"].shape
    assert seen == ALL
    often = speller(weights={"detect": 1.0, "caption": 1.0}, shares={"caption": 9.0})
    drawn = often.training(rows[1:] * 100, None, _chance()).targets["task"]
    assert 80 < int((drawn == TASKS.index("caption")).sum()) < 97


def test_words_are_hidden_where_they_are_read_and_unseen_points_count_little():
    one = speller(hidden_words=0.5)
    caption = example("what?", " ".join(["cat"] * 100), kind="caption")
    read, follow, weighs = learned(one, caption, "caption")
    assert 25 < int((read == 30).sum()) < 75 and not (follow == 30).any()
    assert weighs[0] == 1 and weighs[-1] == pytest.approx(0.1)
    _, follow, weighs = learned(one, example("", "", DOG), "keypoints")
    assert follow[5:].tolist().count(41) == 2 and sorted(set(weighs.tolist())) == pytest.approx([0, 0.1, 1])


def test_what_does_not_fit_is_told():
    one = speller(max_words=3)
    with pytest.raises(InputError, match="example 'e': a text of 4 tokens for max_words 3"):
        one.check_words(example("what?", "a dog and cat", kind="caption"))
    with pytest.raises(InputError, match="example 'e': a text of 5 tokens for max_words 3"):
        one.check_words(example("where is the cat?", "", DOG))
    with pytest.raises(InputError, match="box 'dog' has 1 keypoints, and this model learns 3"):
        one.check(example("", "", replace(DOG, keypoints=((1.0, 1.0, 2),))))
    with pytest.raises(InputError, match="does not do 'find', which it never learned; it does: detect"):
        speller(weights={"detect": 1.0}).prompt([example("where?", "")], None, "find")
    with pytest.raises(InputError, match="unknown class in example 'e': 'owl'"):
        one.prompt([example("", "", replace(CAT, label="owl"))], None, "mask")
    assert one.check(example("", "", replace(CAT, xyxy=(-9.0, 0.0, 9.0, 9.0)))).clipped == 1


def test_questions_of_different_lengths_are_told_apart_from_what_fills_them_up():
    batch = speller().prompt([example("where is the cat?"), example("cat?")], None, "find")
    assert batch.valid.sum(1).tolist() == [6, 3] and not batch.full
    assert (batch.input_ids[1, 3:] == 0).all()


def test_outlines_are_told_in_as_many_points_as_there_is_room():
    one = speller(max_points=5)
    tokens = answer(one, example("", "", CAT), "mask")
    assert len(tokens) == 11 and len(one.outlined(Image.new("RGB", (40, 20)), CAT, tokens).segmentation) == 1


def test_the_question_is_what_a_user_says_first():
    parts = [{"type": "image"}, {"type": "text", "text": " Where? "}]
    assert asked(Example(id="e", messages=({"role": "user", "content": parts},))) == "Where?"
    assert asked(Example(id="e", messages=())) == ""
