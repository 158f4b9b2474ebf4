"""Manifests that Kubernetes' own schemas take, strictly, and what they say."""

import re

import pytest
import yaml
from kubernetes_validate import ValidationError, validate

from foveal.core.errors import InputError
from foveal.deployment import kubernetes
from foveal.deployment.notes import plain, text
from foveal.deployment.serving import Serving

KUBERNETES = "1.37"
MINE = {"name": "mine", "image": "registry.example.com/foveal:1", "memory": "2Gi"}
WAYS = [
    {},
    {"gpus": 1, "namespace": "vision", "claim": "runs", "batch": 8},
    {"replicas": 3, "cpus": "500m", "packaged": True},
    {"least": 6},
]


def written(**settings):
    """Every document as it is read back from its file."""
    made = kubernetes.documents(Serving(**MINE, **settings))
    return {name.removesuffix(".yaml"): yaml.safe_load(text(document)) for name, document in made.items()}


@pytest.mark.parametrize("settings", WAYS)
def test_strict_schemas_take_every_document(settings):
    made = written(**settings)
    listed = made.pop("kustomization")
    assert listed["resources"] == sorted(f"{name}.yaml" for name in made)
    assert listed.get("namespace") == settings.get("namespace")
    for document in made.values():
        assert validate(document, KUBERNETES, strict=True) == KUBERNETES
        assert document["metadata"].get("namespace") == settings.get("namespace")


def test_the_strict_schemas_would_see_a_slip():
    document = written()["deployment"]
    document["spec"]["template"]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(ValidationError, match="resource"):
        validate(document, KUBERNETES, strict=True)


def test_every_selector_finds_the_pods():
    made = written()
    template = made["deployment"]["spec"]["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    assert made["deployment"]["spec"]["selector"]["matchLabels"] == labels == made["service"]["spec"]["selector"]
    assert made["disruption"]["spec"]["selector"]["matchLabels"] == labels
    assert made["network"]["spec"]["podSelector"]["matchLabels"] == labels
    assert pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] == labels
    (port,) = pod["containers"][0]["ports"]
    assert made["service"]["spec"]["ports"][0]["targetPort"] == port["name"] == "http"
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(port["containerPort"])
    assert made["autoscaler"]["spec"]["scaleTargetRef"]["name"] == made["deployment"]["metadata"]["name"]


def test_the_autoscaler_follows_requests_and_no_resource():
    (metric,) = written(batch=8)["autoscaler"]["spec"]["metrics"]
    assert metric["type"] == "Pods" and metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "16"}
    made = [written(**way)["autoscaler"]["spec"] for way in ({}, {"least": 6}, {"least": 2, "most": 3})]
    assert [(one["minReplicas"], one["maxReplicas"]) for one in made] == [(1, 4), (6, 6), (2, 3)]


def test_a_fixed_number_has_no_autoscaler_and_a_changing_one_no_number():
    fixed, free = written(replicas=3), written()
    assert "autoscaler" not in fixed and fixed["deployment"]["spec"]["replicas"] == 3
    assert "autoscaler" in free and "replicas" not in free["deployment"]["spec"]


def test_the_pod_has_no_rights_and_the_key_is_in_no_file():
    made = written()
    pod = made["deployment"]["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert server["securityContext"]["readOnlyRootFilesystem"] and pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False and made["network"]["spec"]["egress"] == []
    (key,) = (one for one in server["env"] if one["name"] == "FOVEAL_API_KEY")
    assert key["valueFrom"] == {"secretKeyRef": {"name": "mine-key", "key": "key"}}
    assert server["lifecycle"]["preStop"]["sleep"]["seconds"] < pod["terminationGracePeriodSeconds"]


def test_it_is_said_which_kubernetes_takes_a_sleep_before_the_end():
    assert "# after the sleep (of Kubernetes 1.30 on)" in text(kubernetes.documents(Serving(**MINE))["deployment.yaml"])


def test_a_gpu_is_asked_for_and_a_claim_is_read_alone():
    pod = written(gpus=1, claim="runs")["deployment"]["spec"]["template"]["spec"]
    (server,) = pod["containers"]
    assert server["resources"]["limits"]["nvidia.com/gpu"] == server["resources"]["requests"]["nvidia.com/gpu"] == "1"
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert {"name": "run", "mountPath": "/srv", "readOnly": True} in server["volumeMounts"]
    assert "/srv/mine" in server["args"] and "nvidia.com/gpu" not in str(written())


def test_a_pod_computes_on_as_many_threads_as_it_asks_for():
    for cpus, threads in (("500m", "1"), ("2", "2"), ("3.5", "4")):
        args = written(cpus=cpus)["deployment"]["spec"]["template"]["spec"]["containers"][0]["args"]
        assert args[args.index("--threads") + 1] == threads


@pytest.mark.parametrize("settings", WAYS)
def test_files_are_short_and_say_why(settings):
    for name, document in kubernetes.documents(Serving(**MINE, **settings)).items():
        lines = text(document).splitlines()
        assert len(lines) < 130 and max(map(len, lines)) <= 140
        assert name == "kustomization.yaml" or any(re.match(r" *# \w", line) for line in lines)
        assert yaml.safe_load(text(document)) == plain(document)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"replicas": -1}, "--replicas -1; give 1 or more"),
        ({"least": 0}, "--min-replicas 0; give 1 or more"),
        ({"least": 5, "most": 2}, "--max-replicas 2 is below --min-replicas 5"),
        ({"replicas": 2, "most": 4}, "give one or the other"),
        ({"gpus": -1}, "--gpus -1; give 0 or more"),
        ({"gpus": 4}, "a server uses one"),
        ({"batch": 0}, "--batch 0"),
        ({"longest": 0}, "--max-new-tokens 0"),
        ({"name": "a" * 60}, "59 at most"),
        ({"namespace": "A"}, "--namespace 'A'"),
        ({"claim": "a_b"}, "--claim 'a_b'"),
        ({"claim": "c", "packaged": True}, "comes with Foveal"),
        ({"image": "a b"}, "names no image"),
        ({"memory": "much"}, "no amount of memory"),
        ({"cpus": "all"}, "no number of cores"),
    ],
)
def test_what_no_cluster_takes_is_refused(settings, said):
    with pytest.raises(InputError, match=re.escape(said)):
        Serving(**{**MINE, **settings})


def test_memory_is_reckoned_from_the_weights():
    free = Serving(**{**MINE, "memory": None})
    assert [free.holding(one << 30).memory for one in (0, 1, 14)] == ["1536Mi", "3584Mi", "30208Mi"]
    assert Serving(**MINE).holding(1 << 30).memory == "2Gi"
    with pytest.raises(InputError, match="--memory 2Gi is too little for the server with 2Gi of weights; give 5632Mi"):
        Serving(**MINE).holding(2 << 30)
