"""A served model in a cluster: what is wanted of it, and the pod that serves it, whoever starts the pod."""

import math
from dataclasses import dataclass, replace
from typing import Any

from foveal.core.errors import InputError
from foveal.deployment import checks
from foveal.deployment.notes import Noted, labels

PORT, USER = 8000, 10001
PLACE = "/srv"  # where a run lies in the image, or is mounted, in a directory of the model's name
_KEY = "-key"
_LEAST, _BASE = checks.GIB // 2, 1.5 * checks.GIB  # Python and torch; and the pictures of who waits


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What a cluster serves: `least` to `most` pods, or as many as `replicas`, of so much each.

    `claim` names a PersistentVolumeClaim that holds the run; without one it lies in the image. `packaged` is a model
    that comes with Foveal and needs neither. Raises InputError for what no cluster takes.
    """

    name: str
    image: str
    memory: str | None = None
    cpus: str = "2"
    gpus: int = 0
    namespace: str | None = None
    replicas: int | None = None
    least: int = 1
    most: int | None = None
    batch: int = 4
    longest: int = 128
    claim: str | None = None
    packaged: bool = False

    def __post_init__(self) -> None:
        checks.label("--name", self.name, room=len(_KEY))
        checks.image(self.image)
        for option, name in {"--namespace": self.namespace, "--claim": self.claim}.items():
            if name is not None:
                checks.label(option, name)
        if self.memory is not None:
            checks.memory("--memory", self.memory)
        checks.cores("--cpus", self.cpus)
        checks.whole("--gpus", self.gpus, 0)
        if self.gpus > 1:
            raise InputError(f"--gpus {self.gpus}: a server uses one; give 0 or 1, and more replicas")
        counts = {"--min-replicas": self.least, "--batch": self.batch, "--max-new-tokens": self.longest}
        for option, number in {**counts, "--replicas": self.replicas, "--max-replicas": self.most}.items():
            if number is not None:
                checks.whole(option, number, 1)
        if self.most is not None and self.most < self.least:
            raise InputError(
                f"--max-replicas {self.most} is below --min-replicas {self.least}; raise it, or leave it out"
            )
        if self.replicas is not None and (self.least, self.most) != (1, None):
            told = f"--replicas {self.replicas} is a fixed number, and --min-replicas and --max-replicas let it change"
            raise InputError(f"{told}; give one or the other")
        if self.packaged and self.claim is not None:
            raise InputError(f"--claim {self.claim} holds a run, and this model comes with Foveal; leave it out")

    def holding(self, weights: int, *, beside: int = 0) -> "Serving":
        """The same with memory for so many bytes of weights, and those that something else needs.

        Raises InputError where what is given cannot hold them.
        """
        asked = checks.gib(_BASE + beside + 2 * weights)  # they lie there twice while they are read
        if self.memory is None:
            return replace(self, memory=asked)
        if checks.memory("--memory", self.memory) < weights + beside + _LEAST:
            told = f"--memory {self.memory} is too little for the server with {checks.gib(weights)} of weights"
            raise InputError(f"{told}; give {asked}, or leave it out")
        return self

    @property
    def highest(self) -> int:
        """The most pods."""
        return max(4, self.least) if self.most is None else self.most

    @property
    def threads(self) -> int:
        """Processor threads of a pod."""
        return max(1, math.ceil(checks.cores("--cpus", self.cpus)))

    @property
    def labels(self) -> dict[str, str]:
        """By what its pods are found."""
        return labels(self.name)

    @property
    def secret(self) -> str:
        """The Secret that holds the API key."""
        return f"{self.name}{_KEY}"


def arguments(serving: Serving) -> list[str]:
    """The command line of a pod, after `foveal`."""
    run = [] if serving.packaged else [f"{PLACE}/{serving.name}"]
    ways = {"--host": "0.0.0.0", "--port": PORT, "--batch": serving.batch}
    ways |= {"--max-new-tokens": serving.longest, "--threads": serving.threads}
    return ["serve", *run, *(str(word) for way in ways.items() for word in way)]


def resources(serving: Serving) -> dict[str, Any]:
    """What a container asks for, and what it gets at most."""
    gpus = {"nvidia.com/gpu": str(serving.gpus)} if serving.gpus else {}
    asked = {"cpu": serving.cpus, "memory": serving.memory}
    return {
        "requests": Noted({**asked, **gpus}, "memory: as --memory said, or twice the weights and what is beside them"),
        "limits": Noted({"memory": serving.memory, **gpus}, "no limit on cpu: --threads keeps to what is asked for"),
    }


def environment(serving: Serving) -> list[Any]:
    """The container's environment: the key by reference."""
    reference = {"secretKeyRef": {"name": serving.secret, "key": "key"}}
    return [
        Noted({"name": "FOVEAL_API_KEY", "valueFrom": reference}, "no file and no list of processes shows it"),
        Noted({"name": "HF_HUB_OFFLINE", "value": "1"}, "nothing is fetched at run time"),
    ]


def storage(serving: Serving) -> tuple[list[Any], list[Any]]:
    """The volumes of a pod, and where its container has them."""
    scratch: Any = {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}
    volumes = [Noted(scratch, "the one place that can be written to")]
    mounts: list[Any] = [{"name": "tmp", "mountPath": "/tmp"}]
    if serving.claim is not None:
        held = {"name": "run", "persistentVolumeClaim": {"claimName": serving.claim, "readOnly": True}}
        volumes.append(Noted(held, f"holds the run in a directory {serving.name}"))
        mounts.append({"name": "run", "mountPath": PLACE, "readOnly": True})
    return volumes, mounts


def confined() -> dict[str, Any]:
    """What a container may do: compute, and nothing else."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": Noted(True, "what breaks in can leave nothing behind"),
    }


def unprivileged() -> dict[str, Any]:
    """As whom a pod runs."""
    return {
        "runAsNonRoot": True,
        "runAsUser": Noted(USER, "the user that the image has"),
        "runAsGroup": USER,
        "fsGroup": USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def placed(serving: Serving) -> dict[str, Any]:
    """On which nodes pods go."""
    return tolerant() if serving.gpus else {}


def tolerant() -> dict[str, Any]:
    """What lets a pod on to nodes with accelerators."""
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    return {"tolerations": Noted([taint], "nodes with accelerators are often kept from all others")}
