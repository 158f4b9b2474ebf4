"""Sequence augmentation: what is drawn stays within its bounds, and the official weights and sequences come out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.preprocess.noise import (
    Augmentation,
    anywhere,
    corrupted,
    jittered,
    lesson,
    noise_boxes,
    ordered,
    shifted,
    spelled,
    with_noise,
)
from foveal.preprocess.sequence import Objects, SequenceCodec, decode, torch_port

PLAIN = Augmentation(noise=False, corruption="none", order="none")
seeds = st.integers(0, 2**31)


def chance(seed=0):
    return torch.Generator().manual_seed(seed)


def objects(count, seed=0):
    boxes = torch.rand(count, 2, 2, generator=chance(seed)).sort(1).values.flatten(1)
    return Objects(boxes=boxes, labels=torch.arange(count) % 90 + 1)


@given(st.integers(0, 6), st.integers(0, 20), seeds)
def test_noise_is_as_much_as_wanted_and_within_the_image(true, count, seed):
    boxes = noise_boxes(objects(true, seed).boxes, count, chance(seed))
    assert boxes.shape == (count, 4) and ((boxes >= 0) & (boxes <= 1)).all()
    assert (boxes[:, 2:] >= boxes[:, :2]).all()


@given(seeds)
@settings(max_examples=20)
def test_jitter_keeps_within_its_share_and_shifts_keep_sizes(seed):
    boxes = objects(20, seed).boxes * 0.4 + 0.3  # far from the edges
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = jittered(boxes, 0.1, chance(seed)) - boxes
    assert (moved.abs() <= 0.1 * sides + 1e-6).all() and moved.abs().max() > 0
    elsewhere = shifted(boxes, chance(seed))
    inside = ((elsewhere > 0) & (elsewhere < 1)).all(1)
    torch.testing.assert_close((elsewhere[:, 2:] - elsewhere[:, :2])[inside], sides[inside, :2], atol=1e-6, rtol=0)


def test_among_many_noise_boxes_some_are_near_duplicates_and_some_are_not():
    one = torch.tensor([[0.4, 0.4, 0.6, 0.6]])
    shares = []
    for seed in range(30):
        near = (noise_boxes(one, 40, chance(seed)) - one).abs().amax(1) <= 0.02 + 1e-6
        shares.append(near.float().mean().item())
    assert min(shares) < 0.15 and max(shares) > 0.85 and 0.3 < sum(shares) / 30 < 0.7
    sizes = anywhere(2000, chance())
    assert (sizes[:, 2:] - sizes[:, :2]).mean() > 0.2


@given(st.integers(0, 7), seeds)
def test_a_sequence_is_filled_at_its_end_and_the_true_objects_come_back(count, seed):
    codec, given_ = SequenceCodec(max_objects=7), objects(count, seed)
    _, noise = with_noise(codec, given_, chance(seed))
    assert noise.tolist() == [False] * count + [True] * (7 - count)
    made = lesson(codec, given_, Augmentation(), chance(seed))
    assert len(made.read) == len(made.follow) == len(made.weights) == 35 and made.read[0] == codec.start
    found, faults = decode(codec, made.follow)
    assert sorted(found.labels.tolist()) == sorted(given_.labels.tolist()) and faults.dropped == 0
    table, weights, read = made.follow.view(7, 5), made.weights.view(7, 5), torch.cat([made.read[1:], made.follow[-1:]])
    assert (table[count:, 4] == codec.noise).all() and (weights[count:, :4] == 0).all()
    assert (weights[:count] == 1).all() and (weights[:, 4] == 1).all()
    assert torch.equal(read.view(7, 5)[:, :4], table[:, :4])
    classes = read.view(7, 5)[:-1, 4]
    assert ((classes == 30) | ((classes >= 100) & (classes < 1000))).all()


def test_the_same_seed_gives_the_same_lesson_and_the_objects_stay():
    given_ = objects(3)
    before = given_.boxes.clone()
    one, two, other = (lesson(SequenceCodec(), given_, Augmentation(), chance(seed)) for seed in (5, 5, 6))
    assert torch.equal(one.read, two.read) and torch.equal(one.follow, two.follow)
    assert not torch.equal(one.follow, other.follow) and torch.equal(before, given_.boxes)


def test_every_order_of_objects():
    given_ = Objects(
        boxes=torch.tensor([[0.5, 0.5, 0.6, 0.6], [0.1, 0.1, 0.2, 0.2], [0.2, 0.2, 0.9, 0.9]]),
        labels=torch.tensor([1, 2, 3]),
    )
    expected = {"none": [1, 2, 3], "area": [3, 1, 2], "dist2ori": [2, 3, 1]}
    for order, labels in expected.items():
        assert ordered(given_, order, chance()).labels.tolist() == labels
    drawn = {tuple(ordered(given_, "random", chance(seed)).labels.tolist()) for seed in range(60)}
    assert len(drawn) == 6


@pytest.mark.parametrize(
    ("how", "real", "fake"),
    [
        ("none", 1, 0), ("rand_cls", 0, 0), ("real_n_fake_cls", 0.5, 0.5), ("rand_n_fake_cls", 0, 0.5),
        ("real_n_rand_n_fake_cls", 0.5, 0.25),
    ],
)  # fmt: skip
def test_classes_are_corrupted_as_often_as_said(how, real, fake):
    classes = torch.full((4000,), 107)
    read = corrupted(SequenceCodec(), classes, how, chance())
    assert (read == 30).float().mean().item() == pytest.approx(fake, abs=0.05)
    assert (read == 107).float().mean().item() == pytest.approx(real, abs=0.05)
    other = read[(read != 30) & (read != 107)]
    assert ((other >= 100) & (other < 1000)).all()
    assert not len(other) or other.max() > 900


def test_a_codec_with_an_end_learns_the_end_and_no_padding():
    codec = torch_port(classes=5, bins=10, max_objects=3)
    one = Objects(boxes=torch.tensor([[0.0, 0.0, 1.0, 1.0]]), labels=torch.tensor([2]))
    made = lesson(codec, one, PLAIN, chance())
    assert made.read.tolist() == [15, 0, 0, 9, 9, 12, 16, *[17] * 9]
    assert made.follow.tolist() == [0, 0, 9, 9, 12, 16, *[17] * 10]
    assert made.weights.tolist() == [1] * 5 + [pytest.approx(0.1)] + [0] * 10
    with pytest.raises(InputError, match="no noise class"):
        lesson(codec, one, Augmentation(corruption="none"), chance())
    with pytest.raises(InputError, match="wants a noise class"):
        lesson(codec, one, Augmentation(noise=False), chance())
    with pytest.raises(InputError, match="weights of 0 or more"):
        Augmentation(end_weight=-1.0)


def rows(known, label):
    for boxes, labels in zip(known.inputs["bbox"], known.inputs[label], strict=True):
        yield Objects(boxes=boxes[:, [1, 0, 3, 2]], labels=labels).take(labels != 0)


def test_official_batch(known_answers):
    known = known_answers("pix2seq_official")
    codec = SequenceCodec(max_objects=known.config["max_seq_len"] // 5)
    for row, given_ in enumerate(rows(known, "label")):
        made = lesson(codec, given_, PLAIN, chance())
        expected = {name: known.outputs[f"batch.{name}"][row] for name in ("input_seq", "target_seq", "token_weights")}
        assert torch.equal(made.read, expected["input_seq"]) and torch.equal(made.follow, expected["target_seq"])
        torch.testing.assert_close(made.weights, expected["token_weights"])


def test_official_noise_weights(known_answers):
    known = known_answers("pix2seq_official")
    how = Augmentation(corruption="none", order="none", noise_weight=known.config["noise_bbox_weight"], end_weight=1.0)
    for row, given_ in enumerate(rows(known, "noise.label")):
        made = spelled(SequenceCodec(max_objects=6), given_, given_.labels < 0, how, chance())
        assert torch.equal(made.follow, known.outputs["noise.response_seq"][row])
        torch.testing.assert_close(made.weights, known.outputs["noise.token_weights"][row])
