"""What KubeRay runs: a RayService that answers, a RayJob that trains."""

import shlex
from typing import Any

from foveal.deployment import checks
from foveal.deployment import serving as served
from foveal.deployment import training as trained
from foveal.deployment.notes import Noted, head, text
from foveal.deployment.serving import PLACE, PORT, Serving
from foveal.deployment.training import Training

VERSION = "2.60.0"  # of Ray, that these files were tried with
BESIDE = 3 * checks.GIB // 2  # bytes of Ray's own processes in a pod
APPLICATION = "foveal.ray_serve:app"
_HEAD_PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001, "serve": PORT}


def service(serving: Serving) -> dict[str, Any]:
    """A RayService for a served model."""
    volumes, mounts = served.storage(serving)
    shared = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}
    volumes = [*volumes, Noted(shared, "Ray hands requests over in shared memory")]
    mounts = [*mounts, {"name": "shm", "mountPath": "/dev/shm"}]
    common = {"image": serving.image, "volumeMounts": mounts, "securityContext": served.confined()}
    worker = {"name": "worker", **common, "env": served.environment(serving), "resources": served.resources(serving)}
    first = {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}
    ports = [{"name": name, "containerPort": port} for name, port in _HEAD_PORTS.items()]
    ray = {"name": "head", **common, "ports": ports, "resources": first}
    pod = {"automountServiceAccountToken": False, "securityContext": served.unprivileged(), "volumes": volumes}
    least, most = _pods(serving)
    workers: dict[str, Any] = {"groupName": "models", "replicas": least, "minReplicas": least, "maxReplicas": most}
    worker_pod = {**pod, **served.placed(serving), "containers": [worker]}
    return {
        **head("ray.io/v1", "RayService", serving.name, serving.namespace),
        "spec": {
            "serveConfigV2": text(serve_config(serving)),
            "rayClusterConfig": {
                "rayVersion": Noted(VERSION, "the Ray of the image"),
                "authOptions": Noted({"mode": "token"}, "who reaches a Ray cluster without one runs code in it"),
                "enableInTreeAutoscaling": Noted(most > least, "pods follow the replicas that Serve asks for"),
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": Noted("0", "no model on the head: it answers for the cluster")},
                    "template": {"spec": {**_with_token(pod), "containers": [ray]}},
                },
                "workerGroupSpecs": [{**workers, "rayStartParams": {}, "template": {"spec": worker_pod}}],
            },
        },
    }


def _with_token(pod: dict[str, Any]) -> dict[str, Any]:
    """The head's pod: its autoscaler asks the cluster for pods."""
    return {key: value for key, value in pod.items() if key != "automountServiceAccountToken"}


def _pods(serving: Serving) -> tuple[int, int]:
    """The fewest replicas and the most."""
    return (serving.least, serving.highest) if serving.replicas is None else (serving.replicas, serving.replicas)


def serve_config(serving: Serving) -> dict[str, Any]:
    """What Ray Serve is told: the application, and how its replicas scale."""
    run = {} if serving.packaged else {"run": f"{PLACE}/{serving.name}"}
    settings = {**run, "batch": serving.batch, "max_new_tokens": serving.longest, "threads": serving.threads}
    gpus = {"num_gpus": 1} if serving.gpus else {}
    least, most = _pods(serving)
    open_ones = Noted(2 * serving.batch, "as many wait in a replica as it answers at once")
    scaling: dict[str, Any] = {"num_replicas": least}
    if most > least:
        scaling = {
            "autoscaling_config": {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": open_ones}
        }
    model = {
        "name": "model",
        **scaling,
        "max_ongoing_requests": Noted(4 * serving.batch, "more than a batch, or none ever fills"),
        "max_queued_requests": Noted(64, "the next is told 503, as foveal serve tells it"),
        "ray_actor_options": {"num_cpus": serving.threads, **gpus},
    }
    application = {
        "name": serving.name,
        "import_path": APPLICATION,
        "route_prefix": "/",
        "args": settings,
        "deployments": [model],
    }
    return {"http_options": {"host": "0.0.0.0", "port": PORT}, "applications": [application]}


def job(training: Training) -> dict[str, Any]:
    """A RayJob that trains."""
    volumes, mounts = trained.storage(training)
    scratch = {"name": "tmp", "emptyDir": {}}
    volumes, mounts = [*volumes, scratch], [*mounts, {"name": "tmp", "mountPath": "/tmp"}]
    common = {"image": training.image, "volumeMounts": mounts}
    many = {"replicas": training.nodes, "minReplicas": training.nodes, "maxReplicas": training.nodes}
    first = {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"memory": "4Gi"}}
    ports = [{"name": name, "containerPort": port} for name, port in _HEAD_PORTS.items() if name != "serve"]
    pod = {"securityContext": trained.as_user(), "volumes": volumes}
    ways = {"nodes": training.nodes, "processes": training.processes, "cpus": training.cores, "gpus": training.gpus}
    flags = [word for name, value in ways.items() for word in (f"--{name}", str(value))]
    worker = {"name": "worker", **common, "resources": trained.resources(training)}
    first_pod = {**pod, "containers": [{"name": "head", **common, "ports": ports, "resources": first}]}
    taints = served.tolerant() if training.gpus else {}
    worker_pod = {**pod, **taints, "containers": [worker]}
    return {
        **head("ray.io/v1", "RayJob", training.name, training.namespace),
        "spec": {
            "entrypoint": shlex.join(["python", "-m", "foveal.ray_train", *flags, "--", *training.words]),
            "backoffLimit": Noted(3, "the same command goes on from the last checkpoint"),
            "shutdownAfterJobFinishes": Noted(True, "no idle accelerator is paid for"),
            "ttlSecondsAfterFinished": Noted(600, "time to read the log"),
            "rayClusterSpec": {
                "rayVersion": Noted(VERSION, "the Ray of the image"),
                "authOptions": Noted({"mode": "token"}, "who reaches a Ray cluster without one runs code in it"),
                "headGroupSpec": {
                    "rayStartParams": {"num-cpus": Noted("0", "nothing trains on the head")},
                    "template": {"spec": first_pod},
                },
                "workerGroupSpecs": [
                    {"groupName": "nodes", **many, "rayStartParams": {}, "template": {"spec": worker_pod}}
                ],
            },
        },
    }
