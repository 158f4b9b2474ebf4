"""An image and a text a row, read in three ways by one set of weights."""

from dataclasses import replace

import pytest
import torch

import foveal
from foveal.core.errors import InputError
from foveal.core.types import IGNORE, Batch, Pixels
from foveal.models import assembly
from foveal.models.config import ModelConfig

VIT = {"name": "vit", "image_size": 16, "patch": 8, "width": 8, "depth": 1, "heads": 2, "inner": 8, "layers": [-1],
       "class_token": False, "select": "full"}  # fmt: skip
LANGUAGE = {"name": "qformer", "vocabulary": 20, "width": 8, "depth": 2, "heads": 2, "queries": 3, "places": 2}
HEADS = {"pair": {"name": "contrastive", "size": 5}, "write": "masked_language", "matching": "averaged"}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def config(**more):
    parts = {"assembly": "two_tower", "vision": VIT, "connector": None, "language": LANGUAGE, "heads": HEADS}
    return ModelConfig.parse({**parts, **more})


def model(**more):
    torch.manual_seed(0)
    made = assembly.assemble(config(**more))
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.3) if weight.ndim > 1 else None
    return made.eval()


def batch(side="right", rows=(0, 1, 2)):
    """Three rows: a word, the image, and three to five words; labels on all but two."""
    texts = [[5, 6, 7, 8], [9, 10, 11, 12, 13, 14], [5, 15, 16, 17, 18]]
    texts = [texts[row] for row in rows]
    longest = max(map(len, texts)) + 1
    fields = {"input_ids": 0, "image_slot": -1, "labels": IGNORE, "valid": 0}
    tensors = {name: torch.full((len(texts), longest), fill) for name, fill in fields.items()}
    for row, words in enumerate(texts):
        begin = longest - len(words) - 1 if side == "left" else 0
        span = slice(begin, begin + len(words) + 1)
        tensors["input_ids"][row, span] = torch.tensor([words[0], 1, *words[1:]])
        tensors["image_slot"][row, begin + 1] = 4 * row
        tensors["valid"][row, span] = 1
        tensors["labels"][row, begin + 3 : begin + len(words) + 1] = torch.tensor(words[2:])
    valid = tensors.pop("valid").bool()
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))[list(rows)]
    return Batch(**tensors, valid=valid, prompt=valid, visual=Pixels.whole(pixels), owner=torch.arange(len(texts)))


def unmoved(made):
    """The weights that get no gradient, but for a norm behind the layer that is taken."""
    still = [name for name, weight in made.named_parameters() if weight.grad is None or not weight.grad.abs().any()]
    return [name for name in still if not name.startswith("vision.post_norm")]


def test_each_image_takes_one_place_and_every_weight_learns():
    made, given = model(), batch()
    assert made.plan([(16, 16)] * 2).places == (1, 1) and made.plan([(16, 16)]).counts == (4,)
    assert made.plan([(16, 16)] * 3, frames=(1, 2)).places == (1, 1)
    told = made(given)
    assert {name: tuple(said.shape) for name, said in told.heads.items()} == {
        "pair": (3, 4, 5), "write": (3, 6, 20), "matching": (3, 2),
    }  # fmt: skip
    sum(said.logsumexp(-1).sum() for said in told.heads.values()).backward()
    assert unmoved(made) == []


@pytest.mark.parametrize("head", ["pair", "write", "matching"])
def test_a_row_says_the_same_alone_and_whichever_side_the_padding_is_on(head):
    made = model()
    right, left, alone = (made(given, at={head: None}).heads[head] for given in (
        batch(), batch("left"), batch(rows=(2,))
    ))  # fmt: skip
    there = made.pairs(batch()).valid if head == "write" else torch.ones(3, dtype=torch.bool)
    torch.testing.assert_close(right[there], left[there], **CLOSE)
    own = right[2:, : alone.shape[1]] if head == "write" else right[2:]
    torch.testing.assert_close(own, alone, **CLOSE)


def test_vectors_are_of_one_side_alone():
    made, given = model(), batch()
    vectors = made(given, at={"pair": None}).heads["pair"]
    other = replace(given, visual=Pixels.whole(-given.visual.values))
    by_image = made(other, at={"pair": None}).heads["pair"]
    torch.testing.assert_close(vectors[:, -1], by_image[:, -1], **CLOSE)
    assert not torch.isclose(vectors[:, :-1], by_image[:, :-1], atol=1e-3).all(-1).any()
    by_text = made(replace(given, input_ids=given.input_ids + 1), at={"pair": None}).heads["pair"]
    torch.testing.assert_close(vectors[:, :-1], by_text[:, :-1], **CLOSE)
    assert not torch.isclose(vectors[:, -1], by_text[:, -1], atol=1e-3).all(-1).any()


def test_what_is_written_is_the_word_after_and_sees_no_later_one():
    made, given = model(), batch()
    told = made(given, keep="labelled")
    whole = made(given, at={"write": None}).heads["write"]
    assert told.labels.tolist() == [7, 8, 11, 12, 13, 14, 16, 17, 18]
    torch.testing.assert_close(told.logits, torch.cat([whole[0, 1:3], whole[1, 1:5], whole[2, 1:4]]), **CLOSE)
    last = given.input_ids.clone()
    last[0, 4] = 19
    changed = made(replace(given, input_ids=last), at={"write": None}).heads["write"]
    torch.testing.assert_close(whole[0, :3], changed[0, :3], **CLOSE)
    assert not torch.allclose(whole[0, 3], changed[0, 3], atol=1e-3)
    with pytest.raises(InputError, match="no labels"):
        made(replace(given, labels=None), keep="labelled")


def test_any_text_is_matched_with_any_image():
    made, given = model(), batch()
    pairs = made.pairs(given)
    told = made.match(pairs, torch.tensor([0, 2]), torch.tensor([1, 2]))
    swapped = replace(given, visual=Pixels.whole(given.visual.values[[1, 0, 2]]))
    torch.testing.assert_close(told, made(swapped, at={"matching": None}).heads["matching"][[1, 2]], **CLOSE)


def test_rows_that_are_no_pairs_are_told():
    made, given = model(), batch()
    slots = given.image_slot.clone()
    slots[1] = -1
    with pytest.raises(InputError, match="rows of 0 to 1 images and 3 of 3 with a text"):
        made(replace(given, image_slot=slots))
    slots = given.image_slot.clone()
    slots[0, 2] = 4
    with pytest.raises(InputError, match="rows of 1 to 2 images"):
        made(replace(given, image_slot=slots))
    wordless = given.valid & ((given.image_slot >= 0) | (torch.arange(3) > 0)[:, None])
    with pytest.raises(InputError, match="2 of 3 with a text"):
        made(replace(given, valid=wordless))


def test_a_run_comes_back_bit_for_bit_and_says_what_it_is(tmp_path):
    torch.manual_seed(0)
    made = foveal.build(config()).eval()
    read = foveal.load(made.save(tmp_path / "run"))
    given = batch()
    assert read.model.config == made.model.config
    assert all(torch.equal(one, read(given).heads[name]) for name, one in made(given).heads.items())
    with pytest.raises(InputError, match="tells which texts and images belong"):
        read.answer(None, "what is it")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"heads": {}}, "a two_tower model has no heads; name at least one of pair, write, matching"),
        ({"heads": {"pairs": "contrastive"}}, "did you mean 'pair'"),
        ({"language": {"name": "encoder", "vocabulary": 9}}, "take 'qformer'"),
        ({"language": {**LANGUAGE, "memory_width": 9}}, "memory_width 9 over visual tokens of width 8"),
    ],
)
def test_parts_that_do_not_fit_are_told(more, said):
    with pytest.raises(InputError, match=said):
        assembly.assemble(config(**more))


@pytest.mark.parametrize(
    ("kind", "language", "fit"),
    [
        ("causal", LANGUAGE, "decoder"),
        ("causal", {"name": "encoder", "vocabulary": 20}, "decoder"),
        ("masked", LANGUAGE, "encoder"),
        ("seq2seq", LANGUAGE, "decoder"),
    ],
)
def test_other_assemblies_take_no_such_language(kind, language, fit):
    parts = {"vision": VIT, "connector": "linear", "language": language, "heads": {"words": "masked_language"}}
    with pytest.raises(InputError, match=rf"unfit for a {kind} model; take .*{fit}.*") as told:
        assembly.assemble(ModelConfig.parse({"assembly": kind, **parts}))
    assert ("two_tower" in str(told.value)) is (language is LANGUAGE)
    assert "\n" not in str(told.value) and (kind == "masked" or "encoder or" not in str(told.value))
