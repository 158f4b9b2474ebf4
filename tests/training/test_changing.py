"""What changes over a run, and what it tells: by the progress alone, so a resumed run goes on as it would have."""

import json
from dataclasses import replace

import pytest
import torch

from foveal.core.lookup import spec
from foveal.models.causal import assemble
from foveal.training.changing import behind, heard
from foveal.training.config import Stage, TrainingConfig
from foveal.training.loop import train
from foveal.training.stop import Interrupted

TABLE = {"name": "visual_embedding_table", "entries": 20, "choice": "gumbel"}


def model_of(world, **settings):
    torch.manual_seed(0)
    wanted = {**TABLE, "temperature": 5.0, "last_temperature": 0.05, **settings}
    return assemble(replace(world.model().config, connector=spec("connectors", wanted)))


def run(world, out, model, *stages, collate=None):
    config = TrainingConfig(stages=stages, log_every=1, checkpoint_minutes=1000.0)
    train(model, world.data, config=config, collate=collate or world.collate(model), out=out)
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def stage(name="one", **settings):
    return Stage(name=name, **{"steps": 4, "train": ("connector", "language"), "batch_size": 4, **settings})


def temperatures(model):
    """What the connector's temperature is at every step."""
    seen = []
    model.connector.register_forward_hook(lambda part, given, made: seen.append(part.temperature))
    return seen


def test_the_temperature_falls_over_all_stages(world, tmp_path):
    model = model_of(world)
    seen = temperatures(model)
    run(world, tmp_path, model, stage(), stage("two", steps=2))
    line = [5.0 + (0.05 - 5.0) * done for done in (0, 1 / 8, 2 / 8, 3 / 8, 1 / 2, 3 / 4)]
    assert seen == pytest.approx(line)


def test_a_frozen_part_stays_as_it_is(world, tmp_path):
    model = model_of(world)
    seen = temperatures(model)
    rows = run(world, tmp_path, model, stage(train=("language",)))
    assert set(seen) == {5.0} and not any("codes_perplexity" in row for row in rows)


def test_the_log_tells_of_the_table(world, tmp_path):
    model = model_of(world, choice="argmax")
    model.connector.usage.fill_(0.05)  # as if long unused: what nobody chooses is soon dead
    rows = run(world, tmp_path, model, stage(steps=40, rate=1e-3))
    assert rows[0]["codes_perplexity"] > rows[-1]["codes_perplexity"] > 1
    assert rows[0]["codes_dead"] == 0 < rows[-1]["codes_dead"] < 20


def test_an_interrupted_run_ends_as_one_that_was_not(world, tmp_path):
    whole = model_of(world)
    told = run(world, tmp_path / "whole", whole, stage(steps=6))
    broken, made = model_of(world), []

    def stopping(stage):
        make = world.collate(broken)(stage)

        def batch(groups, place=0):
            made.append(groups)
            if len(made) == 3:
                import os
                import signal

                os.kill(os.getpid(), signal.SIGTERM)
            return make(groups, place)

        return batch

    with pytest.raises(Interrupted):
        run(world, tmp_path / "broken", broken, stage(steps=6), collate=stopping)
    again = model_of(world)
    seen = temperatures(again)
    rows = run(world, tmp_path / "broken", again, stage(steps=6))
    assert [row["codes_perplexity"] for row in rows] == [row["codes_perplexity"] for row in told]
    assert 0 < len(seen) < 6 and seen[-1] == pytest.approx(5.0 + (0.05 - 5.0) * 5 / 6)
    for name, weight in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_every_stage_is_an_equal_part_of_a_run():
    assert [behind(0, 0.5, stages=2), behind(1, 0.5, stages=2), behind(1, 1.2, stages=2)] == [0.25, 0.75, 1.0]


def test_two_that_tell_the_same_are_told_apart(world):
    model = model_of(world)
    model.deeper = torch.nn.ModuleList([model_of(world).connector])
    told = heard(model.train())
    assert set(told) == {f"codes_{name}{place}" for name in ("dead", "perplexity") for place in ("", "_deeper_0")}
    model.connector.eval()
    assert set(heard(model)) == {"codes_dead", "codes_perplexity"}


@pytest.mark.parametrize("choice", ["softmax", "argmax", "argmax_of_logits", "gumbel"])
def test_colours_are_learned_by_every_choice(world, tmp_path, choice):
    """Which colour a picture has is told by its tokens alone: a third of the answers is what words can guess."""
    model = model_of(world, choice=choice, temperature=2.0, last_temperature=0.5)
    colours = [example for example in world.data if example.meta["kind"] == "colour"]
    make = world.collate(model)(stage())
    batch = make([[example] for example in colours])
    config = TrainingConfig(stages=(stage(steps=70, rate=1e-2, train=("vision", "connector", "language")),))
    train(model, colours, config=config, collate=world.collate(model), out=tmp_path)
    with torch.no_grad():
        output = model.eval()(batch, keep="labelled")
    said = output.logits.argmax(-1) == output.labels
    assert said.float().mean() > 0.95
