import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

from foveal.deployment.image import Image, build, dockerfile

PINNED = {"torch": "2.13.0", "transformers": "5.23.0"}
MINE = Image(name="reg.io/a:1", version="0.1.0", pinned=PINNED, run=("mine", Path("/runs/my run")))


def test_torch_comes_of_the_index_that_is_given_and_for_an_accelerator_of_none():
    (line,) = (line for line in dockerfile(MINE).splitlines() if "torch==" in line)
    said = [
        subprocess.run(
            ["sh", "-c", line.replace("RUN", "echo")], env=env, capture_output=True, text=True
        ).stdout.split()
        for env in ({}, {"TORCH_INDEX": "https://a/cpu"})
    ]
    plain = ["pip", "install", "--no-cache-dir", "torch==2.13.0"]
    assert said == [plain, [*plain, "--index-url", "https://a/cpu"]]
    assert "ARG TORCH_INDEX\n" in dockerfile(MINE)
    assert "pip install --no-cache-dir torch==2.13.0\n" in dockerfile(replace(MINE, cuda=True))


def test_foveal_is_what_it_is_here():
    published = dockerfile(replace(MINE, extras=("pictures", "onnx")))
    assert "RUN pip install --no-cache-dir 'foveal[pictures,onnx]==0.1.0' transformers==5.23.0\n" in published
    assert "--from=foveal" not in published
    tree = replace(MINE, source=Path("/src"))
    assert "COPY --from=foveal src /opt/foveal/src" in dockerfile(tree) and "'/opt/foveal'" in dockerfile(tree)
    assert "foveal=/src" in build(tree, Path("out"))


def test_the_run_lies_where_the_pod_reads_it():
    text = dockerfile(MINE)
    assert "COPY --from=run --exclude=checkpoints --exclude=stages --exclude=text_only . /srv/mine\n" in text
    assert "--from=run" not in dockerfile(replace(MINE, run=None))
    assert text.index("USER 10001:10001") < text.index('ENTRYPOINT ["foveal"]')


def test_the_command_builds_and_pushes_where_there_is_a_registry():
    words = shlex.split(build(MINE, Path("an out")))
    assert words == ["docker", "build", "--push", "-t", "reg.io/a:1", "--build-context", "run=/runs/my run", "an out"]
    assert "--push" not in build(replace(MINE, name="a:1"), Path("out"))
