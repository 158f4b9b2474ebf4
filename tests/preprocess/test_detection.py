import numpy as np
import pytest
import torch
from PIL import Image

from foveal.core.config import dump, parse
from foveal.core.errors import InputError
from foveal.core.example import Box, Example
from foveal.preprocess.detection import Detection, Speller, things
from foveal.preprocess.noise import Augmentation
from foveal.preprocess.transform import ImageTransform

PLAIN = Augmentation(noise=False, corruption="none", order="none")
CONFIG = Detection(classes=("cat", "dog"), bins=101, max_objects=3, augmentation=PLAIN)


def speller(mode="square", **changed):
    settings = {"classes": ("cat", "dog"), "bins": 101, "max_objects": 3, "augmentation": PLAIN, **changed}
    return Speller(Detection(**settings), ImageTransform(size=64, mode=mode))


def example(*boxes, size=(40, 20), **more):
    made = tuple(Box(label=label, xyxy=tuple(map(float, xyxy))) for label, xyxy in boxes)
    return Example(id="e", messages=(), images=(Image.new("RGB", size),), boxes=made, **more)


def test_settings_come_back():
    assert parse(Detection, dump(CONFIG), where="x") == CONFIG
    assert Detection(classes=("a",), layout="port", bins=10).codec.end is not None
    with pytest.raises(InputError, match="or some of them twice"):
        Detection(classes=("a", "a"))


def test_boxes_are_fractions_of_the_transformed_picture():
    objects, _ = speller().objects(example(("dog", (10, 5, 40, 20))))
    torch.testing.assert_close(objects.boxes, torch.tensor([[0.25, 0.25, 1.0, 1.0]]))
    assert objects.labels.tolist() == [2]
    objects, _ = speller("letterbox").objects(example(("dog", (10, 5, 40, 20))))
    torch.testing.assert_close(objects.boxes, torch.tensor([[0.25, 0.375, 1.0, 0.75]]))
    objects, faults = speller("shortest_crop").objects(example(("cat", (0, 0, 20, 20)), ("cat", (0, 0, 9, 9))))
    torch.testing.assert_close(objects.boxes, torch.tensor([[0.0, 0.0, 0.5, 1.0]]))
    assert (faults.clipped, faults.outside) == (1, 1)


@pytest.mark.parametrize("mode", ["square", "letterbox", "pad_square"])
@pytest.mark.parametrize("layout", ["official", "port", "class_led"])
def test_what_is_learned_comes_back_as_boxes_of_the_picture(mode, layout):
    one = speller(mode, layout=layout)
    given = example(("dog", (10, 5, 30, 20)), ("cat", (0, 0, 40, 8)))
    batch = one.training([given], None, np.random.default_rng(0))
    tokens = batch.targets["follow"][0]
    found = one.found(given.images[0], tokens, torch.linspace(0.1, 0.9, len(tokens)))
    assert [box.label for box in found] == ["cat", "dog"]  # the surest first
    for box, true in zip(found, reversed(given.boxes), strict=True):
        assert box.xyxy == pytest.approx(true.xyxy, abs=0.5)


def test_a_batch_reads_what_it_should_follow_one_later():
    one = speller(augmentation=Augmentation())
    batch = one.training([example(("dog", (10, 5, 30, 20))), example()], None, np.random.default_rng(0))
    assert batch.input_ids.shape == batch.targets["follow"].shape == batch.targets["weighs"].shape == (2, 15)
    assert batch.full and batch.labels is None and (batch.image_slot == -1).all() and batch.owner.tolist() == [0, 1]
    places = [place for place in range(15) if place % 5 != 4]
    assert torch.equal(batch.input_ids[:, [place + 1 for place in places]], batch.targets["follow"][:, places])
    again = one.training([example(("dog", (10, 5, 30, 20))), example()], None, np.random.default_rng(0))
    assert torch.equal(again.input_ids, batch.input_ids)
    start = one.prompt([example()], None)
    assert start.input_ids.tolist() == [[10]]


def test_faults_are_counted_and_words_are_no_objects():
    one = speller()
    words = example(("dog", (0, 0, 9, 9)), ("hello", (0, 0, 9, 9)), meta={"words": [1]})
    assert [box.label for box in things(words)] == ["dog"]
    wrong = example(("dog", (-9, 0, 9, 9)), ("dog", (9, 9, 5, 5)), ("cat", (3, 3, 3, 9)))
    one.training([words, wrong], None, np.random.default_rng(0))
    assert str(one.faults) == "1 clipped to the image, 1 dropped without area, 1 dropped with swapped corners"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (example(("dgo", (0, 0, 9, 9))), "unknown class in example 'e': 'dgo'; did you mean 'dog'"),
        (example(("dog", (0, float("nan"), 9, 9))), "example 'e': box 0 is .*nan"),
        (Example(id="e", messages=(), images=()), "has 0 images"),
    ],
)
def test_what_cannot_be_spelled_is_an_error(given, said):
    with pytest.raises(InputError, match=said):
        speller().objects(given)
