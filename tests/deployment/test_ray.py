"""What KubeRay takes: its pods by Kubernetes' own schemas, its Serve config by Ray's."""

import shlex
import warnings

import pytest
import yaml
from kubernetes_validate import validate

from foveal.core.errors import InputError
from foveal.deployment import ray
from foveal.deployment.notes import text
from foveal.deployment.serving import Serving
from foveal.deployment.training import Training, recipe_map

SERVED = {"name": "mine", "image": "reg.io/a:1", "memory": "4Gi"}
TRAINED = {"name": "mine", "image": "reg.io/a:1", "recipe": "demo", "data": "scenes"}
SERVICE, CLUSTER = (
    {"serveConfigV2", "rayClusterConfig"},
    {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"},
)
JOB = {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"}


def service(**settings):
    return yaml.safe_load(text(ray.service(Serving(**SERVED, **settings))))


def job(**settings):
    return yaml.safe_load(text(ray.job(Training(**{**TRAINED, **settings}))))


def served(config):
    """What Ray Serve reads of its config; raises for what it does not know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own modules, as they are read
        from ray.serve.schema import ServeDeploySchema

        return ServeDeploySchema.model_validate(yaml.safe_load(config))


def pods(cluster):
    """The pods of a cluster, each as one that stands alone."""
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, **group["template"]} for group in groups]


@pytest.mark.parametrize("settings", [{}, {"gpus": 1, "claim": "runs", "batch": 8}, {"replicas": 2, "packaged": True}])
def test_a_service_is_what_ray_and_kubernetes_take(settings):
    made = service(**settings)
    assert (made["apiVersion"], made["kind"], made["metadata"]["name"]) == ("ray.io/v1", "RayService", "mine")
    assert set(made["spec"]) == SERVICE
    assert set(made["spec"]["rayClusterConfig"]) == {*CLUSTER, "enableInTreeAutoscaling"}
    for pod in pods(made["spec"]["rayClusterConfig"]):
        assert validate(pod, "1.37", strict=True) == "1.37"
    config = served(made["spec"]["serveConfigV2"])
    (application,) = config.applications
    (model,) = application.deployments
    batch = settings.get("batch", 4)
    assert application.args["batch"] == batch and model.max_ongoing_requests >= 2 * batch
    assert application.args.get("run") == (None if settings.get("packaged") else "/srv/mine")
    assert application.import_path == "foveal.ray_serve:app"
    (group,) = made["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    wanted = (2, 2) if "replicas" in settings else (1, 4)
    assert (group["minReplicas"], group["maxReplicas"]) == wanted
    assert made["spec"]["rayClusterConfig"]["enableInTreeAutoscaling"] is ("replicas" not in settings)
    assert model.ray_actor_options.num_gpus == (1 if "gpus" in settings else None)


def test_models_are_on_workers_which_alone_have_the_key():
    head, worker = pods(service()["spec"]["rayClusterConfig"])
    assert "env" not in head["spec"]["containers"][0]
    assert worker["spec"]["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "mine-key"
    assert service()["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_a_job_trains_on_as_many_nodes_as_are_asked_for():
    made = job(nodes=3, gpus=8, settings=("seed=1", "training.stages.0.rate=1e-3"), namespace="vision")
    assert (made["apiVersion"], made["kind"], made["metadata"]["namespace"]) == ("ray.io/v1", "RayJob", "vision")
    assert set(made["spec"]) == JOB and set(made["spec"]["rayClusterSpec"]) == CLUSTER
    for pod in pods(made["spec"]["rayClusterSpec"]):
        assert validate(pod, "1.37", strict=True) == "1.37"
    words = shlex.split(made["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "foveal.ray_train"]
    assert words[3:12] == ["--nodes", "3", "--processes", "8", "--cpus", "4", "--gpus", "8", "--"]
    assert words[12:] == [
        "demo",
        "seed=1",
        "training.stages.0.rate=1e-3",
        "--data",
        "/shared/scenes",
        "--out",
        "/shared/runs/mine",
    ]
    (group,) = made["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 3
    worker = group["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "8"


def test_a_recipe_of_one_s_own_goes_along():
    training = Training(**TRAINED, text="model: {}\n")
    held = yaml.safe_load(text(recipe_map(training)))
    assert validate(held, "1.37", strict=True) == "1.37" and held["data"] == {"demo.yaml": "model: {}\n"}
    made = job(text="model: {}\n")
    assert "/etc/foveal/demo.yaml" in made["spec"]["entrypoint"]
    for pod in pods(made["spec"]["rayClusterSpec"]):
        (volume,) = [one for one in pod["spec"]["volumes"] if "configMap" in one]
        assert volume["configMap"]["name"] == held["metadata"]["name"]


def test_a_file_s_name_becomes_one_that_a_map_takes():
    training = Training(**{**TRAINED, "recipe": "My recipe"}, text="model: {}\n")
    held = yaml.safe_load(text(recipe_map(training)))
    assert held["data"] == {"my-recipe.yaml": "model: {}\n"} and training.words[0] == "/etc/foveal/my-recipe.yaml"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"nodes": 0}, "--nodes 0"),
        ({"gpus": -1}, "--gpus -1"),
        ({"data": "/data"}, "is a place on a machine"),
        ({"data": "../data"}, "is a place on a machine"),
        ({"data": "s3://bucket/data"}, "name the data set's directory in the claim"),
        ({"data": ""}, "name the data set's directory in the claim"),
        ({"claim": "A"}, "--claim 'A'"),
        ({"name": "a" * 60}, "56 at most"),
        ({"memory": "x"}, "no amount of memory"),
    ],
)
def test_what_no_cluster_takes_is_refused(settings, said):
    with pytest.raises(InputError, match=said):
        Training(**{**TRAINED, **settings})
