"""A training in a cluster: what is wanted of it, and what each of its nodes needs."""

import math
from dataclasses import dataclass
from typing import Any

from foveal.core.errors import InputError
from foveal.deployment import checks
from foveal.deployment.notes import Noted, head
from foveal.deployment.serving import USER

SHARED, RECIPE = "/shared", "/etc/foveal"


@dataclass(frozen=True, kw_only=True)
class Training:
    """A `recipe` (a shipped name, or with its `text` a file's) on `nodes`, each with so much.

    `claim` names a PersistentVolumeClaim that all nodes write to; in it lie `data`, and the run when it has ended.
    Raises InputError for what no cluster takes.
    """

    name: str
    image: str
    recipe: str
    data: str
    text: str | None = None
    settings: tuple[str, ...] = ()
    claim: str = "foveal"
    namespace: str | None = None
    nodes: int = 1
    gpus: int = 0
    cpus: str = "4"
    memory: str = "16Gi"

    def __post_init__(self) -> None:
        checks.label("--name", self.name, room=len("-recipe"))
        checks.image(self.image)
        checks.label("--claim", self.claim)
        if self.namespace is not None:
            checks.label("--namespace", self.namespace)
        checks.whole("--nodes", self.nodes, 1)
        checks.whole("--gpus", self.gpus, 0)
        checks.memory("--memory", self.memory)
        checks.cores("--cpus", self.cpus)
        parts = self.data.split("/")
        if not self.data or ":" in self.data or parts[0] == "" or {".", ".."} & {*parts}:
            raise InputError(
                f"--data {self.data!r} is a place on a machine, or none; name the data set's directory in the claim"
            )

    @property
    def cores(self) -> int:
        """Whole processor cores of a node."""
        return max(1, math.ceil(checks.cores("--cpus", self.cpus)))

    @property
    def processes(self) -> int:
        """Processes of a node: one for each accelerator."""
        return max(1, self.gpus)

    @property
    def words(self) -> list[str]:
        """What `foveal train` is given."""
        recipe = self.recipe if self.text is None else f"{RECIPE}/{self.file}"
        where = ["--data", f"{SHARED}/{self.data}", "--out", f"{SHARED}/runs/{self.name}"]
        return [recipe, *self.settings, *where]

    @property
    def file(self) -> str:
        """What the recipe's file is called in a ConfigMap, which takes few letters."""
        return f"{checks.labelled(self.recipe)}.yaml"

    @property
    def holder(self) -> str:
        """The ConfigMap of a recipe of the user's own."""
        return f"{self.name}-recipe"


def resources(training: Training) -> dict[str, Any]:
    """What a node asks for, and what it gets at most."""
    gpus = {"nvidia.com/gpu": str(training.gpus)} if training.gpus else {}
    return {
        "requests": {"cpu": training.cpus, "memory": training.memory, **gpus},
        "limits": Noted({"memory": training.memory, **gpus}, "foveal plan reckons what a device needs"),
    }


def storage(training: Training) -> tuple[list[Any], list[Any]]:
    """The volumes of a node, and where its container has them."""
    held = {"name": "shared", "persistentVolumeClaim": {"claimName": training.claim}}
    volumes: list[Any] = [Noted(held, "ReadWriteMany: each node reads the data, and goes on from checkpoints")]
    mounts: list[Any] = [{"name": "shared", "mountPath": SHARED}]
    shared = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}
    volumes.append(Noted(shared, "workers hand batches over in shared memory; a container has 64 MB of it"))
    mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    if training.text is not None:
        volumes.append({"name": "recipe", "configMap": {"name": training.holder}})
        mounts.append({"name": "recipe", "mountPath": RECIPE, "readOnly": True})
    return volumes, mounts


def recipe_map(training: Training) -> dict[str, Any]:
    """The ConfigMap of a recipe of the user's own."""
    return {
        **head("v1", "ConfigMap", training.holder, training.namespace),
        "data": {training.file: training.text},
    }


def as_user() -> dict[str, Any]:
    """As whom nodes run."""
    return {"runAsNonRoot": True, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER}
