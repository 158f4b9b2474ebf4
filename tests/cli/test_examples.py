"""The data of a recipe, made when they are first needed."""

from contextlib import contextmanager
from shutil import rmtree

import pytest

from foveal.cli import _examples, _recipe
from foveal.core.errors import InputError
from foveal.data.generate import MARK

ASSIGNED = {
    "scenes": ["data.scenes={size: 64, drawings: 20, words: 20, max_drawings: 1}"],
    "portraits": ["data.scenes=null", "data.portraits={}"],
    "motion": ["data.scenes=null", "data.motion={}"],
}


@contextmanager
def bar(what, total):
    yield lambda images: None


def made(recipe):
    return _examples.data_folder(recipe, say=lambda line: None, bar=bar)


@pytest.mark.parametrize("kind", ASSIGNED)
def test_of_two_trainings_that_make_their_data_at_once_the_first_ones_stay(painted, monkeypatch, kind):
    monkeypatch.setattr("foveal.core.machine.cores", lambda: 1)
    recipe, firsts = _recipe.read("llava", [*ASSIGNED[kind], "data.count=2", "training.device=cpu"]), []

    @contextmanager
    def slower(what, total):
        folder = made(recipe)  # the other one is done before this has begun to write
        firsts.append((folder / "train.jsonl").stat().st_ino)
        yield lambda images: None

    folder = _examples.data_folder(recipe, say=lambda line: None, bar=slower)
    assert [(folder / "train.jsonl").stat().st_ino] == firsts
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_data_that_cannot_be_made_are_refused_all_the_same(painted):
    (painted / "cache").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        made(_recipe.read("llava", [*ASSIGNED["portraits"], "data.count=2", "training.device=cpu"]))


@pytest.mark.parametrize("kind", ASSIGNED)
def test_a_place_of_data_that_holds_something_else_is_told_without_an_option_that_is_not_there(painted, kind):
    recipe = _recipe.read("llava", [*ASSIGNED[kind], "data.count=2", "training.device=cpu"])
    folder = made(recipe)
    (folder / MARK).unlink()
    with pytest.raises(InputError, match=f"{folder.name} holds something else than data made here; remove it$"):
        made(recipe)
    rmtree(folder)
    assert (made(recipe) / MARK).is_file()
