"""A pipeline of Kubeflow: look at a data set, train on it, score what was trained, export it.

    pip install kfp
    python pipeline.py       # writes pipeline.yaml beside this file, which Kubeflow Pipelines takes

What is trained, in which image and with how much, and whether it is scored and exported, is in settings.json beside
this file; where the data lie is said when a run of the pipeline is started. Each step is a command of foveal.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from kfp import compiler, dsl  # pyright: ignore[reportMissingImports]

HERE = Path(__file__).parent
SETTINGS = json.loads((HERE / "settings.json").read_text(encoding="utf-8"))
# the image has kfp: nothing is installed when a step begins
step: Any = partial(dsl.component, base_image=SETTINGS["image"], install_kfp_package=False)


@step
def inspect(data: dsl.Input[dsl.Dataset]) -> str:
    """The data set, if every example of it can be read."""
    import subprocess
    import sys

    subprocess.run([sys.executable, "-m", "foveal", "data", "inspect", data.path], check=True)
    return data.path


@step
def train(data: dsl.Input[dsl.Dataset], recipe: str, text: str, settings: list, run: dsl.Output[dsl.Model]) -> None:
    """A run of the recipe; `text` is that of one that does not ship with Foveal."""
    import pathlib
    import subprocess
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        if text:
            file = pathlib.Path(folder) / f"{recipe}.yaml"
            file.write_text(text, encoding="utf-8")
            recipe = str(file)
        words = [recipe, *settings, "--data", data.path, "--out", run.path]
        subprocess.run([sys.executable, "-m", "foveal", "train", *words], check=True)


@step
def evaluate(
    data: dsl.Input[dsl.Dataset], run: dsl.Input[dsl.Model], options: list, scores: dsl.Output[dsl.Metrics]
) -> None:
    """How well the run does on what it was not trained on: each number that foveal eval tells of all of it."""
    import json
    import subprocess
    import sys

    words = [sys.executable, "-m", "foveal", "eval", "--run", run.path, "--data", data.path, "--json", *options]
    told = json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
    told |= {name: figure["value"] for name, figure in told.pop("figures", {}).items()}  # of the data's own metric
    for name, value in told.items():
        parts = {f"{name}.{part}": one for part, one in value.items()} if isinstance(value, dict) else {name: value}
        for part, number in parts.items():
            if isinstance(number, int | float):
                scores.log_metric(part, number)


@step
def export(run: dsl.Input[dsl.Model], engine: str, graphs: dsl.Output[dsl.Model]) -> None:
    """The run as graphs of another engine; one that does not say the same as the run fails."""
    import subprocess
    import sys

    words = [sys.executable, "-m", "foveal", "export", run.path, "--to", engine, "--out", graphs.path]
    subprocess.run(words, check=True)


@dsl.pipeline(name=SETTINGS["name"], description=f"foveal train {SETTINGS['recipe']}, scored and exported")
def pipeline(data: str, engine: str = "onnx") -> None:
    """The steps; `data` is where the data set lies, such as s3://bucket/scenes."""
    held = dsl.importer(artifact_uri=data, artifact_class=dsl.Dataset).output
    looked = inspect(data=held)
    told = {name: SETTINGS[name] for name in ("recipe", "text", "settings")}
    trained = train(data=held, **told).after(looked)
    trained.set_cpu_limit(SETTINGS["cpus"]).set_memory_limit(SETTINGS["memory"])
    if SETTINGS["gpus"]:
        trained.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(SETTINGS["gpus"])
    if SETTINGS["score"] is not None:
        evaluate(data=held, run=trained.outputs["run"], options=SETTINGS["score"])
    if SETTINGS["exports"]:
        export(run=trained.outputs["run"], engine=engine)


if __name__ == "__main__":
    compiler.Compiler().compile(pipeline, str(HERE / "pipeline.yaml"))
