"""What is called as its reference is can be saved and read back, and says so where it cannot be asked in words."""

import json

import pytest
import torch

from foveal.cli.main import run
from foveal.core.errors import InputError
from foveal.front import load
from foveal.models.masked import assemble
from foveal.weights import beit3
from tests.weights import test_beit3, test_lxmert, test_vilbert, test_vilt, test_visualbert


def visualbert(folder):
    test_visualbert.reference(0, "QuestionAnswering").save_pretrained(folder)
    return test_visualbert.asked(2)


def vilt(folder):
    test_vilt.reference(0, "ViltForQuestionAnswering").save_pretrained(folder)
    return test_vilt.given()


def lxmert(folder):
    test_lxmert.reference(0).save_pretrained(folder)
    return test_lxmert.given()


def vilbert(folder):
    test_vilbert.write(folder, test_vilbert.CONFIG, test_vilbert.weights())
    return test_vilbert.given()


def beit(folder):
    torch.manual_seed(0)
    config = test_beit3.CONFIG
    beit3.Beit3(assemble(beit3.model_config(config)), config, beit3.renaming(config)).save(folder)
    return test_beit3.given()


@pytest.mark.parametrize("family", [visualbert, vilt, lxmert, vilbert, beit])
def test_what_is_saved_is_read_back_to_equal_outputs(tmp_path, family):
    given = family(tmp_path / "theirs")
    model = load(tmp_path / "theirs")
    again = load(model.save(tmp_path / "ours"))
    with torch.no_grad():
        told, other = (vars(one(**given)) for one in (model, again))
    assert again.config == model.config and type(again) is type(model)
    tensors = {name: value for name, value in told.items() if isinstance(value, torch.Tensor)}
    assert tensors and all(torch.equal(other[name], value) for name, value in tensors.items())


def test_the_command_line_says_that_it_is_called_from_python(tmp_path, capsys):
    visualbert(tmp_path)
    (tmp_path / "data").mkdir()
    row = {"id": "a", "images": [], "messages": [{"role": "user", "content": "What?"}]}
    row["messages"].append({"role": "assistant", "content": "this"})
    (tmp_path / "data" / "test.jsonl").write_text(json.dumps(row))
    for command in (["ask", "What is it?"], ["eval", "--data", str(tmp_path / "data")]):
        assert run([*command, "--run", str(tmp_path)]) == 2
        told = " ".join(capsys.readouterr().err.split())
        assert "QuestionAnswering checkpoint, which is called from Python with its reference's arguments" in told


def test_what_is_not_asked_in_words_says_so(tmp_path):
    vilt(tmp_path)
    with pytest.raises(InputError, match="a Vilt checkpoint is called with its reference's arguments, not asked in"):
        load(tmp_path).answer([], "What?")
