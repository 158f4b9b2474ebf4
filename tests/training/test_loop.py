"""One loop: a step is the same however it is split, a run the same however it is interrupted."""

import errno
import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from foveal.core.errors import InputError
from foveal.training import checkpoint, loop, memory
from foveal.training.checkpoint import Checkpoints
from foveal.training.config import Lora, Stage, TrainingConfig
from foveal.training.loop import train
from foveal.training.objective import objective
from foveal.training.stop import Interrupted

TRAINED = ("connector", "language")


def stage(**settings):
    return Stage(**{"steps": 4, "train": TRAINED, "batch_size": 4, "rate": 1e-2, **settings})


def config(*stages, **settings):
    return TrainingConfig(stages=stages, **{"log_every": 1, "checkpoint_minutes": 1000.0, **settings})


def run(world, out, *stages, model=None, data=None, collate=None, **settings):
    model = model if model is not None else world.model()
    result = train(
        model, data or world.data, config=config(*stages, **settings), collate=collate or world.collate(model), out=out
    )
    return model, result


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "log.jsonl").read_text().splitlines()]


def same(one, other, *, atol=0.0):
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name in mine:
        if atol:
            torch.testing.assert_close(mine[name], theirs[name], atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")
        else:
            assert torch.equal(mine[name], theirs[name]), name


@pytest.mark.parametrize("group", [False, True])
def test_accumulated_micro_batches_equal_one_big_step(world, tmp_path, group):
    split, _ = run(world, tmp_path / "a", stage(batch_size=2, accumulate=3, group=group), model=world.model().double())
    whole, _ = run(world, tmp_path / "b", stage(batch_size=6, group=group), model=world.model().double())
    same(split, whole, atol=1e-6)
    torch.testing.assert_close(losses(tmp_path / "a"), losses(tmp_path / "b"), atol=1e-6, rtol=0)


def test_the_loss_is_the_mean_over_the_steps_answer_tokens(world, tmp_path):
    model = world.model()
    make = world.collate(model)(stage())
    batch = make([[example] for example in world.data])
    with torch.no_grad():
        scores = model(batch).logits[:, :-1].log_softmax(-1)
    wanted = batch.labels[:, 1:]
    own = -scores.gather(-1, wanted.clamp(min=0)[..., None])[..., 0][wanted >= 0]
    run(world, tmp_path, stage(steps=1, batch_size=6, accumulate=6), model=model)
    assert losses(tmp_path) == pytest.approx([own.mean().item()], abs=1e-6)


def test_steps_keep_their_memory_and_give_it_back(world, tmp_path):
    model, within, after = world.model(), [], []
    model.head.register_forward_hook(lambda *_: within.append(memory._within))
    collate = world.collate(model)
    settings = {"config": config(stage(steps=2), device="cpu"), "collate": collate, "out": tmp_path}
    train(model, world.data, **settings, ended=lambda _: after.append(memory._within))
    assert set(within) == {1}
    assert after == [0]


def test_packed_and_grouped_rows_give_the_loss_of_single_ones(world, tmp_path):
    plain = stage(steps=1, batch_size=36)
    grouped = stage(steps=1, batch_size=12, group=True)
    packed = stage(steps=1, batch_size=36, pack=64)
    for name, one in {"plain": plain, "grouped": grouped, "packed": packed}.items():
        run(world, tmp_path / name, one, model=world.model())
    assert losses(tmp_path / "grouped") == pytest.approx(losses(tmp_path / "plain"), abs=1e-6)
    assert losses(tmp_path / "packed") == pytest.approx(losses(tmp_path / "plain"), abs=1e-6)


def test_logits_exist_for_labelled_places_alone(world, tmp_path):
    model = world.model()
    seen = []
    model.head.register_forward_hook(lambda head, given, logits: seen.append(logits.shape))
    make = world.collate(model)
    run(world, tmp_path, stage(steps=1), model=model, data=world.data[:4], collate=make)
    labels = make(stage())([[example] for example in world.data[:4]]).labels
    assert seen == [(int((labels[:, 1:] >= 0).sum()), len(world.processor.tokenizer))]


def test_frozen_parts_stay_bit_equal_in_eval_mode_and_without_gradients(world, tmp_path):
    model = world.model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wished = [parameter.requires_grad for parameter in model.parameters()]
    modes = []
    model.vision.register_forward_hook(lambda part, given, seen: modes.append((part.training, model.language.training)))
    run(world, tmp_path, stage(train=("connector", "language.layers.1")), model=model)
    assert set(modes) == {(False, False)}
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if name.startswith(("connector.", "language.layers.1."))}
    assert [parameter.requires_grad for parameter in model.parameters()] == wished
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_is_frozen_is_in_no_optimizer_and_in_no_checkpoint(world, tmp_path, monkeypatch, optimizer):
    model, made = world.model(), []
    make = loop.optimizer
    monkeypatch.setattr(loop, "optimizer", lambda *given: made.append(make(*given)) or made[-1])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stages = (
        stage(name="one", train=("connector",)),
        stage(name="two", train=("language.layers.1", "connector.map.bias")),
    )
    run(world, tmp_path, *(replace(one, optimizer=optimizer, weight_decay=0.1) for one in stages), model=model)
    named = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [{named[id(p)] for group in one.param_groups for p in group["params"]} for one in made]
    layer = {name for name in before if name.startswith("language.layers.1.")}
    assert held == [{"connector.map.weight", "connector.map.bias"}, layer | {"connector.map.bias"}]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    store = Checkpoints(folder=tmp_path / "checkpoints")
    snapshot = store.read(store.newest())
    assert changed == set(snapshot.weights) == held[0] | held[1]
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in snapshot.weights.items())
    run(world, tmp_path / "b", stages[1], model=world.model(), checkpoint_minutes=1e-9)
    within = Checkpoints(folder=tmp_path / "b" / "checkpoints").found()[0]
    state = Checkpoints(folder=tmp_path).read(within).optimizer
    assert {int(name.split(".")[0]) for name in state} == set(range(len(held[1])))


def stopping(world, model, signum, at):
    """A collate that is interrupted while it makes a batch."""
    made = []

    def of(stage):
        make = world.collate(model)(stage)

        def interrupted(groups, place):
            made.append(groups)
            if len(made) == at:
                os.kill(os.getpid(), signum)
            return make(groups, place)

        return interrupted

    return of


STAGES = (
    stage(name="first", steps=6, train=("connector",)),
    stage(name="second", steps=6, train=("connector",), lora=Lora(rank=2, dropout=0.5), group=True, batch_size=2),
    stage(name="third", steps=None, epochs=1.0, kinds={"long": 0.5}, batch_size=8, optimizer="muon"),
)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_resumes_to_the_same_curve_bit_for_bit(world, tmp_path, signum, code):
    whole, done = run(world, tmp_path / "whole", *STAGES)
    for attempt in range(3):  # the first ends in the first stage, the second in the second, with adapters on
        model = world.model()
        if attempt == 2:
            _, result = run(world, tmp_path / "parts", *STAGES, model=model)
            break
        with pytest.raises(Interrupted) as asked:
            run(world, tmp_path / "parts", *STAGES, model=model, collate=stopping(world, model, signum, 8))
        assert asked.value.exit_code == code
        assert asked.value.checkpoint.is_dir()
    assert 0 < result.resumed_from < result.steps == done.steps
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    same(model, whole)


@pytest.mark.parametrize("at", [4, 6])  # within a log entry, and in the last step of the stage
def test_an_entry_that_an_interruption_divides_is_the_mean_of_all_its_steps(world, tmp_path, at):
    run(world, tmp_path / "whole", stage(steps=6), log_every=5)
    model = world.model()
    with pytest.raises(Interrupted):
        run(
            world, tmp_path / "parts", stage(steps=6), log_every=5,
            model=model, collate=stopping(world, model, signal.SIGINT, at),
        )  # fmt: skip
    run(world, tmp_path / "parts", stage(steps=6), log_every=5)
    told = losses(tmp_path / "whole")
    assert len(told) == 2
    assert losses(tmp_path / "parts") == told


def test_a_signal_ends_the_making_of_features_at_once(world, tmp_path):
    def slow(stage):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on to make features")

    with pytest.raises(Interrupted) as asked:
        run(world, tmp_path, *STAGES, collate=slow)
    assert (asked.value.exit_code, asked.value.step, asked.value.checkpoint) == (143, 0, None)


def test_a_crash_costs_the_steps_since_the_last_checkpoint_alone(world, tmp_path):
    whole, _ = run(world, tmp_path / "whole", *STAGES)

    class Crash(Exception):
        pass

    def crashing(model):
        def of(stage):
            make = world.collate(model)(stage)

            def make_or_crash(groups, place):
                if len(losses(tmp_path / "parts")) >= 9:
                    raise Crash
                return make(groups, place)

            return make_or_crash

        return of

    model = world.model()
    with pytest.raises(Crash):
        run(world, tmp_path / "parts", *STAGES, model=model, collate=crashing(model), checkpoint_minutes=0.0)
    again, result = run(world, tmp_path / "parts", *STAGES, checkpoint_minutes=0.0)
    assert result.resumed_from >= 9
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    same(again, whole)


def test_a_finished_run_is_not_trained_again(world, tmp_path):
    first, _ = run(world, tmp_path, stage())
    again, result = run(world, tmp_path, stage())
    assert result.resumed_from == result.steps == 4
    same(again, first)


def test_stages_added_at_the_end_go_on_from_a_finished_run(world, tmp_path):
    whole, _ = run(world, tmp_path / "whole", *STAGES)
    run(world, tmp_path / "parts", *STAGES[:2])
    again, result = run(world, tmp_path / "parts", *STAGES)
    assert result.resumed_from == 12
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    same(again, whole)


def test_other_frozen_weights_do_not_resume(world, tmp_path):
    frozen = stage(train=("connector",))
    run(world, tmp_path, frozen)
    with pytest.raises(InputError, match="other frozen weights"):
        run(world, tmp_path, frozen, model=world.model(seed=1))


def test_fresh_begins_anew(world, tmp_path):
    run(world, tmp_path, stage())
    model = world.model()
    result = train(
        model, world.data, config=config(stage(rate=2e-2)), collate=world.collate(model), out=tmp_path, fresh=True
    )
    assert result.resumed_from == 0
    assert len(losses(tmp_path)) == 4


def test_a_full_disk_leaves_the_last_checkpoint_and_says_so(world, tmp_path, monkeypatch):
    writes = []

    def full(path):
        writes.append(path)
        if len(writes) > 8:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_sync", full)
    with pytest.raises(InputError, match=r"no space left .* at step 3; the last checkpoint, step-00000002-stage-00"):
        run(world, tmp_path, stage(), checkpoint_minutes=0.0)
    assert not list((tmp_path / "checkpoints").glob(".partial*"))
    monkeypatch.undo()
    model, result = run(world, tmp_path, stage())
    whole, _ = run(world, tmp_path / "whole", stage())
    assert result.resumed_from == 2
    same(model, whole)


def test_a_loss_that_is_no_number_names_its_step_and_stops(world, tmp_path):
    model = world.model()
    passes = []

    def spoil(part, given, seen):
        passes.append(part)
        return seen * (float("nan") if len(passes) == 3 else 1.0)

    model.head.register_forward_hook(spoil)
    with pytest.raises(InputError, match=r"step 3 \(stage 'train', examples .*\): the loss is nan; lower the learning"):
        run(world, tmp_path, stage(), model=model, checkpoint_minutes=0.0)
    assert [path.name for path in sorted((tmp_path / "checkpoints").iterdir())][-1] == "step-00000002-stage-00"


def test_data_without_answers_are_refused(world, tmp_path):
    mute = [type(e)(id=e.id, messages=e.messages[:1], images=e.images) for e in world.data]
    with pytest.raises(InputError, match="no token carries a loss"):
        run(world, tmp_path, stage(), data=mute)


def test_too_many_workers_are_refused_before_a_run_is_begun(world, tmp_path):
    with pytest.raises(InputError, match=r"training.workers is 1,000,000, and this machine has"):
        run(world, tmp_path / "run", stage(), workers=1_000_000)
    assert not (tmp_path / "run").exists()


def test_recomputed_activations_and_workers_change_nothing(world, tmp_path):
    plain, _ = run(world, tmp_path / "plain", stage())
    for name, more, settings in (
        ("recomputed", {"checkpointing": True}, {}),
        ("workers", {}, {"workers": 2}),
    ):
        other, _ = run(world, tmp_path / name, stage(**more), **settings)
        same(other, plain)
    assert "forward" not in vars(plain.language.layers[0])


def test_bf16_follows_fp32_from_afar(world, tmp_path):
    run(world, tmp_path / "fp32", stage())
    run(world, tmp_path / "bf16", stage(precision="bf16"))
    exact, rough = losses(tmp_path / "fp32"), losses(tmp_path / "bf16")
    assert rough != exact
    assert rough == pytest.approx(exact, rel=0.05)


def test_adapters_leave_the_base_bit_equal_until_they_are_merged(world, tmp_path):
    model = world.model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seen = {}
    make = world.collate(model)

    def watched(stage):
        return lambda groups, place: seen.update(checkpoint.parameters_of(model)) or make(stage)(groups)

    lora = stage(train=(), lora=Lora(rank=2, targets=("query", "value", "mlp.up")), steps=6)
    run(world, tmp_path, lora, model=model, collate=watched)
    assert sum("lora_A" in name for name in seen) == 6
    after = model.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    ends = ("attention.query.weight", "attention.value.weight", "mlp.up.weight")
    assert changed == {name for name in before if name.startswith("language.layers.") and name.endswith(ends)}
    delta = after["language.layers.0.mlp.up.weight"] - before["language.layers.0.mlp.up.weight"]
    assert torch.linalg.matrix_rank(delta, atol=1e-6) == 2


def test_the_run_ends_at_its_time_limit(world, tmp_path):
    _, result = run(world, tmp_path, stage(steps=10**6), stage(name="never", steps=10**6), max_minutes=0.01)
    assert 0 < result.steps < 10**6
    _, timed = run(world, tmp_path / "timed", Stage(minutes=0.01, train=TRAINED, batch_size=2))
    assert timed.seconds >= 0.6


def test_wrong_names_are_told_with_the_nearest(world, tmp_path):
    for wrong, message in (
        ({"train": ("conector",)}, "unknown part of the model 'conector'; did you mean 'connector'"),
        ({"rates": {"vison": 1e-3}}, "did you mean 'vision'"),
        ({"kinds": {"colors": 2.0}}, "unknown kind in the data: 'colors'; did you mean 'colour'"),
        ({"objective": "next_tokn"}, "did you mean 'next_token'"),
        ({"objective": {"name": "joint", "cell": 0.1}}, "did you mean 'cells'"),
        ({"lora": Lora(targets=("querry",))}, "unknown linear map in language: 'querry'; did you mean 'query'"),
    ):
        with pytest.raises(InputError, match=message):
            run(world, tmp_path, stage(**wrong))
    assert callable(objective({"name": "joint", "cells": 0.5}))
