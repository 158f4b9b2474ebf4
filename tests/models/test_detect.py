import pytest
import torch
from PIL import Image

from foveal.core.errors import InputError
from foveal.models.assembly import assemble
from foveal.models.config import ModelConfig
from foveal.models.detect import detect, shown
from foveal.preprocess.detection import Detection
from foveal.preprocess.noise import Augmentation
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer
from tests.tiny import tiny_run


def detector(**settings):
    torch.manual_seed(0)
    detection = Detection(classes=("cat", "dog"), bins=20, max_objects=4, **settings)
    config = ProcessorConfig(image=ImageTransform(size=16), detection=detection)
    processor = Processor(tokenizer=word_tokenizer(["a"]), config=config)
    language = {"vocabulary": detection.codec.vocabulary, "width": 16, "depth": 1, "heads": 2, "context": 21}
    vision = {"name": "vit", "width": 16, "depth": 1, "heads": 2, "inner": 16, "patch": 4, "image_size": 16}
    parts = {"vision": {**vision, "layers": [-1]}, "fusion": {"name": "memory", "places": 2}, "assembly": "seq2seq"}
    model = assemble(ModelConfig.parse({**parts, "language": {"name": "sequence_decoder", **language}})).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return model, processor


def picture(number, size=(30, 20)):
    noise = torch.randint(0, 255, (size[1], size[0], 3), generator=torch.Generator().manual_seed(number))
    return Image.fromarray(noise.byte().numpy())


def test_objects_fill_the_sequence_and_a_picture_alone_is_as_in_a_batch():
    model, processor = detector()
    pictures = [picture(number) for number in range(6)]
    found = detect(model, processor, pictures)
    assert any(len(boxes) > 1 for boxes in found) and max(len(boxes) for boxes in found) <= 4
    for one, boxes in zip(pictures, found, strict=True):
        for box, alone in zip(boxes, detect(model, processor, [one])[0], strict=True):
            assert (box.label, box.xyxy) == (alone.label, alone.xyxy)
            assert box.score == pytest.approx(alone.score, rel=1e-4)
        scores = [box.score for box in boxes]
        assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
        for left, top, right, bottom in (box.xyxy for box in boxes):
            assert 0 <= left <= right <= 30 and 0 <= top <= bottom <= 20
    assert detect(model, processor, []) == []


def test_what_is_trained_without_noise_may_stop():
    model, processor = detector(augmentation=Augmentation(noise=False))
    with torch.no_grad():
        model.language.embedding.weight.zero_()
        model.language.positions.weight.zero_()
        model.head.map.weight.zero_()
        model.head.map.weight[0] = 1.0  # padding
        model.language.last_norm.bias.fill_(1.0)
    assert detect(model, processor, [picture(0)]) == [()]


def test_one_picture_in_words():
    model, processor = detector()
    told = shown(model, processor, [picture(3)])
    likely = [box for box in told.boxes if box.score >= 0.3]
    lines = told.text.splitlines()
    assert lines == ["nothing"] or len(lines) == len(likely)
    assert told.visual_tokens == 16
    with pytest.raises(InputError, match="2 pictures to find objects in; give one"):
        shown(model, processor, [picture(0), picture(1)])


def test_a_model_of_words_finds_no_boxes():
    run = tiny_run(["what is it"])
    with pytest.raises(InputError, match="finds no boxes"):
        run.detect([picture(0)])
