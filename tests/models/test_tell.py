import pytest
import torch

from foveal.core.errors import InputError
from foveal.core.example import Box
from foveal.decode.constrained import nucleus
from foveal.models.assembly import assemble
from foveal.models.config import ModelConfig
from foveal.models.tell import describe, find, outline, point, sparing, told, wanted
from foveal.preprocess.detection import Detection
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.tasks import TASKS, Tasks
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer
from foveal.weights.run import Run
from tests.models.test_detect import detector, picture

PICTURES = [picture(number) for number in range(3)]
BOX = Box(label="cat", xyxy=(2.0, 3.0, 20.0, 15.0), score=0.5)


@pytest.fixture(scope="module")
def teller():
    """A model of random weights that does everything, and its processor."""
    torch.manual_seed(0)
    tasks = Tasks(weights=dict.fromkeys(TASKS, 1.0), points=("a", "b"), max_points=6, max_words=7, text_shift=1020)
    detection = Detection(classes=("cat", "dog"), bins=20, max_objects=4, tasks=tasks)
    config = ProcessorConfig(image=ImageTransform(size=16), detection=detection)
    processor = Processor(tokenizer=word_tokenizer(["where is the cat ?"]), config=config)
    language = {"vocabulary": processor.speller.vocabulary, "width": 16, "depth": 2, "heads": 2, "context": 24}
    vision = {"name": "vit", "width": 16, "depth": 1, "heads": 2, "inner": 16, "patch": 4, "image_size": 16}
    parts = {"vision": {**vision, "layers": [-1]}, "fusion": {"name": "memory", "places": 2}, "assembly": "seq2seq"}
    model = assemble(ModelConfig.parse({**parts, "language": {"name": "sequence_decoder", **language}})).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return model, processor


def test_outlines_and_points_lie_in_the_picture_of_their_box(teller):
    boxes = [(BOX,), (), (BOX, BOX)]
    for ask in (outline, point):
        found = ask(*teller, PICTURES, boxes)
        assert [len(some) for some in found] == [1, 0, 2] and found[2][0] == found[2][1]
        (alone,) = ask(*teller, PICTURES[:1], boxes[:1])[0]
        assert found[0][0].xyxy == alone.xyxy == BOX.xyxy and found[0][0].score == pytest.approx(alone.score, rel=1e-4)
        assert (found[0][0].segmentation, found[0][0].keypoints) == (alone.segmentation, alone.keypoints)
    draw = nucleus(top_p=1.0, temperature=9.0, generator=torch.Generator().manual_seed(0))
    drawn = [box for some in outline(*teller, PICTURES, [(BOX,) * 5] * 3, sampling=draw) for box in some]
    marked = [*drawn, *point(*teller, PICTURES, boxes)[2]]
    assert sum(bool(box.segmentation) for box in drawn) > 5 and len(marked) == 17
    for box in marked:
        places = [(x, y) for one in box.segmentation for x, y in zip(one[0::2], one[1::2], strict=True)]
        places += [(x, y) for x, y, _ in box.keypoints]
        assert all(0 <= x <= 30 and 0 <= y <= 20 for x, y in places)
    assert point(*teller, PICTURES[:1], [(BOX,)])[0][0].score < 0.5 and outline(*teller, [], []) == []


def test_a_question_alone_is_as_among_longer_ones(teller):
    questions = ["cat?", "where is the cat?", "where is where is the?"]
    together = find(*teller, PICTURES, questions)
    assert any(box is not None for box in together)
    for image, question, box in zip(PICTURES, questions, together, strict=True):
        (alone,) = find(*teller, [image], [question])
        assert (alone is None) == (box is None)
        if alone is not None and box is not None:
            assert (alone.label, alone.xyxy) == (box.label, box.xyxy) and alone.score == pytest.approx(
                box.score, rel=1e-4
            )


def test_captions_are_words_and_end(teller):
    captions = describe(*teller, PICTURES)
    words = {"where", "is", "the", "cat", "?"}
    assert all(set(caption.replace("?", " ?").split()) <= words for caption in captions) and any(captions)
    assert describe(*teller, PICTURES[:1]) == captions[:1]


def test_a_caption_is_as_long_as_asked_and_what_else_is_told_knows_its_end(teller):
    run, image = Run(*teller), PICTURES[0]
    lengths = {most: len(_words(run.answer(image, "describe", max_new_tokens=most))) for most in (1, 3, 8, 64)}
    assert lengths == {1: 1, 3: 3, 8: 8, 64: 8}
    assert run.answer(image, "describe").text == run.answer(image, "describe", max_new_tokens=64).text
    assert run.answer(image, "describe", max_new_tokens=3, budget=5).visual_tokens == 5
    for text in ("detect", "outline"):
        assert run.answer(image, text, max_new_tokens=1) == run.answer(image, text)
    with pytest.raises(InputError, match="max_new_tokens is 0; ask for at least 1"):
        run.answer(image, "detect", max_new_tokens=0)


def _words(answer):
    return answer.text.replace("?", " ?").split()


def test_settings_that_spelling_does_not_know_are_told(teller):
    run = Run(*teller)
    assert run.answer(PICTURES[0], "describe", sampling=None, videos=None) == run.answer(PICTURES[0], "describe")
    with pytest.raises(InputError, match="stop_ids for a run that spells what it finds; it takes max_new_tokens, bud"):
        run.answer(PICTURES[0], "describe", stop_ids=(1,))


@pytest.mark.parametrize(
    ("text", "task"),
    [("detect", "detect"), ("Describe the picture.", "caption"), ("caption:", "caption"), ("outline", "mask"),
     ("Keypoints of all", "keypoints"), ("where is the fox?", "find"), ("", "find")],
)  # fmt: skip
def test_the_first_word_says_the_task(text, task):
    assert wanted(text, TASKS) == task
    assert wanted(text, ("detect",)) == "detect" and wanted(text, ("caption",)) == "caption"


def test_one_picture_in_words(teller):
    image = PICTURES[0]
    asked = told(*teller, image, "where is the cat?")
    assert asked.text == "nothing" or (len(asked.boxes) == 1 and asked.text.startswith(asked.boxes[0].label))
    assert told(*teller, [image], "describe").text == describe(*teller, [image])[0]
    assert told(*teller, image, "detect").visual_tokens == told(*teller, image, "masks").visual_tokens == 16
    lines = told(*teller, image, "keypoints")
    assert all(box.keypoints for box in lines.boxes) and ("a " in lines.text) == bool(lines.boxes)


@pytest.mark.parametrize("text", ["detect", "describe", "where is the cat?", "outline"])
def test_a_budget_is_kept_and_shown(teller, text):
    """And all of the tokens are what is read without one."""
    image = PICTURES[0]
    whole, few, all_of_it = (sparing(*teller, image, text, budget=budget) for budget in (None, 5, 16))
    assert (whole.visual_tokens, few.visual_tokens, all_of_it.visual_tokens) == (16, 5, 16)
    assert whole == told(*teller, image, text) and all_of_it.text == whole.text and all_of_it.boxes == whole.boxes
    assert whole.relevance == (None,)
    (looked,) = few.relevance
    assert len(looked.boxes) == 5 and looked.shares.sum() == pytest.approx(1)
    assert sparing(*teller, image, text, budget=5, strategy="random").visual_tokens == 5


def test_a_budget_that_makes_no_sense_is_refused(teller):
    with pytest.raises(InputError, match="a budget of 0 visual tokens; give 1 or more"):
        sparing(*teller, PICTURES[0], "detect", budget=0)
    with pytest.raises(InputError, match="for a run that spells what it finds; give it a budget"):
        sparing(*teller, PICTURES[0], "detect", price=0.1)


def test_what_was_not_learned_is_refused(teller):
    with pytest.raises(InputError, match="learned no tasks beside detection"):
        describe(*detector(), PICTURES)
    assert told(*detector(), PICTURES[0], "describe the picture").boxes
    with pytest.raises(InputError, match="2 pictures to find objects in; give one"):
        told(*teller, PICTURES[:2], "describe")
    model, processor = teller
    few = Processor(
        tokenizer=processor.tokenizer,
        config=ProcessorConfig(
            image=ImageTransform(size=16),
            detection=Detection(
                classes=("cat", "dog"), bins=20, tasks=Tasks(weights={"detect": 1.0, "caption": 1.0}, text_shift=1020)
            ),
        ),
    )
    with pytest.raises(InputError, match="does not do 'find', which it never learned; it does: detect, caption"):
        told(model, few, PICTURES[0], "where is the cat?")
