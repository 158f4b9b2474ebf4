"""A served model as plain Kubernetes: a kustomize directory without any operator."""

from typing import Any

from foveal.deployment.notes import Noted, head
from foveal.deployment.serving import (
    PORT,
    Serving,
    arguments,
    confined,
    environment,
    placed,
    resources,
    storage,
    unprivileged,
)

METRIC = "foveal_requests_open"  # of GET /metrics: requests that are read, wait or are answered
_SCRAPERS = ("monitoring", "ingress-nginx")  # namespaces as their charts name them
_LEAVE = 15  # seconds in which nobody sends any more, and who waits is still answered


def documents(serving: Serving) -> dict[str, dict[str, Any]]:
    """Every file's document, by the file's name."""
    made = {
        "deployment.yaml": _deployment(serving),
        "service.yaml": _service(serving),
        "disruption.yaml": _disruption(serving),
        "network.yaml": _network(serving),
    }
    if serving.replicas is None:
        made["autoscaler.yaml"] = _autoscaler(serving)
    space = {} if serving.namespace is None else {"namespace": serving.namespace}
    head = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", **space}
    return {**made, "kustomization.yaml": {**head, "resources": sorted(made)}}


def _deployment(serving: Serving) -> dict[str, Any]:
    chosen: Any = {"matchLabels": serving.labels}
    many: dict[str, Any] = {"replicas": serving.replicas, "selector": chosen}
    if serving.replicas is None:
        many = {"selector": Noted(chosen, "no replicas: each apply would undo what the autoscaler says")}
    rolling = {"maxUnavailable": Noted(0, "a new pod answers before an old one goes"), "maxSurge": 1}
    scraped = {"prometheus.io/scrape": "true", "prometheus.io/port": str(PORT), "prometheus.io/path": "/metrics"}
    metadata = {"labels": serving.labels, "annotations": Noted(scraped, "Prometheus' chart reads pods that say so")}
    return {
        **head("apps/v1", "Deployment", serving.name, serving.namespace),
        "spec": {
            **many,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "template": {"metadata": metadata, "spec": _pod(serving)},
        },
    }


def _pod(serving: Serving) -> dict[str, Any]:
    volumes, mounts = storage(serving)
    health = {"httpGet": {"path": "/health", "port": "http"}}
    apart = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": serving.labels},
    }
    server = {
        "name": "foveal",
        "image": serving.image,
        "args": arguments(serving),
        "env": environment(serving),
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": resources(serving),
        "startupProbe": Noted({**health, "periodSeconds": 5, "failureThreshold": 120}, "10 min to read weights"),
        "readinessProbe": {**health, "periodSeconds": 5},
        "livenessProbe": Noted({**health, "periodSeconds": 10, "timeoutSeconds": 5}, "answered beside the model"),
        "lifecycle": {"preStop": {"sleep": {"seconds": _LEAVE}}},
        "securityContext": confined(),
        "volumeMounts": mounts,
    }
    grace = Noted(
        _LEAVE + 30, "after the sleep (of Kubernetes 1.30 on), in which who waits is answered, SIGTERM ends the server"
    )
    return {
        "automountServiceAccountToken": Noted(False, "it asks nothing of the cluster"),
        "securityContext": unprivileged(),
        "terminationGracePeriodSeconds": grace,
        "topologySpreadConstraints": Noted([apart], "one lost node takes as few pods along as can be"),
        **placed(serving),
        "containers": [server],
        "volumes": volumes,
    }


def _service(serving: Serving) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    return {
        **head("v1", "Service", serving.name, serving.namespace),
        "spec": {
            "type": Noted("ClusterIP", "put an Ingress that speaks TLS before it, where others reach it"),
            "selector": serving.labels,
            "ports": ports,
        },
    }


def _autoscaler(serving: Serving) -> dict[str, Any]:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": serving.name}
    level = Noted(str(2 * serving.batch), "as many wait in a pod as it answers at once (--batch)")
    followed = {"metric": {"name": METRIC}, "target": {"type": "AverageValue", "averageValue": level}}
    metric = {"type": "Pods", "pods": followed}
    why = "from GET /metrics by way of prometheus-adapter; Resource metrics know cpu and memory alone, no accelerator"
    slow = {"stabilizationWindowSeconds": Noted(300, "a new pod has to read its weights: none goes for a short lull")}
    return {
        **head("autoscaling/v2", "HorizontalPodAutoscaler", serving.name, serving.namespace),
        "spec": {
            "scaleTargetRef": target,
            "minReplicas": serving.least,
            "maxReplicas": serving.highest,
            "metrics": Noted([metric], why),
            "behavior": {"scaleDown": slow},
        },
    }


def _disruption(serving: Serving) -> dict[str, Any]:
    one = Noted(1, "nodes are drained one pod at a time, and a single pod holds none up")
    return {
        **head("policy/v1", "PodDisruptionBudget", serving.name, serving.namespace),
        "spec": {"maxUnavailable": one, "selector": {"matchLabels": serving.labels}},
    }


def _network(serving: Serving) -> dict[str, Any]:
    names = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}} for name in _SCRAPERS]
    own = Noted({"podSelector": {}}, "pods of this namespace, Prometheus and the ingress")
    return {
        **head("networking.k8s.io/v1", "NetworkPolicy", serving.name, serving.namespace),
        "spec": {
            "podSelector": {"matchLabels": serving.labels},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [own, *names], "ports": [{"protocol": "TCP", "port": "http"}]}],
            "egress": Noted([], "nothing: the server opens no addresses"),
        },
    }
