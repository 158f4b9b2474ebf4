import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request

import pytest
import yaml

from foveal.cli.main import run
from tests.tiny import tiny_tokenizer


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
