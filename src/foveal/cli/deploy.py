"""`foveal deploy`: files for Kubernetes, Kubeflow and Ray; nothing is sent anywhere."""

import shlex
from pathlib import Path

import typer

app = typer.Typer(help="Write the files that serve or train in a cluster.", no_args_is_help=True)

OUT = typer.Option(..., "--out", help="The directory to make.")
NAME = typer.Option(None, "--name", help="What everything is called in the cluster.", show_default="by RUN")
NAMESPACE = typer.Option(None, "--namespace", help="Where it goes.", show_default="kubectl's own")
IMAGE = typer.Option(None, "--image", help="The image, with its registry.", show_default="NAME:VERSION")
REPLICAS = typer.Option(None, "--replicas", help="So many pods.", show_default="an autoscaler")
LEAST = typer.Option(None, "--min-replicas", help="The fewest pods.", show_default="1")
MOST = typer.Option(None, "--max-replicas", help="The most pods.", show_default="4, or the fewest")
MEMORY = typer.Option(None, "--memory", help="Of a pod, such as 8Gi.", show_default="by the run; 16Gi to train")
CPUS = typer.Option(None, "--cpus", help="Processor cores of a pod, such as 4 or 500m.", show_default="2; 4 to train")
BATCH = typer.Option(None, "--batch", help="Waiting requests that a pod answers at once.", show_default="4")
LONGEST = typer.Option(None, "--max-new-tokens", help="The longest answer anyone gets.", show_default="128")
SETTINGS = typer.Argument(None, metavar="[KEY=VALUE]...", help="Settings over the recipe's.")
DATA = typer.Option(None, "--data", help="Train on this data set: its directory in the claim.")
NODES = typer.Option(None, "--nodes", help="Nodes that train together.", show_default="1")
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
    replicas: int | None = REPLICAS,
    least: int | None = LEAST,
    most: int | None = MOST,
    gpus: int | None = typer.Option(None, "--gpus", help="Accelerators of a pod: 0 or 1.", show_default="0"),
    memory: str | None = MEMORY,
    cpus: str | None = CPUS,
    batch: int | None = BATCH,
    longest: int | None = LONGEST,
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
    from foveal.deployment.image import build
    from foveal.deployment.kubernetes import documents

    given = {"namespace": namespace, "replicas": replicas, "least": least, "most": most, "gpus": gpus, "memory": memory,
             "cpus": cpus, "batch": batch, "longest": longest, "claim": claim}  # fmt: skip
    serving, picture = _deployed.serving(run, given, out=out, name=name, image=image)
    files = _deployed.write(out, documents(serving), _deployed.building(picture))
    following = [build(picture, out), _deployed.key(serving), f"kubectl apply -k {shlex.quote(str(out))}"]
    _deployed.tell(out, files, following, as_json=as_json)


@app.command()
def ray(
    what: str = typer.Argument("starter", metavar="RUN|RECIPE", help="A run's directory to serve, a recipe to train."),
    settings: list[str] | None = SETTINGS,
    out: Path = OUT,
    name: str | None = NAME,
    namespace: str | None = NAMESPACE,
    image: str | None = IMAGE,
    replicas: int | None = REPLICAS,
    least: int | None = LEAST,
    most: int | None = MOST,
    gpus: int | None = typer.Option(None, "--gpus", help="Accelerators of a pod; 0 or 1 to serve.", show_default="0"),
    memory: str | None = MEMORY,
    cpus: str | None = CPUS,
    batch: int | None = BATCH,
    longest: int | None = LONGEST,
    claim: str | None = typer.Option(
        None, "--claim", help="A PersistentVolumeClaim: of the run, or of the data and what is trained."
    ),
    data: str | None = DATA,
    nodes: int | None = NODES,
    as_json: bool = JSON,
) -> None:
    """Write what KubeRay runs: a RayService that answers as foveal serve does, or a RayJob that trains."""
    from foveal.cli import _deployed
    from foveal.deployment import ray as files
    from foveal.deployment.image import build

    common = {"namespace": namespace, "gpus": gpus, "memory": memory, "cpus": cpus, "claim": claim}
    serves = {"replicas": replicas, "least": least, "most": most, "batch": batch, "longest": longest}
    trains = {"data": data, "nodes": nodes}
    if _deployed.is_run(what):
        _deployed.check_unused(what, "trains nothing", {**trains, "settings": settings or None})
        serving, picture = _deployed.serving(
            Path(what), {**common, **serves}, out=out, name=name, image=image, beside=files.BESIDE
        )
        documents, before = {"service.yaml": files.service(serving)}, [_deployed.key(serving)]
    else:
        _deployed.check_unused(what, "answers nothing", serves)
        asked = {**common, **trains}
        training, picture = _deployed.training(what, settings or [], asked, out=out, name=name, image=image)
        documents, before = {"job.yaml": files.job(training), **_deployed.own_recipe(training)}, []
    picture = _deployed.on_ray(picture)
    written = _deployed.write(out, documents, _deployed.building(picture))
    applied = [f"kubectl apply -f {shlex.quote(str(out / one))}" for one in sorted(documents, reverse=True)]
    _deployed.tell(out, written, [build(picture, out), *before, *applied], as_json=as_json)


@app.command()
def kubeflow(
    recipe: str = typer.Argument(help="A recipe that ships with Foveal, by name, or a YAML file."),
    settings: list[str] | None = SETTINGS,
    out: Path = OUT,
    name: str | None = NAME,
    namespace: str | None = NAMESPACE,
    image: str | None = IMAGE,
    gpus: int | None = typer.Option(None, "--gpus", help="Accelerators of a node.", show_default="0"),
    memory: str | None = typer.Option(None, "--memory", help="Of a node, such as 8Gi.", show_default="16Gi"),
    cpus: str | None = typer.Option(None, "--cpus", help="Processor cores of a node.", show_default="4"),
    claim: str | None = typer.Option(
        None, "--claim", help="A PersistentVolumeClaim of the data, and of what is trained.", show_default="foveal"
    ),
    data: str | None = DATA,
    nodes: int | None = NODES,
    as_json: bool = JSON,
) -> None:
    """Write what Kubeflow runs: a TrainJob on several nodes, and a pipeline that trains, scores and exports."""
    from foveal.cli import _deployed, _pipelined, _recipe
    from foveal.deployment import kubeflow as files
    from foveal.deployment.image import build

    given = {"namespace": namespace, "gpus": gpus, "memory": memory, "cpus": cpus, "claim": claim, "data": data,
             "nodes": nodes}  # fmt: skip
    training, picture = _deployed.training(recipe, settings or [], given, out=out, name=name, image=image)
    after, notes = _pipelined.after(_recipe.read(recipe, settings or []))
    pipeline, compiled = {}, []
    if after is not None:
        picture, pipeline = _deployed.with_pipelines(picture, after.extras), files.pipeline(training, after)
        compiled = [f"pip install kfp=={files.KFP} && python {shlex.quote(str(out / 'pipeline.py'))}"]
    documents = {"trainjob.yaml": files.train_job(training), **_deployed.own_recipe(training)}
    written = _deployed.write(out, documents, {**_deployed.building(picture), **pipeline})
    applied = [f"kubectl apply -f {shlex.quote(str(out / one))}" for one in sorted(documents)]
    _deployed.tell(out, written, [build(picture, out), *applied, *compiled], as_json=as_json, notes=notes)
