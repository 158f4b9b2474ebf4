"""What Kubeflow's own API takes, and the steps of the pipeline, each really run."""

import ast
import json
import shutil
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

from foveal.cli.main import run
from foveal.deployment import kubeflow
from foveal.deployment.kubeflow import After
from foveal.deployment.notes import text
from foveal.deployment.training import Training
from tests.cli import test_detection, test_objectives
from tests.cli.conftest import painted as painted
from tests.cli.conftest import tiny as tiny

MINE = {"name": "mine", "image": "reg.io/a:1", "recipe": "demo", "data": "scenes"}
VIT = {"name": "vit", "width": 16, "depth": 1, "heads": 2, "inner": 16, "patch": 4, "image_size": 16, "layers": [-1]}
RECIPE = {
    "model": {"vision": VIT, "connector": "linear", "language": {"name": "decoder", "width": 32, "depth": 1}},
    "processor": {"image": {"size": 16}},
    "data": {"path": "elsewhere"},
    "training": {"device": "cpu", "stages": [{"name": "all", "train": ["connector"], "steps": 2, "batch_size": 2}]},
}


@pytest.mark.parametrize("settings", [{}, {"nodes": 4, "gpus": 8, "namespace": "vision"}, {"text": "model: {}\n"}])
def test_a_train_job_is_what_kubeflow_takes_and_nothing_else(settings):
    made = yaml.safe_load(text(kubeflow.train_job(Training(**MINE, **settings))))
    assert TrainerV1alpha1TrainJob.from_dict(made).to_dict() == made  # what it does not know it leaves out
    trainer = made["spec"]["trainer"]
    assert trainer["command"] == ["torchrun"] and trainer["args"][:3] == ["-m", "foveal", "train"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (settings.get("nodes", 1), settings.get("gpus", 1))
    assert made["apiVersion"] == "trainer.kubeflow.org/v1alpha1" and made["metadata"]["name"] == "mine"
    (patch,) = made["spec"]["runtimePatches"]
    (node,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    mounted = [one["name"] for one in pod["containers"][0]["volumeMounts"]]
    assert mounted == [one["name"] for one in pod["volumes"]]
    assert ("recipe" in mounted) is ("text" in settings) and ("/etc/foveal/demo.yaml" in trainer["args"]) is (
        "text" in settings
    )


def test_it_is_said_which_trainer_takes_patches():
    assert "  # from Trainer v2.2.0 on\n  runtimePatches:" in text(kubeflow.train_job(Training(**MINE)))


def steps(source):
    """The steps of a pipeline as plain functions: what their image runs, without Kubeflow around it."""
    tree = ast.parse(source)
    tree.body = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name != "pipeline"]
    for one in tree.body:
        one.decorator_list = []
        for given in one.args.args:
            given.annotation = None
    found = {}
    exec(compile(tree, "pipeline.py", "exec"), found)
    return SimpleNamespace(**found)


def test_every_step_does_what_it_says(tiny, tmp_path):
    made = kubeflow.pipeline(
        Training(**{**MINE, "recipe": "my"}, text=yaml.safe_dump(RECIPE), settings=("seed=3",)), After()
    )
    settings, step = json.loads(made["settings.json"]), steps(made["pipeline.py"])
    data, run, graphs = (
        SimpleNamespace(path=str(place)) for place in (tiny.data, tmp_path / "run", tmp_path / "graphs")
    )
    scores = {}
    step.inspect(data)
    step.train(data, settings["recipe"], settings["text"], settings["settings"], run)
    step.evaluate(data, run, settings["score"], SimpleNamespace(log_metric=scores.__setitem__))
    step.export(run, "onnx", graphs)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["about"]
    assert 0 <= scores["exact_match"] <= 1 and scores["questions"] == tiny.questions
    assert (tmp_path / "graphs" / "layers.onnx").is_file()


PICTURES = {
    "model": {"assembly": "autoencoder", "vision": {"name": "vq", "codes": 4, "width": 8, "latent": 4, "base": 32,
                                                    "multiples": [1], "blocks": 1, "fold": 4, "resolution": 16}},
    "processor": {"image": {"size": 16}},
    "data": {"path": "data"},
    "training": {"device": "cpu", "stages": [{"steps": 1, "train": ["vision"], "objective": "reconstruct",
                                              "batch_size": 2, "group": True, "group_limit": 1}]},
}  # fmt: skip
LEARNED = {
    "boxes": (test_detection.TINY, {"AP", "AP50", "pictures"}),
    "pictures": (PICTURES, {"psnr", "codes"}),
    "pretraining": (test_objectives.TOWERS, {"write.loss", "write.accuracy", "pair.accuracy"}),
}


@pytest.mark.parametrize("learned", LEARNED)
def test_a_run_is_scored_by_what_it_learned_and_exported_where_it_can_be(painted, learned):
    recipe, wanted = LEARNED[learned]
    lines = [json.loads(line) for line in Path("data/train.jsonl").read_text().splitlines()]
    for line in lines[::2]:
        line["meta"]["kind"] = "caption"
    Path("data/test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    Path("my.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["deploy", "kubeflow", "my.yaml", "--data", "data", "--out", "out"]) == 0
    assert run(["train", "my.yaml", "training.stages.0.steps=1"]) == 0
    settings, scores = json.loads(Path("out/settings.json").read_text()), {}
    step = steps(Path("out/pipeline.py").read_text())
    told = SimpleNamespace(log_metric=scores.__setitem__)
    step.evaluate(SimpleNamespace(path="data"), SimpleNamespace(path="runs/my"), settings["score"], told)
    assert wanted <= scores.keys() and not settings["exports"]
    assert ("detection" in Path("out/Dockerfile").read_text()) is (learned == "boxes")


def test_the_metric_that_the_data_name_is_told(tiny, tmp_path):
    shutil.copytree(tiny.data, tmp_path / "data")
    lines = [json.loads(line) for line in (tmp_path / "data/test.jsonl").read_text().splitlines()]
    for line in lines:
        line["meta"] |= {"metric": "anls"}
    (tmp_path / "data/test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    scores, step = {}, steps((files("foveal.deployment") / "pipeline.py").read_text())
    told = SimpleNamespace(log_metric=scores.__setitem__)
    step.evaluate(SimpleNamespace(path=tmp_path / "data"), SimpleNamespace(path=tiny.run), [], told)
    assert 0 <= scores["anls"] <= 1 and scores["questions"] == tiny.questions


def test_a_step_that_fails_fails_the_pipeline(tmp_path):
    step = steps((files("foveal.deployment") / "pipeline.py").read_text())
    with pytest.raises(Exception, match="returned non-zero exit status 2"):
        step.inspect(SimpleNamespace(path=str(tmp_path / "nowhere")))
