import json

import pytest

from foveal.cli.main import run
from tests.cli.test_app_desk import made
from tests.inference.conftest import traceable as traceable


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("exported") / "out"


def told(capsys, *arguments):
    assert run([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_is_exported_tried_and_asked_like_the_run(tiny, place, capsys):
    said = told(capsys, "export", tiny.run, "--out", place, "--max-new-tokens", 4, "--size", 40)
    assert said["same"] and said["engine"] == "onnx" and said["out"] == str(place)
    assert [case["asked"] for case in said["asked"]] == ["noise", "more noise", "no picture"]
    assert all(case["difference"] < 1e-3 and case["alike"] == case["tokens"] == 4 for case in said["asked"])
    assert [case["visual_tokens"] for case in said["asked"]] == [16, 16, 0]
    files = {name: (place / f"{name}.onnx").stat().st_size for name in ("vision", "connector", "layers", "head")}
    assert said["bytes"] == files
    for more in ((), ("--budget", 4), ("--budget", 4, "--strategy", "grid")):
        one, other = (told(capsys, "ask", tiny.picture, "How many", "--run", side, *more) for side in (tiny.run, place))
        assert {**one, "run": "", "seconds": 0} == {**other, "run": "", "seconds": 0}
        assert other["visual_tokens"] == (4 if more else 16)
    assert run(["export", str(place), "--out", f"{place}-again"]) == 2
    assert "is exported already" in capsys.readouterr().err
    assert run(["export", str(tiny.run), "--out", str(place)]) == 2
    assert "is there already; name another place by --out" in capsys.readouterr().err


def test_a_run_of_words_alone_is_exported_without_sight(tiny, tmp_path, capsys):
    said = told(capsys, "export", tiny.run / "text_only", "--out", tmp_path / "out", "--max-new-tokens", 2)
    assert said["same"] and sorted(said["bytes"]) == ["head", "layers"]
    assert run(["export", str(tiny.run / "text_only"), "--out", str(tmp_path / "x"), "--image", str(tiny.picture)]) == 2
    assert "1 images for a model without a vision encoder; leave --image out" in capsys.readouterr().err


def test_what_differs_ends_with_1_and_is_told(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("foveal.cli._exported.TOLERANCE", -1.0)
    given = ["export", str(tiny.run), "--out", str(tmp_path / "out"), "--image", str(tiny.picture)]
    assert run([*given, "--max-new-tokens", "2"]) == 1
    out = capsys.readouterr().out
    assert "do not say the same" in out and "layers" in out and tiny.picture.name in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--to", "onx"), "unknown engine 'onx'; did you mean 'onnx'?"),
        (("--max-new-tokens", "0"), "--max-new-tokens 0; give 1 or more"),
        (("--image", "nowhere.png"), "nowhere.png"),
    ],
)
def test_wrong_options_are_one_line(tiny, tmp_path, capsys, arguments, said):
    assert run(["export", str(tiny.run), "--out", str(tmp_path / "out"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_whose_sight_is_out_of_line_is_refused(tmp_path, capsys):
    made("gated").save(tmp_path / "run")
    assert run(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    assert "this model does not go through graphs: its fusion, GatedCrossAttention" in capsys.readouterr().err
