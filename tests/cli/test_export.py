import base64
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

import foveal
from foveal.cli._serve_speaker import Speaker
from foveal.cli.main import run
from foveal.core.errors import InputError
from tests.cli.test_app_desk import FAMILIES, QUESTION, made
from tests.cli.test_serve import body, sent, serving
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


@pytest.mark.parametrize(
    ("allocator", "said"),
    [
        ({"name": "fastv", "budget": 3, "layer": 1}, "'fastv'"),
        ({"name": "visionzip", "budget": 3}, "'visionzip'"),
        ({"name": "downsample", "budget": 4}, "'downsample'"),
    ],
)
def test_a_budget_of_its_own_that_graphs_cannot_spend_is_refused(tmp_path, monkeypatch, capsys, allocator, said):
    monkeypatch.setitem(FAMILIES, "spends", {"allocator": allocator})
    made("spends").save(tmp_path / "run")
    assert run(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    assert f"its own budget is spent by {said}" in capsys.readouterr().err


def test_a_budget_of_its_own_between_the_graphs_is_spent(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(FAMILIES, "spends", {"allocator": {"name": "foveal", "budget": 3}})
    made("spends").save(tmp_path / "run")
    told(capsys, "export", tmp_path / "run", "--out", tmp_path / "a b" / "out", "--max-new-tokens", 2, "--size", 40)
    Image.effect_noise((40, 30), 50).convert("RGB").save(tmp_path / "picture.png")
    answers = [foveal.load(tmp_path / side).answer(tmp_path / "picture.png", QUESTION) for side in ("run", "a b/out")]
    assert answers[0].text == answers[1].text and answers[0].visual_tokens == answers[1].visual_tokens == 3


def test_queries_that_a_budget_leads_are_refused_and_all_of_them_answer(tmp_path, capsys):
    made("latents").save(tmp_path / "run")
    told(capsys, "export", tmp_path / "run", "--out", tmp_path / "out", "--max-new-tokens", 2, "--size", 40)
    picture = Image.effect_noise((40, 30), 50).convert("RGB")
    one, other = (foveal.load(tmp_path / side) for side in ("run", "out"))
    assert one.answer(picture, QUESTION).text == other.answer(picture, QUESTION).text
    with pytest.raises(InputError, match="a budget leads the connector's queries"):
        other.answer(picture, QUESTION, budget=3)


def test_an_exported_run_is_served_to_rows_under_a_budget(place, tiny):
    url = "data:image/png;base64," + base64.b64encode(tiny.picture.read_bytes()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "How many"}]
    loaded = foveal.load(tiny.run)
    with serving(Speaker(foveal.load(place), longest=40), together=3) as server, ThreadPoolExecutor(3) as pool:
        asked = [body(content, **more) for more in ({"budget": 4}, {"budget": 4, "strategy": "grid"}, {})]
        replies = [*pool.map(lambda one: sent(server, one), asked)]
    for one, (status, told, _) in zip(asked, replies, strict=True):
        way = {name: one[name] for name in ("budget", "strategy") if name in one}
        wanted = loaded.answer(tiny.picture, "How many", max_new_tokens=5, **way)
        assert status == 200 and told["choices"][0]["message"]["content"] == wanted.text
        assert told["foveal"]["visual_tokens"] == wanted.visual_tokens


def test_frames_of_a_video_are_refused(place, tiny, tmp_path):
    for number in range(2):
        shutil.copy(tiny.picture, tmp_path / f"{number}.png")
    with pytest.raises(InputError, match="the frames of a video do not go through the graphs"):
        foveal.load(place).answer(None, "How many", videos=tmp_path, max_new_tokens=2)


def test_what_fails_on_the_way_leaves_nothing(tiny, tmp_path, monkeypatch, capsys):
    from foveal.inference import exported

    def broken(*given, **named):
        raise InputError("no room")

    monkeypatch.setattr(exported, "_write_rest", broken)
    assert run(["export", str(tiny.run / "text_only"), "--out", str(tmp_path / "deep" / "out")]) == 2
    assert "no room" in capsys.readouterr().err and list((tmp_path / "deep").iterdir()) == []


def test_nothing_learns_from_an_exported_run(place, capsys):
    assert run(["train", "relevance", f"init.from={place}", "--out", f"{place}-more"]) == 2
    assert "is an exported run, which learns no more; name another" in capsys.readouterr().err


def test_a_model_whose_sight_is_out_of_line_is_refused(tmp_path, capsys):
    made("gated").save(tmp_path / "run")
    assert run(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    assert "this model does not go through graphs: its fusion, GatedCrossAttention" in capsys.readouterr().err
