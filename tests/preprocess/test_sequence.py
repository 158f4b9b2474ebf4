"""The sequence codec: both directions, what is wrong with a box, and the references' own tokens."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveal.core.errors import InputError
from foveal.preprocess.sequence import (
    Faults,
    Objects,
    SequenceCodec,
    class_led,
    corners,
    decode,
    dequantise,
    encode,
    fractions,
    legal,
    pixels,
    quantise,
    tidy,
    torch_port,
)

CODECS = {
    "official": SequenceCodec(),
    "few bins": SequenceCodec(bins=7, classes=3),
    "port": torch_port(classes=20, bins=224),
    "class first": class_led(),
}
share = st.floats(0, 1, width=32)


def objects(*boxes, labels=None):
    labels = torch.arange(len(boxes)) + 1 if labels is None else torch.tensor(labels, dtype=torch.long)
    return Objects(boxes=torch.tensor(boxes, dtype=torch.float32).view(-1, 4), labels=labels)


@pytest.mark.parametrize("name", CODECS)
@given(data=st.data())
def test_there_and_back_is_within_half_a_bin(name, data):
    codec = CODECS[name]
    boxes = data.draw(st.lists(st.tuples(share, share, share, share), max_size=6))
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    labels = data.draw(st.lists(st.sampled_from(range(codec.classes)), min_size=len(boxes), max_size=len(boxes)))
    given_ = objects(*boxes, labels=[label + codec.first_class for label in labels])
    tokens = encode(codec, given_)
    back, faults = decode(codec, tokens)
    assert torch.equal(back.labels, given_.labels) and faults == Faults()
    most = (0.5 if codec.rounding == "nearest" else 1.0) / (codec.bins - 1)
    assert len(boxes) == 0 or (back.boxes - given_.boxes).abs().max() <= most + 1e-6
    assert codec.rounding == "floor" or torch.equal(encode(codec, back), tokens)


@given(
    st.lists(st.tuples(*[st.floats(-3, 3, width=32)] * 4, st.integers(1, 90)), max_size=8),
    st.integers(1, 5),
)
def test_whatever_the_boxes_the_rest_is_legal_and_nothing_is_lost_uncounted(rows, most):
    codec = SequenceCodec(max_objects=most)
    clean, faults = tidy(codec, objects(*(row[:4] for row in rows), labels=[row[4] for row in rows]))
    assert len(clean.boxes) + faults.dropped == len(rows) and len(clean.boxes) <= most
    assert ((clean.boxes >= 0) & (clean.boxes <= 1)).all() and (clean.boxes[:, 2:] > clean.boxes[:, :2]).all()
    tokens = encode(codec, clean)
    table = legal(codec).repeat(len(clean.boxes), 1)
    assert table[torch.arange(len(tokens)), tokens].all()


def test_each_fault_is_counted_by_its_kind():
    leaving, outside, empty, inverted = (-0.1, 0.2, 0.5, 0.4), (1.2, 0, 1.5, 1), (0.2, 0, 0.2, 1), (0.5, 0, 0.3, 1)
    given_ = objects(leaving, outside, empty, inverted, (0, 0, 1, 1), (0, 0, 1, 1))
    clean, faults = tidy(SequenceCodec(max_objects=2), given_)
    assert faults == Faults(clipped=1, outside=1, empty=1, inverted=1, beyond=1) and faults.dropped == 4
    assert clean.labels.tolist() == [1, 5] and clean.boxes[0].tolist() == pytest.approx([0, 0.2, 0.5, 0.4])
    assert str(faults + faults).startswith("2 clipped to the image, 2 dropped outside") and str(Faults()) == "none"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (objects((0, 0, float("nan"), 1)), "box 0 is .*nan.*finite"),
        (objects((0, 0, 1, 1), labels=[91]), "class 91 is unknown; this codec has classes 1 to 90"),
        (objects((0, 0, 1, 1), labels=[0]), "class 0 is unknown"),
    ],
)
def test_what_cannot_be_spelled_is_an_error(wrong, said):
    with pytest.raises(InputError, match=said):
        tidy(SequenceCodec(), wrong)


def test_boxes_and_labels_come_in_pairs():
    with pytest.raises(InputError, match="1 boxes but 2 labels"):
        objects((0, 0, 1, 1), labels=[1, 2])


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"classes": 901}, "share tokens"), ({"noise": 101}, "share tokens"), ({"bins": 1}, "1 bins")],
)
def test_a_codec_that_contradicts_itself_is_refused(settings, said):
    with pytest.raises(InputError, match=said):
        SequenceCodec(**settings)


def test_tokens_that_spell_no_object_are_dropped_and_counted():
    codec = SequenceCodec()
    good = encode(codec, objects((0.1, 0.2, 0.3, 0.4), labels=[7]))
    flipped = good[[2, 1, 0, 3, 4]]
    noise, classless, placeless = good.clone(), good.clone(), good.clone()
    noise[4], classless[4], placeless[1] = 30, 1500, 99
    tokens = torch.cat([torch.tensor([codec.start]), good, flipped, noise, classless, placeless, good[:3]])
    found, faults = decode(codec, tokens, chances=torch.arange(len(tokens)) / 100)
    assert found.scores is not None
    assert found.labels.tolist() == [7] and found.scores.tolist() == pytest.approx([0.05])
    assert faults == Faults(inverted=1, broken=3)
    padded = torch.cat([good, torch.tensor([codec.pad]), good])
    assert len(decode(codec, padded)[0].boxes) == 1


def test_the_order_of_axes_and_class():
    one = objects((0.0, 0.25, 0.5, 1.0), labels=[1])
    assert encode(SequenceCodec(bins=5), one).tolist() == [1001, 1000, 1004, 1002, 101]
    assert encode(torch_port(classes=3, bins=5), one).tolist() == [0, 1, 2, 4, 6]
    assert encode(class_led(), one).tolist() == [1001, 0, 250, 500, 999]
    assert class_led().class_tokens == range(1000, 1080)


@pytest.mark.parametrize("name", CODECS)
def test_the_legal_tokens_are_those_of_the_place(name):
    codec = CODECS[name]
    table = legal(codec, codec.vocabulary + 3)
    other = [place for place in range(5) if place != codec.class_place]
    assert table[codec.class_place].nonzero()[:, 0].tolist()[: codec.classes] == list(codec.class_tokens)
    assert (table[other[1:]].sum(1) == codec.bins).all()
    assert bool(table[0, codec.pad if codec.end is None else codec.end]) == (codec.end is not None)
    assert legal(SequenceCodec(), stop=True)[0, 0] and not legal(SequenceCodec(), stop=True)[1:, 0].any()
    with pytest.raises(InputError, match="make its vocabulary larger"):
        legal(codec, codec.vocabulary - 1)


def test_a_noise_class_wants_a_token():
    one, noise = objects((0, 0, 1, 1)), torch.tensor([True])
    assert encode(SequenceCodec(), one, noise=noise)[-1] == 30
    with pytest.raises(InputError, match="no noise class"):
        encode(torch_port(classes=3, bins=5), one, noise=noise)


@pytest.mark.parametrize("bins", [8, 1000, 2000])
def test_official_bins(known_answers, bins):
    known = known_answers("pix2seq_official")
    assert torch.equal(quantise(known.inputs[f"quant.{bins}.x"], bins), known.outputs[f"quant.{bins}.q"])
    expected = known.outputs[f"quant.{bins}.dq"]
    torch.testing.assert_close(dequantise(torch.arange(bins), bins), expected, atol=1e-6, rtol=0)


def test_official_sequences_and_boxes(known_answers):
    known = known_answers("pix2seq_official")
    codec = SequenceCodec()
    for row, (boxes, labels) in enumerate(zip(known.inputs["bbox"], known.inputs["label"], strict=True)):
        given_ = Objects(boxes=boxes[:, [1, 0, 3, 2]], labels=labels).take(labels > 0)
        tokens = known.outputs["resp.none.response_seq"][row]
        assert torch.equal(encode(codec, given_), tokens[tokens > 0])
        found, faults = decode(codec, tokens)
        expected = known.outputs["seq_to_bbox.yxyx_name"][row, : len(found.boxes)]
        torch.testing.assert_close(found.boxes[:, [1, 0, 3, 2]], expected, atol=1e-6, rtol=0)
        assert torch.equal(found.labels, given_.labels) and faults == Faults()
        led = replace(codec, class_first=True)
        shown = corners(led, tokens.view(-1, 5))[:, [1, 0, 3, 2]]
        torch.testing.assert_close(shown, known.outputs["seq_to_bbox.name_yxyx"][row], atol=1e-6, rtol=0)


def test_port_tokens_and_boxes(known_answers):
    known = known_answers("pix2seq_torch_port")
    size, tokens = (known.config["height"], known.config["width"]), known.outputs["tokens"]
    codec = torch_port(classes=known.config["num_classes"], bins=known.config["num_bins"])
    assert codec.pad == known.config["pad_idx"] and codec.vocabulary == known.outputs["logits"].shape[-1]
    labels = known.outputs["decoded_labels"]
    spelled = encode(codec, Objects(boxes=fractions(known.inputs["boxes_xyxy"], size), labels=labels))
    assert [codec.start, *spelled.tolist(), codec.end] == tokens.tolist()
    found, _ = decode(codec, tokens)
    assert torch.equal(found.labels, labels)
    torch.testing.assert_close(pixels(found.boxes, size), known.outputs["decoded_boxes"], atol=1e-5, rtol=0)
