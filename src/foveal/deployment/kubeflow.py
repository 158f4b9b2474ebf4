"""What Kubeflow runs: a TrainJob on several nodes, and the settings of a pipeline."""

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from foveal.deployment import training as trained
from foveal.deployment.notes import Noted, head
from foveal.deployment.training import Training

KFP = "2.17.3"  # that the pipeline was tried with


@dataclass(frozen=True, kw_only=True)
class After:
    """What a pipeline does once it has trained: how `foveal eval` is told to score the run (None: it is not), and
    whether the run is exported; `extras` are what its image needs for that."""

    score: tuple[str, ...] | None = ()
    exports: bool = True
    extras: tuple[str, ...] = ("onnx",)


def train_job(training: Training) -> dict[str, Any]:
    """A TrainJob of Trainer v2."""
    volumes, mounts = trained.storage(training)
    node = {
        "volumes": volumes,
        "securityContext": trained.as_user(),
        "containers": [{"name": "node", "volumeMounts": mounts}],
    }
    patch: dict[str, Any] = {"name": "node", "template": {"spec": {"template": {"spec": node}}}}
    runtime = {"template": {"spec": {"replicatedJobs": [patch]}}}
    return {
        **head("trainer.kubeflow.org/v1alpha1", "TrainJob", training.name, training.namespace),
        "spec": {
            "runtimeRef": Noted({"name": "torch-distributed"}, "the trainer's own: it tells torchrun who is who"),
            "trainer": {
                "image": training.image,
                "command": ["torchrun"],
                "args": ["-m", "foveal", "train", *training.words],
                "numNodes": training.nodes,
                "numProcPerNode": Noted(training.processes, "one for each accelerator"),
                "resourcesPerNode": trained.resources(training),
            },
            "runtimePatches": Noted(
                [{"manager": "foveal/deploy", "trainingRuntimeSpec": runtime}], "from Trainer v2.2.0 on"
            ),
        },
    }


def pipeline(training: Training, after: After) -> dict[str, str]:
    """The pipeline's source, and what it is to train and to do then."""
    told: dict[str, Any] = {
        name: getattr(training, name) for name in ("name", "image", "recipe", "settings", "cpus", "memory", "gpus")
    }
    source = (files("foveal.deployment") / "pipeline.py").read_text(encoding="utf-8")
    told |= {"text": training.text or "", "score": after.score, "exports": after.exports}
    return {"pipeline.py": source, "settings.json": json.dumps(told, indent=1) + "\n"}
