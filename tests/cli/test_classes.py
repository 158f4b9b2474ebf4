"""Pretraining as in BEiT-3: masked words, masked patches by a tokenizer's codes, pairs in contrast; then answers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import foveal
from foveal.cli import _classes
from foveal.cli.main import run
from foveal.core.errors import InputError
from foveal.core.types import Batch, Layout, VisualTokens
from foveal.preprocess.processor import Processor, ProcessorConfig
from foveal.preprocess.transform import ImageTransform
from foveal.preprocess.words import word_tokenizer
from foveal.training.config import Stage

PARTS = ["vision", "connector", "fusion", "language", "heads"]
SHARED = {"train": PARTS, "batch_size": 2}
PRETRAIN = {"name": "pretrain", "matching": 0.0, "target": "classes"}
TINY = {
    "system": "beit3",
    "model": {
        "assembly": "masked",
        "vision": {"name": "patches", "width": 16, "patch": 4, "image_size": 16},
        "connector": "identity",
        "fusion": {"name": "prefix", "positions": 17, "mask": True},
        "language": {"name": "multiway", "width": 16, "depth": 2, "heads": 2, "inner": 32},
        "heads": {
            "answer": {"name": "mlp_classification", "pre_norm": True},
            "words": "masked_language",
            "regions": {"name": "region_prediction", "labels": 7},
            "pair": "contrastive",
        },
    },
    "processor": {"image": {"size": 16, "mode": "square"}, "answers": 5, "order": "prefix"},
    "data": {"path": "data"},
    "training": {
        "device": "cpu",
        "log_every": 1,
        "classes": "tokenizer",
        "keep_stages": True,
        "stages": [
            {"name": "mask", "steps": 2, "objective": PRETRAIN, **SHARED},
            {"name": "pair", "steps": 2, "objective": "contrastive", "accumulate": 2, **SHARED},
            {"name": "answer", "steps": 2, "objective": "choose", **SHARED},
        ],
    },
}


def tokenizer(path, **image):
    """A run with a random image tokenizer of 7 codes on 2 x 2 cells, beside a language model that nobody asks."""
    torch.manual_seed(0)
    vq = {"name": "vq", "codes": 7, "width": 4, "latent": 4, "base": 32, "multiples": [1, 1, 1, 1], "blocks": 1,
          "resolution": 16, "middle": False, "decoder": False}  # fmt: skip
    made = foveal.build(
        {"vision": vq, "language": {"name": "decoder", "vocabulary": 9, "width": 8, "depth": 1, "heads": 2}}
    )
    settings = ProcessorConfig(image=ImageTransform(**{"size": 16, "mode": "square", **image}))
    made.processor = Processor(tokenizer=word_tokenizer(["a"]), config=settings)
    made.save(path)
    return made


@pytest.mark.parametrize("options", [[], ["text_only=true"]])
def test_a_run_is_pretrained_by_codes_and_pairs_and_then_answers(painted, capsys, options):
    tokenizer("tokenizer")
    Path("tiny.yaml").write_text(yaml.safe_dump(TINY))
    assert run(["train", "tiny.yaml", *options]) == 0
    rows = [json.loads(line) for line in Path("runs/tiny/log.jsonl").read_text().splitlines()]
    stages = ["mask"] * 2 + ([] if options else ["pair"] * 2) + ["answer"] * 2
    assert [row["stage"] for row in rows] == stages
    if not options:
        assert 0 < rows[0]["prior_regions"] <= 1.946 and {"loss_words", "loss_regions"} <= rows[0].keys()
        assert {"loss_pairs", "accuracy_pairs"} <= {key for row in rows for key in row}
    if not options:
        captions = Path("data/train.jsonl").read_text().replace('"kind": "colour"', '"kind": "caption"')
        Path("data/test.jsonl").write_text(captions)
        whole, mask = (foveal.load(path).model.heads for path in ("runs/tiny", "runs/tiny/stages/mask"))
        assert torch.equal(whole["words"].bias, mask["words"].bias)  # of no later stage
        assert not torch.equal(whole["pair"].words.weight, mask["pair"].words.weight)
        capsys.readouterr()
        assert run(["eval", "--run", "runs/tiny/stages/pair", "--data", "data", "--pretraining", "--json"]) == 0
        scored = json.loads(capsys.readouterr().out)
        assert scored["regions"]["count"] > 0 and 0 < scored["regions"]["prior"] <= 1.946
        assert scored["pair"]["count"] == 6 and 0 <= scored["pair"]["accuracy"] <= 1 and scored["pair"]["loss"] > 0
    asked = None if options else "data/0.png"
    assert foveal.load("runs/tiny").answer(asked, "what colour is it").text in ("red", "green", "blue", "very large")


def coder(count):
    """A tokenizer of so many codes that never looks."""
    made = object.__new__(_classes.Tokenizer)
    made.count, made.part, made.transform = count, None, None
    return made


def test_a_token_is_told_by_the_cell_that_it_lies_in():
    codes = VisualTokens.on_layout(torch.arange(8.0)[:, None], Layout.of_grids([(2, 2)] * 2))
    finer, eight = Layout.of_grids([(4, 4), (1, 1)]), coder(8)
    told = _classes.classes(codes, finer, eight)
    assert told.int().argmax(1).tolist() == [0, 0, 1, 1] * 2 + [2, 2, 3, 3] * 2 + [7]
    classed = _classes.classes(codes, Layout(counts=(5, 4), grids=(None, (2, 2))), eight)
    assert not classed[0].any() and classed[1:].int().argmax(1).tolist() == list(range(8))
    with pytest.raises(InputError, match="7 visual tokens lie on no grid"):
        _classes.classes(codes, Layout(counts=(7, 4), grids=(None, None)), eight)


def test_what_lies_in_no_cell_is_not_hidden():
    ids = torch.zeros(1, 3, dtype=torch.long)
    batch = Batch(input_ids=ids, valid=ids == 0, prompt=ids == 0, image_slot=torch.arange(3)[None])
    batch = replace(batch, targets={"regions": torch.tensor([True, True, False])})
    told = torch.tensor([[False, False], [True, False], [False, True]])
    assert _classes.beside(batch, told).targets["regions"].tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("objective", "wanted"),
    [
        (PRETRAIN, True),
        ({**PRETRAIN, "regions": 0.0}, False),
        ("pretrain", False),
        ({"name": "masked_regions", "target": "classes"}, True),
    ],
)
def test_codes_are_wanted_where_hidden_patches_have_classes(objective, wanted):
    assert _classes.wanted(Stage(steps=1, objective=objective)) is wanted


def test_a_run_without_a_tokenizer_and_another_mode_are_refused(tmp_path):
    made = tokenizer(tmp_path / "other", mode="letterbox")
    own = Processor(tokenizer=word_tokenizer(["a"]), config=ProcessorConfig(image=ImageTransform(size=16)))
    with pytest.raises(InputError, match="in mode letterbox, and this model in square"):
        _classes.Tokenizer(str(tmp_path / "other"), own)
    made.model.vision = made.model.connector = None
    made.model.config = replace(made.model.config, vision=None, connector=None)
    made.save(tmp_path / "none")
    with pytest.raises(InputError, match="holds no image tokenizer"):
        _classes.Tokenizer(str(tmp_path / "none"), own)


def test_the_imagenet_classifier_tells_cells_by_their_chances(tmp_path):
    """A cat's picture: the chances of every cell are whole, and most cells agree with the classifier of the whole."""
    from PIL import Image
    from skimage import data

    path = tmp_path / "cat.png"
    Image.fromarray(data.chelsea()).save(path)
    own = Processor(tokenizer=word_tokenizer(["a"]), config=ProcessorConfig(image=ImageTransform(size=256)))
    teller = _classes.ImageNet(own)
    known = _classes.of("imagenet", own, lambda sizes: Layout.of_grids([(4, 4)] * len(sizes)))
    with torch.no_grad():
        told = known([path])
        whole = teller.part.logits(teller.transform.pixels([path]).values)[0]
    assert told.shape == (16, 1000)
    torch.testing.assert_close(told.sum(1), torch.ones(16))
    assert int(told.mean(0).argmax()) in whole.topk(3).indices.tolist()
    assert 281 <= int(told.mean(0).argmax()) <= 285  # ImageNet's cats
