"""Which objectives teach which models, told before anything is trained or cleared."""

import math
from dataclasses import fields

import pytest
import torch

from foveal.core import outside
from foveal.core.errors import InputError
from foveal.core.lookup import module, names
from foveal.models.assembly import ASSEMBLIES, assemble
from foveal.models.config import ModelConfig
from foveal.training.config import Stage, TrainingConfig
from foveal.training.loop import train
from foveal.training.objective import check, objective, wants

VIT = {"name": "vit", "width": 8, "depth": 1, "heads": 2, "inner": 16, "patch": 8, "image_size": 16, "layers": [-1]}
SMALL = {"vocabulary": 9, "width": 8, "depth": 1, "heads": 2, "inner": 16}
QFORMER = {"name": "qformer", "queries": 2, "context": 9, **SMALL}
MODELS = {
    "causal": {"vision": VIT, "language": {"name": "decoder", **SMALL}},
    "masked": {
        "vision": VIT,
        "fusion": "single_stream",
        "language": {"name": "encoder", **SMALL},
        "heads": {"words": "masked_language", "answer": {"name": "classification", "labels": 3}},
    },
    "two_tower": {"vision": VIT, "connector": None, "language": QFORMER, "heads": {"pair": "contrastive"}},
}


def model(assembly):
    torch.manual_seed(0)
    return assemble(ModelConfig.parse({**MODELS[assembly], "assembly": assembly}))


def test_every_objective_names_assemblies_that_are_there():
    for name in names("training.objectives"):
        named = module("training.objectives", name).WANTS.assemblies
        assert named and set(named) <= set(ASSEMBLIES), name


def test_no_setting_of_an_objective_is_below_zero_or_no_number():
    asked = [
        (name, entry.name, value)
        for name in names("training.objectives")
        for entry in fields(module("training.objectives", name).Config)
        for value in {int: (-1,), float: (-1.0, math.nan, math.inf)}.get(type(entry.default), ())
    ]
    assert ("joint", "cells", -1.0) in asked
    for name, setting, value in asked:
        with pytest.raises(InputError, match=rf"^{name}\.{setting} is {value:g}(\.0)?; give "):
            objective({"name": name, setting: value})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"name": "budgets", "least": 0}, "budgets.least is 0; give 1 or more"),
        ({"name": "budgets", "least": 9, "most": 3}, "budgets.least is 9 and budgets.most 3; give a least up to the"),
        ({"name": "budgets", "whole": 2}, "budgets.whole is 2; give a share of the batches from 0 to 1"),
        ({"name": "budgets", "cover": 0}, "budgets.cover is 0; give a share above 0, or 1 for all tiles"),
        ({"name": "budgets", "cover": 5}, "budgets.cover is 5; give a share above 0"),
        ({"name": "evidence", "budget": 0}, "evidence.budget is 0; give 1 or more"),
        ({"name": "pretrain", "words": 0, "regions": 0, "matching": 0}, "pretrain leaves out words, regions and match"),
    ],
)
def test_settings_of_an_objective_that_cannot_be_are_refused(settings, told):
    with pytest.raises(InputError, match=told):
        objective(settings)


@pytest.mark.parametrize(
    ("assembly", "objective", "told"),
    [
        (
            "causal",
            "choose",
            "'choose' teaches no causal model; train it by .*'budgets', 'cells', 'evidence', 'joint', 'match' or 'next",
        ),
        ("causal", "queries", r"'queries' teaches no causal model; .*, or give the model another assembly: two_tower$"),
        (
            "masked",
            "next_token",
            "train it by .* 'choose', 'contrastive', .* another assembly: causal, seq2seq or two_tower$",
        ),
        ("masked", {"name": "evidence", "budget": 8}, "'evidence' of 'next_token' teaches no masked model"),
        ("masked", "budgets", "teaches no masked model; make it of 'choose', or train it by the objective 'choose'"),
        ("masked", "pick", "teaches the head 'choice', and the model has words, answer; name one so under model.heads"),
        ("masked", "pretrain", "teaches the head 'regions', and the model has words, answer"),
        ("masked", {"name": "choose", "head": "other"}, "teaches the head 'other'"),
        (
            "two_tower",
            "joint",
            "'joint' teaches no two_tower model; train it by the objective 'cells'",
        ),
        ("two_tower", "queries", "teaches the head 'write', and the model has pair"),
        ("causal", "budgets", "'budgets' spends a budget of visual tokens, .*; give it a model.allocator"),
        ("causal", "next_tokn", "did you mean 'next_token'"),
    ],
)
def test_what_does_not_fit_is_told_with_what_would(assembly, objective, told):
    with pytest.raises(InputError, match=told):
        check(model(assembly), objective)


@pytest.mark.parametrize(
    ("assembly", "objective"),
    [
        ("causal", "joint"),
        ("masked", "choose"),
        ("masked", {"name": "pretrain", "regions": 0.0, "matching": 0.0}),
        ("two_tower", {"name": "queries", "words": 0.0, "matching": 0.0}),
        ("two_tower", "next_token"),
    ],
)
def test_what_fits_is_let_through(assembly, objective):
    check(model(assembly), objective)


def test_what_an_objective_is_made_of_wants_its_head_too():
    made = model("masked")
    del made.heads["answer"]
    with pytest.raises(InputError, match="'budgets' teaches the head 'answer', and the model has words"):
        check(made, {"name": "budgets", "of": "choose"})


def test_what_an_objective_is_made_of_says_what_it_wants():
    choosing, answering = wants({"name": "evidence", "of": "choose"}), wants("evidence")
    assert choosing.assemblies == ("masked",) and answering.assemblies == ("causal", "seq2seq")
    assert choosing.heads == ("answer",) and answering.heads == ()
    assert choosing.spends and answering.spends and choosing.answers and answering.answers
    assert wants({"name": "masked_regions", "head": "mine", "target": "classes"}).heads == ("mine",)
    assert not wants("pretrain").classes and wants({"name": "pretrain", "target": "classes"}).classes
    assert not wants({"name": "pretrain", "target": "classes", "regions": 0.0}).classes


def test_a_model_of_another_kind_is_asked_nothing():
    check(torch.nn.Linear(2, 2), "choose")


def test_a_run_that_is_there_is_not_cleared_for_an_objective_that_does_not_fit(world, tmp_path):
    made = world.model()
    told = {"collate": world.collate(made), "out": tmp_path}
    train(made, world.data, config=TrainingConfig(stages=(Stage(steps=1, train=("connector",)),)), **told)
    before = sorted((tmp_path / "checkpoints").iterdir())
    with pytest.raises(InputError, match="teaches no causal model"):
        later = (Stage(steps=1), Stage(name="later", steps=1, objective="choose"))
        train(made, world.data, config=TrainingConfig(stages=later), **told, fresh=True)
    assert sorted((tmp_path / "checkpoints").iterdir()) == before


STRANGE = """
from dataclasses import dataclass
from foveal.training.objectives.next_token import next_token
from foveal.training.wants import Wants

WANTS = Wants(assemblies=("causal",), answers=True)


@dataclass(frozen=True, kw_only=True)
class Config:
    weight: float = 1.0


def strange(model, batch, *, weight):
    loss, count = next_token(model, batch)
    return weight * loss, count
"""


def test_an_objective_of_another_package_says_what_it_wants(tmp_path, monkeypatch, world):
    folder = tmp_path / "strangers-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers\nVersion: 1\n")
    entries = ["strange = strangers_objective", "other = strangers_objective"]
    (folder / "entry_points.txt").write_text("\n".join(["[foveal.training.objectives]", *entries]))
    (tmp_path / "strangers_objective.py").write_text(STRANGE)
    monkeypatch.syspath_prepend(tmp_path)
    outside.outside.cache_clear()
    try:
        made = world.model()
        batch = world.collate(made)(Stage(steps=1))([[world.data[0]]], 0)
        ours, theirs = (objective(one)(made, batch)[0] for one in ("next_token", {"name": "strange", "weight": 2.0}))
        assert torch.equal(theirs, 2 * ours)
        check(made, "strange")
        with pytest.raises(InputError, match="'strange' teaches no masked model"):
            check(model("masked"), "strange")
        with pytest.raises(InputError, match="has no function other; call it so, by the name of the entry point"):
            objective("other")
    finally:
        monkeypatch.undo()
        outside.outside.cache_clear()
