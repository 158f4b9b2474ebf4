"""A model that chooses its answers: assembled, saved, asked."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import foveal
import foveal.recipes
from foveal.core.errors import InputError
from foveal.core.example import Example
from foveal.core.types import Batch
from foveal.models.config import ModelConfig
from foveal.models.masked import assemble
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer
from foveal.training.objectives.contrastive import embed

RECIPES = Path(foveal.recipes.__path__[0])
ANSWERS = ("red", "blue", "two")
VISION = {"name": "vit", "image_size": 16, "patch": 8, "width": 8, "depth": 1, "heads": 2, "inner": 8, "layers": [-1],
          "class_token": False, "select": "full"}  # fmt: skip


def config(**more):
    language = {"name": "encoder", "vocabulary": 20, "width": 16, "depth": 2, "heads": 2, "context": 40}
    parts = {"assembly": "masked", "vision": VISION, "fusion": "single_stream", "language": language}
    return {**parts, "heads": {"answer": {"name": "classification", "labels": len(ANSWERS)}}, **more}


def processor():
    settings = ProcessorConfig(image=ImageTransform(size=16), order="suffix", answers=ANSWERS, context=40)
    return Processor(tokenizer=word_tokenizer(["what colour is it", "how many"]), config=settings)


def example(text, answer, image):
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return Example(
        id=text,
        images=(image,),
        messages=({"role": "user", "content": content}, {"role": "assistant", "content": answer}),
    )


@pytest.fixture
def picture():
    from PIL import Image

    return Image.new("RGB", (16, 16), (200, 30, 30))


def test_it_answers_from_its_vocabulary_and_is_read_back(tmp_path, picture):
    torch.manual_seed(0)
    run = foveal.build(config()).eval()
    run.processor = processor()
    first = run.answer(picture, "what colour is it")
    assert first.text in ANSWERS and first.visual_tokens == 4
    run.save(tmp_path)
    again = foveal.load(tmp_path)
    assert again.answer(picture, "what colour is it") == first
    batch = run.processor.prompt([(picture, "how many")], plan=run.model.plan)
    assert torch.equal(again.model(batch).logits, run.model(batch).logits)
    assert again.processor.text(run.generate(batch, max_new_tokens=1)[0]) in ANSWERS


def test_it_picks_among_the_choices_of_a_question_and_is_read_back(tmp_path, picture):
    torch.manual_seed(0)
    run = foveal.build(config(heads={"choice": {"name": "classification", "labels": 1}})).eval()
    for weight in run.model.parameters():
        torch.nn.init.normal_(weight, std=0.3) if weight.ndim > 1 else None
    words = word_tokenizer(["what colour is it", "red blue very two"])
    run.processor = Processor(tokenizer=words, config=replace(processor().config, answers=None, choices=2))
    choices = ("red", "very red", "blue", "two")
    text = " | ".join(("what colour is it", *choices))
    batch = run.processor.prompt([(picture, text)], plan=run.model.plan)
    scores = run.model(batch).heads["choice"][:, 0]
    first = run.answer(picture, text)
    assert first.text == choices[int(scores.argmax())] and len(scores) == 4
    least = " | ".join(("what colour is it", *(c for c in choices if c != first.text)))
    assert run.answer(picture, least).text == choices[int(scores.argsort()[-2])]
    run.save(tmp_path)
    again = foveal.load(tmp_path)
    assert again.answer(picture, text) == first and again.processor.config.choices == 2
    assert again.processor.text(again.generate(batch, max_new_tokens=1)[0]) == first.text
    ids = run.model.choose(run.processor.prompt([(picture, text), (None, text)], plan=run.model.plan))
    assert [run.processor.text(row) in choices for row in ids] == [True, True]


def test_a_batch_names_the_right_answers_and_shares_pictures(picture):
    run = foveal.build(config())
    asked = [example("what colour is it", "red", picture), example("how many", "seven", picture)]
    batch = processor().training([asked], plan=run.model.plan)
    assert batch.targets["answer"].tolist() == [0, -100]
    assert batch.visual.values.shape[0] == 1 and (batch.image_slot >= 0).sum(1).tolist() == [4, 4]
    assert batch.labels is None


def test_the_question_and_the_picture_both_matter(picture):
    torch.manual_seed(0)
    model = foveal.build(config()).eval().model
    reader = processor()
    other = picture.transpose(0).point(lambda value: 255 - value)
    scores = [
        model(reader.prompt([(image, text)], plan=model.plan)).logits
        for image, text in ((picture, "how many"), (other, "how many"), (picture, "what colour is it"))
    ]
    assert not torch.allclose(scores[0], scores[1]) and not torch.allclose(scores[0], scores[2])


def test_what_it_lacks_is_named(picture):
    with pytest.raises(InputError, match="no heads"):
        assemble(ModelConfig.parse(config(heads={})))
    with pytest.raises(InputError, match="empty answer vocabulary"):
        Processor(tokenizer=word_tokenizer(["a"]), config=ProcessorConfig(answers=()))
    with pytest.raises(InputError, match="unknown assembly 'maskd'"):
        foveal.build(config(assembly="maskd"))
    mute = foveal.build(config(heads={"pair": "classification"}))
    ids = torch.ones(1, 2, dtype=torch.long)
    with pytest.raises(InputError, match="the heads pair and none for answers"):
        mute.model.choose(Batch(input_ids=ids, valid=ids > 0, prompt=ids > 0, image_slot=ids - 2))
    with pytest.raises(InputError, match="the heads pair and none for choices; train one as 'choice'"):
        mute.model.choose(Batch(input_ids=ids, valid=ids > 0, prompt=ids > 0, image_slot=ids - 2, choices=1))


def test_the_last_layer_speaks_only_where_a_head_listens(picture):
    torch.manual_seed(0)
    heads = {"answer": {"name": "classification"}, "words": "masked_language", "regions": "region_prediction"}
    model = foveal.build(config(heads=heads)).model.eval()
    asked = [(picture, "what colour is it"), (None, "how many"), (picture, "how")]
    batch = processor().prompt(asked, plan=model.plan, padding="right")
    some = torch.rand(batch.valid.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    few = some & batch.valid & (batch.image_slot < 0)
    every = model(batch, keep_hidden=True)
    lengths = []
    model.language.layers[-1].feed.register_forward_hook(lambda *seen: lengths.append(seen[-1].shape[1]))
    for at in ({"answer": None}, {"words": few, "answer": None}, {"regions": some, "words": few}):
        told = model(batch, at=at)
        assert set(told.heads) == set(at)
        for name, where in at.items():
            whole = every.heads[name] if where is None else every.heads[name][where]
            torch.testing.assert_close(told.heads[name], whole, atol=1e-5, rtol=1e-5)
    assert lengths[0] == 1 and max(lengths) < batch.valid.shape[1]
    model(batch, at={"words": None})
    assert lengths[-1] == batch.valid.shape[1]


def recipes():
    """The models of all recipes whose rows heads tell as a whole."""
    made = {path.stem: yaml.safe_load(path.read_text())["model"] for path in RECIPES.glob("*.yaml")}
    return {name: parts for name, parts in made.items() if parts.get("assembly") == "masked"}


def tiny(parts, **fusion):
    """A recipe's model over a tiny encoder, with weights that tell inputs apart."""
    torch.manual_seed(0)
    language = {**parts["language"], "vocabulary": 40}
    fused = {**parts["fusion"], **fusion} if isinstance(parts["fusion"], dict) else {"name": parts["fusion"], **fusion}
    model = foveal.build({**parts, "vision": VISION, "language": language, "fusion": fused}).model.eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1) if weight.ndim > 1 else None
    return model


@pytest.mark.parametrize("name", sorted(recipes()))
def test_answers_are_the_same_whichever_side_the_padding_is_on(name, picture):
    model, reader = tiny(recipes()[name]), processor()
    other = picture.transpose(0).point(lambda value: 255 - value)
    asked = [(picture, "how many"), (other, "what colour is it what colour is it"), (None, "how"),
             ([picture, other], "what colour")]  # fmt: skip
    batches = {side: reader.prompt(asked, plan=model.plan, padding=side) for side in ("left", "right")}
    assert not batches["left"].valid[:, 0].all()
    for head in (name for name in model.heads if name in ("answer", "matching")):
        told = {side: model(batch, at={head: None}).logits for side, batch in batches.items()}
        every = model(batches["left"], at={head: None}, keep_hidden=True).logits
        torch.testing.assert_close(told["left"], told["right"], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(every, told["right"], atol=1e-5, rtol=1e-5)
        for row, one in enumerate(asked):
            alone = model(reader.prompt([one], plan=model.plan), at={head: None}).logits[0]
            torch.testing.assert_close(told["left"][row], alone, atol=1e-5, rtol=1e-5)
    if "pair" in model.heads:
        both = [reader.prompt([asked[0], asked[3]], plan=model.plan, padding=side) for side in ("left", "right")]
        (left, _), (right, _) = (embed(model, batch) for batch in both)
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


def test_a_batch_may_say_where_its_rows_begin(picture):
    model = tiny(config(), places=0)
    batch = processor().prompt([(picture, "how many"), (None, "how")], plan=model.plan)
    assert batch.begins.tolist() == [0, int((~batch.valid[1]).sum())]
    first = replace(batch, begin=torch.zeros(2, dtype=torch.long))
    told, every = model(first).logits, model(first, keep_hidden=True)
    expected = model.heads["answer"](every.hidden_states[-1])  # what stands in column 0, padding or not
    torch.testing.assert_close(told, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(told[1], model(batch).logits[1])


@pytest.mark.parametrize("name", sorted(recipes()))
def test_the_first_image_of_a_row_is_told_from_the_second_where_wanted(name, picture):
    reader, other = processor(), picture.transpose(0).point(lambda value: 255 - value)
    asked = [([picture, other], "what colour"), ([other, picture], "what colour"), (picture, "how")]
    for numbers in (0, 2):
        model = tiny(recipes()[name], images=numbers)
        assert any("number" in part for part in model.state_dict()) == bool(numbers)
        told = model(reader.prompt(asked, plan=model.plan, shared=True)).logits
        assert bool((told[0] - told[1]).abs().max() > 1e-3) == bool(numbers)
        for row, one in enumerate(asked):
            alone = model(reader.prompt([one], plan=model.plan)).logits[0]
            torch.testing.assert_close(told[row], alone, atol=1e-5, rtol=1e-5)
