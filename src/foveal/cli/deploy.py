"""`foveal deploy`: files for Kubernetes, Kubeflow and Ray; nothing is sent anywhere."""

import shlex
from pathlib import Path

import typer

app = typer.Typer(help="Write the files that serve or train in a cluster.", no_args_is_help=True)

OUT = typer.Option(..., "--out", help="The directory to make.")
NAME = typer.Option(None, "--name", help="What everything is called in the cluster.", show_default="by RUN")
NAMESPACE = typer.Option(None, "--namespace", help="Where it goes.", show_default="kubectl's own")
IMAGE = typer.Option(None, "--image", help="The image, with its registry.", show_default="NAME:VERSION")
JSON = typer.Option(False, "--json", help="Print one JSON object.")


@app.command()
def kubernetes(
    run: Path | None = typer.Argument(
        None, metavar="RUN", help="A run or checkpoint directory.", show_default="starter model"
    ),
    out: Path = OUT,
    name: str | None = NAME,
    namespace: str | None = NAMESPACE,
    image: str | None = IMAGE,
    replicas: int | None = typer.Option(None, "--replicas", help="So many pods.", show_default="an autoscaler"),
    least: int | None = typer.Option(None, "--min-replicas", help="The fewest pods.", show_default="1"),
    most: int | None = typer.Option(None, "--max-replicas", help="The most pods.", show_default="4, or the fewest"),
    gpus: int = typer.Option(0, "--gpus", help="Accelerators of a pod: 0 or 1."),
    memory: str | None = typer.Option(None, "--memory", help="Of a pod, such as 8Gi.", show_default="by the run"),
    cpus: str = typer.Option("2", "--cpus", help="Processor cores of a pod, such as 4 or 500m."),
    batch: int = typer.Option(4, "--batch", help="Waiting requests that a pod answers at once."),
    longest: int = typer.Option(128, "--max-new-tokens", help="The longest answer anyone gets, in tokens."),
    claim: str | None = typer.Option(
        None,
        "--claim",
        help="A PersistentVolumeClaim that holds the run, in a directory NAME.",
        show_default="the image",
    ),
    as_json: bool = JSON,
) -> None:
    """Write a kustomize directory that serves a run: pods, their service, autoscaler and walls, and their image.

    The run is opened once as foveal serve does. The API key comes from a Secret that the printed commands make.
    """
    from foveal.cli import _deployed
    from foveal.deployment.kubernetes import documents

    given = {"namespace": namespace, "replicas": replicas, "least": least, "most": most, "gpus": gpus, "memory": memory,
             "cpus": cpus, "batch": batch, "longest": longest, "claim": claim}  # fmt: skip
    serving, picture = _deployed.serving(run, given, out=out, name=name, image=image)
    files = _deployed.write(out, documents(serving), _deployed.building(picture))
    following = [*_deployed.ready(picture, serving, out), f"kubectl apply -k {shlex.quote(str(out))}"]
    _deployed.tell(out, files, following, as_json=as_json)
