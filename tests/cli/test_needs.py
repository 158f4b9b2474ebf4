"""What a recipe's stages ask of the data is told before anything is trained."""

import json

import pytest

import foveal
from foveal.cli import _needs, _recipe
from foveal.cli.main import run
from foveal.core.errors import InputError
from foveal.core.example import Box, Example
from tests.cli.test_train import TINY, log, write


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


def test_a_source_is_one_data_set():
    data = [Example(id="1", messages=(), meta={"source": "data"})]
    for path, words in (
        (["a/data", "b/data", "b/more"], "the source 'data' is a/data and b/data; rename all but one"),
        (["a/data.jsonl", "b/data.tar"], "the source 'data' is a/data.jsonl and b/data.tar; rename all"),
    ):
        with pytest.raises(InputError, match=rf"stage 's0': {words}.*; change training.stages.0.sources"):
            _needs.check(of({"sources": ["data"]}, data={"path": path}), data)
        _needs.check(of({}, data={"path": path}), data)


def test_nothing_is_trained_before_it_is_told(painted, capsys):
    lines = [json.loads(line) for line in (painted / "data" / "train.jsonl").read_text().splitlines()]
    plain = [json.dumps({key: value for key, value in line.items() if key != "meta"}) for line in lines]
    (painted / "data" / "train.jsonl").write_text("\n".join(plain))
    write({**TINY, "data": {"path": str(painted / "data")}})
    assert run(["train", "tiny.yaml", "training.stages.1.kinds={caption: 1}"]) == 2
    assert "stage 'tune': unknown kind in the data: 'caption'; known: none" in capsys.readouterr().err
    assert not (painted / "runs").exists()
    assert run(["train", "tiny.yaml", "training.stages.1.kinds={caption: 0}"]) == 0


def test_rows_that_no_batch_fills_are_told_before_the_first_stage(painted, capsys):
    write({**TINY, "data": {"path": "data"}})
    wrong = ["processor.context=64", "training.stages.0.pack=257", "training.stages.1.pack=257"]
    told = (
        "packs rows of 257 tokens, and its 4 conversations, as long as processor.context lets them be, have 256; give"
    )
    assert run(["train", "tiny.yaml", *wrong]) == 2
    assert f"stage 'align' {told}" in capsys.readouterr().err
    assert run(["train", "tiny.yaml", wrong[0], "training.stages.0.pack=256", wrong[2]]) == 0


@pytest.mark.parametrize("images", ["hidden", "told"])
def test_a_stage_without_images_trains_more_than_what_they_reach(images):
    content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    says = [{"role": "user", "content": content}, {"role": "assistant", "content": "a fox"}]
    captioned = [Example(id="1", messages=tuple(says), images=("a.png",), meta={"kind": "caption"})]
    words = f"has images {images} and trains {{}} alone, which nothing but images"
    lora = {"part": "vision", "targets": ["query"]}
    for stage, parts in (
        ({"train": ["vision.blocks", "connector"]}, "vision.blocks, connector"),
        ({"train": ["language"], "then": [{"at": 0.5, "train": ["vision"]}]}, "vision"),
        ({"train": [], "lora": lora}, "vision"),
    ):
        with pytest.raises(InputError, match=rf"'s1' {words.format(parts)}.*; .* change training\.stages\.1\.images"):
            _needs.check(of({}, {**stage, "images": images}), captioned)
        _needs.check(of({}, stage), captioned)
    for stage in ({"train": ["vision", "head"]}, {"train": ["vision"], "lora": {"part": "language"}}):
        _needs.check(of({**stage, "images": images}), captioned)


def test_what_nothing_reaches_is_told_before_the_first_step(painted, capsys):
    write({**TINY, "data": {"path": "data"}})
    stages = "training.stages=[{{name: one, steps: 2, batch_size: 4, {}}}]"
    for stage, told in (
        ("train: [vision], images: hidden", "trains vision alone, which nothing but images reaches"),
        ("train: [language.layers], objective: cells", "in whose loss nothing that the stage trains has a part"),
    ):
        assert run(["train", "tiny.yaml", stages.format(stage)]) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("foveal: ") and told in line
        assert not list((painted / "runs").glob("*/checkpoints/*"))


def said(*words, **more):
    messages = tuple({"role": "assistant", "content": [{"type": "text", "text": word}]} for word in words)
    return Example(id=f"row {len(words)}", messages=messages, **more)


def answered(recipe, data):
    lines = []
    return _needs.answered(recipe, data, lines.append), lines


def test_a_row_without_an_answer_is_left_out_where_a_stage_would_learn_from_it():
    for objective in ("next_token", "joint", "choose", {"name": "budgets", "of": "choose"}, "evidence"):
        recipe, data = of({"objective": "masked_words"}, {"objective": objective}), [said("a"), said()]
        assert answered(recipe, data) == (
            data[:1],
            ["left out of training: 1 of 2 examples, without an answer (first 'row 0')"],
        )
        with pytest.raises(InputError, match=r"'s1': none of its 2 examples has an answer to learn from; give them as"):
            answered(recipe, 2 * data[1:])
    data = [said("a"), said(" "), said()]
    assert answered(of({}), data) == (
        data[:1],
        ["left out of training: 2 of 3 examples, without an answer (first 'row 1')"],
    )
    drawn = Example(id="drawn", messages=({"role": "assistant", "content": [{"type": "image"}]},))
    for recipe, data in (
        (of({}), [said("a"), drawn]),
        (of({"kinds": {"mute": 0}}), [said("a"), said(meta={"kind": "mute"})]),
        (of({"objective": "masked_words"}), [said()]),
    ):
        assert answered(recipe, data) == (data, [])


def test_answers_beside_an_empty_turn_are_none_to_learn_from():
    empty = said("", meta={"answers": ["w5"]})
    assert answered(of({}), [said("a"), empty])[0] == [said("a")]
    with pytest.raises(InputError, match=r"none of its 1 examples has an answer to learn from; .*stages\.0\.kinds"):
        answered(of({}), [empty])


def test_a_kind_that_is_without_answers_altogether_is_told():
    recipe = of({"kinds": {"mute": 1}})
    with pytest.raises(InputError, match=r"'s0': unknown kind in the data: 'mute'; .*training\.stages\.0\.kinds"):
        answered(recipe, [said("a"), said(meta={"kind": "mute"})])


def test_boxes_are_wanted_of_some_row_where_they_are_learned_from():
    boxed = said("a", boxes=(Box(label="a", xyxy=(0.0, 0.0, 1.0, 1.0)),))
    _needs.facts(of({"objective": "cells"}), [said("a"), boxed])
    with pytest.raises(InputError, match="'s0': the objective 'cells' learns from boxes and its examples have none"):
        _needs.facts(of({"objective": "cells"}), [said("a")])


def mute(line, name):
    return json.dumps({**line, "id": name, "messages": line["messages"][:1]})


def test_rows_without_an_answer_are_told_before_a_run_is_cleared(painted, capsys):
    write({**TINY, "data": {"path": str(painted / "data")}})
    assert run(["train", "tiny.yaml"]) == 0
    kept = sorted((painted / "runs" / "tiny" / "checkpoints").iterdir())
    file = painted / "data" / "train.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("\n".join(mute(line, f"mute {number}") for number, line in enumerate(lines)))
    assert run(["train", "tiny.yaml", "--fresh"]) == 2
    assert f"none of its {len(lines)} examples has an answer to learn from" in capsys.readouterr().err
    assert sorted((painted / "runs" / "tiny" / "checkpoints").iterdir()) == kept


def test_training_without_the_rows_that_have_no_answer_is_that_of_the_rest_and_resumes(painted, capsys):
    write({**TINY, "data": {"path": str(painted / "data")}})
    assert run(["train", "tiny.yaml", "--out", "rest"]) == 0
    file = painted / "data" / "train.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([mute(json.loads(lines[0]), "mute"), *lines]))
    assert run(["train", "tiny.yaml", "--json"]) == 0
    told = f"left out of training: 1 of {len(lines) + 1} examples, without an answer (first 'mute')"
    assert capsys.readouterr().err.count(told) == 1
    assert [row["loss"] for row in log("runs/tiny")] == [row["loss"] for row in log("rest")]
    assert foveal.load("runs/tiny").about["examples"] == len(lines)
    assert run(["train", "tiny.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resumed_from"]
