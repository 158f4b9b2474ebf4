"""What Kubeflow's own API takes, and the steps of the pipeline, each really run."""

import ast
import json
from importlib.resources import files
from types import SimpleNamespace

import pytest
import yaml
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

from foveal.deployment import kubeflow
from foveal.deployment.notes import text
from foveal.deployment.training import Training
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
    made = kubeflow.pipeline(Training(**{**MINE, "recipe": "my"}, text=yaml.safe_dump(RECIPE), settings=("seed=3",)))
    settings, step = json.loads(made["settings.json"]), steps(made["pipeline.py"])
    data, run, graphs = (
        SimpleNamespace(path=str(place)) for place in (tiny.data, tmp_path / "run", tmp_path / "graphs")
    )
    scores = {}
    step.inspect(data)
    step.train(data, settings["recipe"], settings["text"], settings["settings"], run)
    step.evaluate(data, run, SimpleNamespace(log_metric=scores.__setitem__))
    step.export(run, "onnx", graphs)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["about"]
    assert 0 <= scores["exact_match"] <= 1 and scores["questions"] == tiny.questions
    assert (tmp_path / "graphs" / "layers.onnx").is_file()


def test_a_step_that_fails_fails_the_pipeline(tmp_path):
    step = steps((files("foveal.deployment") / "pipeline.py").read_text())
    with pytest.raises(Exception, match="returned non-zero exit status 2"):
        step.inspect(SimpleNamespace(path=str(tmp_path / "nowhere")))
