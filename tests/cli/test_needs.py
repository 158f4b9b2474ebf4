"""What a recipe's stages ask of the data is told before anything is trained."""

import json

import pytest

from foveal.cli import _needs, _recipe
from foveal.cli.main import run
from foveal.core.errors import InputError
from foveal.core.example import Example
from tests.cli.test_train import TINY, write


def examples(*kinds):
    return [Example(id=str(i), messages=(), meta={"kind": kind} if kind else {}) for i, kind in enumerate(kinds)]


def of(*stages, **more):
    training = {"stages": [{"name": f"s{number}", "steps": 1, **stage} for number, stage in enumerate(stages)]}
    return _recipe.of({**TINY, "training": training, "data": {"path": "data"}, **more}, name="tiny")


def test_a_kind_that_is_left_out_need_not_be_there():
    _needs.check(of({}, {"kinds": {"caption": 0}}), examples("", ""))


@pytest.mark.parametrize("name", _needs.PLAIN)
def test_the_recipes_that_are_named_ask_for_no_kind(name):
    _needs.check(_recipe.read(name), examples(""))


def test_what_a_later_stage_lacks_is_told_with_its_setting_and_other_recipes():
    for stage, words in (
        ({"kinds": {"caption": 1, "*": 0}}, "stage 's1': unknown kind in the data: 'caption'; known: where; change"),
        ({"kinds": {"*": 0}}, "stage 's1': its kinds leave no example to train on; change training.stages.1.kinds"),
        ({"sources": ["mine"]}, "unknown source in the data: 'mine'; known: none; change training.stages.1.sources"),
        ({"images": "told"}, "no captions to stand in the place of images; .*; change training.stages.1.images"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            _needs.check(of({}, stage), examples("where", ""))
        assert "such as demo or ovis" in str(caught.value)
    _needs.check(_recipe.blind(of({}, {"images": "told"})), examples("where"))


def test_nothing_is_trained_before_it_is_told(painted, capsys):
    lines = [json.loads(line) for line in (painted / "data" / "train.jsonl").read_text().splitlines()]
    plain = [json.dumps({key: value for key, value in line.items() if key != "meta"}) for line in lines]
    (painted / "data" / "train.jsonl").write_text("\n".join(plain))
    write({**TINY, "data": {"path": str(painted / "data")}})
    assert run(["train", "tiny.yaml", "training.stages.1.kinds={caption: 1}"]) == 2
    assert "stage 'tune': unknown kind in the data: 'caption'; known: none" in capsys.readouterr().err
    assert not (painted / "runs").exists()
    assert run(["train", "tiny.yaml", "training.stages.1.kinds={caption: 0}"]) == 0
