"""A run goes on from its checkpoint where it comes to the same curve, and is refused in a line elsewhere."""

import json

import pytest

from foveal.core.errors import InputError
from foveal.training.checkpoint import Checkpoints
from foveal.training.loop import train
from foveal.training.processes import Team
from foveal.training.resuming import check, differences
from tests.training.test_loop import STAGES, config, run, stage


def test_another_recipe_does_not_resume(world, tmp_path):
    run(world, tmp_path, stage())
    with pytest.raises(InputError, match=r"training.stages.0.rate 0.01, not 0.02; .*--fresh"):
        run(world, tmp_path, stage(rate=2e-2))
    _, result = run(world, tmp_path, stage(), keep=3, log_every=2)  # what changes no weight may change
    assert result.resumed_from == 4
    assert list(differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}], "c": 4})) == [("a.1.b", 2, 3), ("c", None, 4)]


def test_fewer_stages_do_not_resume_and_are_counted(world, tmp_path):
    run(world, tmp_path, *STAGES[:2])
    with pytest.raises(InputError, match="holds a run with 2 stages, not 1; resume it with the same settings, begin"):
        run(world, tmp_path, *STAGES[:1])


def test_another_number_of_processes_does_not_resume(world, tmp_path):
    run(world, tmp_path, STAGES[0])
    (state,) = (tmp_path / "checkpoints").glob("*/state.json")
    told = json.loads(state.read_text())
    state.write_text(json.dumps({**told, "random": told["random"] * 2}))
    with pytest.raises(InputError, match=r"a run of 2 processes, and this is one of 1, .*; start 2, begin anew with"):
        run(world, tmp_path, *STAGES[:2])
    checkpoints = Checkpoints(folder=tmp_path / "checkpoints", keep=1)
    snapshot = checkpoints.read(checkpoints.newest())
    recipe = dict(snapshot.recipe)
    recipe["training"] = {**recipe["training"], "stages": recipe["training"]["stages"] * 2}
    with pytest.raises(InputError, match=r"of 2 groups of processes, and this is one of 1, .*; start 4 processes"):
        check(snapshot, recipe, team=Team(tensor=2), out=tmp_path)
    check(snapshot, recipe, team=Team(groups=2, tensor=2), out=tmp_path)
    _, result = run(world, tmp_path, STAGES[0])
    assert result.steps == result.resumed_from, "what is done is done, by however many"
    state.write_text(json.dumps({**told, "random": []}))
    _, result = run(world, tmp_path, *STAGES[:2])
    assert result.steps > result.resumed_from, "a run that does not say by how many"


def test_other_lines_do_not_resume_and_a_run_that_knows_of_none_does(world, tmp_path):
    def go(**recipe):
        model = world.model()
        told = {"config": config(stage(steps=1)), "collate": world.collate(model), "out": tmp_path, "recipe": recipe}
        return train(model, world.data, **told)

    go(data="a")
    assert go(data="a", lines="1").resumed_from == 1, "a run from before fingerprints"
    store = Checkpoints(folder=tmp_path / "checkpoints")
    store.clear()
    go(data="a", lines="1")
    assert go(data="a", lines="1").resumed_from == 1
    with pytest.raises(InputError, match="other lines than its data files hold now; put those back, begin anew"):
        go(data="a", lines="2")
    with pytest.raises(InputError, match="with data 'a', not 'b'"):
        go(data="b", lines="2")
