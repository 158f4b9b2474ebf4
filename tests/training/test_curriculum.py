"""Within one run tokens thin out and parts thaw, by the progress alone: resumed, it goes on as it would have."""

import json
from dataclasses import replace

import pytest
import torch

from foveal.core.config import parse
from foveal.core.errors import InputError
from foveal.core.lookup import spec
from foveal.fusion.dense_sparse import between
from foveal.models.causal import assemble
from foveal.training import loop
from foveal.training.changing import course
from foveal.training.config import Sparser, Stage, Then, TrainingConfig
from foveal.training.loop import train

KEEP = {"name": "dense_sparse", "keep": [1, 0.25], "by": "norm"}  # 4 tokens an image, of which layer 1 sees one
ALL, SOME = ("connector", "language"), ("connector",)


def model_of(world, **fusion):
    torch.manual_seed(0)
    return assemble(replace(world.model().config, fusion=spec("fusion", {**KEEP, **fusion})))


def stage(name="one", **settings):
    return Stage(name=name, **{"steps": 6, "train": ALL, "batch_size": 4, "rate": 1e-2, **settings})


def run(world, out, model, *stages, collate=None, **settings):
    config = TrainingConfig(stages=stages, **{"log_every": 1, "checkpoint_minutes": 1000.0, **settings})
    train(model, world.data, config=config, collate=collate or world.collate(model), out=out)
    return rows(out)


def rows(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def same(one, other):
    for name, weight in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], weight), name


@pytest.mark.parametrize(
    ("curve", "seen"),
    [
        ({"curve": "linear"}, [4, 3, 3, 2, 1]),
        ({"curve": "exponential"}, [4, 3, 2, 1, 1]),
        ({"curve": "step", "jumps": 2}, [4, 4, 3, 3, 1]),
        ({"curve": "linear", "begin": 0.4, "end": 0.6}, [4, 4, 4, 1, 1]),
    ],
)
def test_tokens_thin_out_within_a_stage(world, tmp_path, curve, seen):
    model = model_of(world)
    told = run(world, tmp_path, model, stage(steps=5, sparser=Sparser(**curve)))
    assert [row["tokens_layer_1"] for row in told] == seen
    assert [row["tokens_layer_0"] for row in told] == [4] * 5
    assert model.plan_by_layer([(16, 16)]) == (4, 1), "the plan holds again"


def test_tokens_thin_out_over_a_run_and_a_stage_may_have_its_own(world, tmp_path):
    steady = Sparser(begin=0.0, end=1e-6)
    stages = (stage(steps=2), stage("two", steps=2, sparser=steady), stage("three", steps=2))
    told = run(world, tmp_path, model_of(world), *stages, sparser=Sparser(end=1.0))
    assert [row["tokens_layer_1"] for row in told] == [4, 4, 4, 1, 2, 2]  # 0, 1/6; 0, 1/2; 2/3, 5/6 of the way


def test_the_course_of_a_stage_is_where_it_begins_and_ends():
    own = stage("own", sparser=Sparser(curve="step", begin=0.5, end=1.0))
    run = TrainingConfig(stages=(stage(), own, stage("last")), sparser=Sparser(end=1.0))
    last = run.stages[2].phases()[0][1]
    assert [course(run, one) for one in (run.stages[0], own, last)] == [
        ((0.0, "linear"), (pytest.approx(1 / 3), "linear")),
        ((0.0, "step"), (1.0, "step")),
        ((pytest.approx(2 / 3), "linear"), (1.0, "linear")),
    ]
    assert course(replace(run, sparser=None), last) == ()


def test_the_first_step_is_the_dense_models(world, tmp_path):
    thin = run(world, tmp_path / "thin", model_of(world), stage(sparser=Sparser()))
    dense = run(world, tmp_path / "dense", model_of(world, schedule="none"), stage())
    assert thin[0]["loss"] == dense[0]["loss"] and thin[-1]["loss"] != dense[-1]["loss"]


def test_scores_learn_while_nothing_leaves(world, tmp_path):
    model = model_of(world, by="learned", inner=4)
    before = [weight.clone() for weight in model.fusion.parameters()]
    run(world, tmp_path, model, stage(train=("fusion",), sparser=Sparser(begin=0.99, end=1.0)))
    assert before and not any(map(torch.equal, before, model.fusion.parameters()))


def test_between_all_and_the_last_number():
    assert [between(100, 10, done, "linear") for done in (0.0, 0.5, 1.0)] == [100, 55, 10]
    assert [between(100, 1, done, "exponential") for done in (0.0, 0.5, 1.0)] == [100, 10, 1]
    assert between(3, 3, 0.3, "exponential") == 3 and between(0, 0, 0.3, "exponential") == 0


def learned_by_step(model):
    """Which parameters learn in every step."""
    seen = []
    model.connector.register_forward_hook(
        lambda part, given, made: seen.append({name for name, one in model.named_parameters() if one.requires_grad})
    )
    return seen


def test_parts_thaw_and_freeze_within_a_stage(world, tmp_path, monkeypatch):
    model, made, make = world.model(), [], loop.optimizer
    monkeypatch.setattr(loop, "optimizer", lambda *given: made.append(make(*given)) or made[-1])
    wished = [one.requires_grad for one in model.parameters()]
    seen, names = learned_by_step(model), {name for name, _ in model.named_parameters()}
    then = (Then(at=0.3, train=ALL), Then(at=0.7, train=("language.layers.1",)))
    run(world, tmp_path, model, stage(train=SOME, then=then))
    part = {one: {name for name in names if name.startswith(one)} for one in ("connector.", "language.")}
    lists = [part["connector."], part["connector."] | part["language."]]
    lists += [{name for name in names if name.startswith("language.layers.1.")}]
    assert seen == [lists[0]] * 2 + [lists[1]] * 3 + [lists[2]]  # 0, 1/6 | 1/3, 1/2, 2/3 | 5/6
    known = {id(one): name for name, one in model.named_parameters()}
    assert [{known[id(one)] for group in each.param_groups for one in group["params"]} for each in made] == lists
    assert [one.requires_grad for one in model.parameters()] == wished
    assert all(one.grad is None for one in model.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_goes_on_learning_keeps_its_state(world, tmp_path, optimizer):
    whole, parted = world.model(), world.model()
    one = run(world, tmp_path / "a", whole, stage(optimizer=optimizer))
    two = run(world, tmp_path / "b", parted, stage(optimizer=optimizer, then=(Then(at=0.5, train=ALL),)))
    assert [row["loss"] for row in one] == [row["loss"] for row in two]
    same(whole, parted)


class Crash(Exception):
    pass


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_a_run_that_broke_off_goes_on_to_the_same_curve(world, tmp_path, steps):
    """In three of twelve steps the connector alone learns, and all in the others."""
    one = stage(steps=12, train=SOME, then=(Then(at=0.25, train=ALL),), sparser=Sparser())
    whole, broken, again = (model_of(world) for _ in range(3))
    expected = run(world, tmp_path / "whole", whole, one)

    def crashing(stage):
        make = world.collate(broken)(stage)

        def batch(groups, place=0):
            if (tmp_path / "broken" / "log.jsonl").exists() and len(rows(tmp_path / "broken")) >= steps:
                raise Crash
            return make(groups, place)

        return batch

    with pytest.raises(Crash):
        run(world, tmp_path / "broken", broken, one, collate=crashing, checkpoint_minutes=0.0)
    assert broken.fusion.way is None and steps <= len(rows(tmp_path / "broken")) < 12
    found = run(world, tmp_path / "broken", again, one, checkpoint_minutes=0.0)
    for key in ("loss", "tokens_layer_1"):
        assert [row[key] for row in found] == [row[key] for row in expected]
    same(whole, again)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sparser": {"curv": "linear"}}, "did you mean 'curve'"),
        ({"sparser": {"curve": "lineer"}}, "did you mean 'linear'"),
        ({"sparser": {"begin": 0.5, "end": 0.5}}, "give shares from 0 to 1 that grow"),
        ({"sparser": {"jumps": 0}}, "1 jump or more"),
        ({"then": [{"at": 0.5, "trian": ["language"]}]}, "did you mean 'train'"),
        ({"then": [{"at": 0.5, "train": ["language"]}, {"at": 0.2, "train": ["head"]}]}, "at 0.5, 0.2; give shares"),
        ({"then": [{"at": 1.0, "train": ["language"]}]}, "between 0 and 1"),
        ({"then": [{"at": 0.5, "train": []}]}, "trains nothing from some share on"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        parse(TrainingConfig, {"stages": [{"steps": 2, **wrong}]}, where="training")


def test_what_does_not_fit_the_model_is_told_before_a_step(world, tmp_path):
    for wrong, message in (
        ({"sparser": Sparser()}, "every layer of this model sees all; take the fusion dense_sparse"),
        ({"then": (Then(at=0.9, train=("conector",)),)}, "'conector'; did you mean 'connector'"),
    ):
        with pytest.raises(InputError, match=message):
            run(world, tmp_path, world.model(), stage(**wrong))
    assert not rows(tmp_path)
