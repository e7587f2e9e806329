"""The manifests, pinned by golden files: run with UPDATE_GOLDEN=1 to accept a change, then read the diff."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_operator.core.children import build_deployment, build_service
from llm_operator.core.drift import first_difference
from tests.unit.operator.builders import SETTINGS, a_parent, a_spec

GOLDEN = Path(__file__).parent / "golden"
SPECS: dict[str, dict[str, Any]] = {
    "minimal": {},
    "full": {
        "mode": "Qwen3-4B-Thinking-2507",
        "image": "registry.example.com/team/server:1.2",
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "registry"}],
        "replicas": 3,
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": 1}},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"labelSelector": {"matchLabels": {"a": "b"}}, "topologyKey": "kubernetes.io/hostname"}
                ]
            }
        },
        "priorityClassName": "clinic-high",
    },
}


@pytest.mark.parametrize("name", SPECS)
def test_manifests_are_as_the_golden_file_says(name: str) -> None:
    spec = a_spec(**SPECS[name])
    parent = a_parent(spec=spec)
    text = yaml.safe_dump_all([build_service(parent), build_deployment(parent, spec, SETTINGS)], sort_keys=False)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", SPECS)
def test_pods_meet_pod_security_restricted(name: str) -> None:
    spec = a_spec(**SPECS[name])
    pod = build_deployment(a_parent(spec=spec), spec, SETTINGS)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_a_serving_pod_is_never_taken_away_before_its_successor_answers() -> None:
    strategy = build_deployment(a_parent(), a_spec(), SETTINGS)["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_the_same_spec_always_gives_the_same_manifest() -> None:
    one = build_deployment(a_parent(), a_spec(), SETTINGS)
    assert one == build_deployment(a_parent(generation=9, resource_version="10"), a_spec(), SETTINGS)


def test_taking_a_field_out_of_the_spec_is_a_difference() -> None:
    with_field = build_deployment(a_parent(), a_spec(priorityClassName="high"), SETTINGS)
    without = build_deployment(a_parent(), a_spec(), SETTINGS)
    assert first_difference(without, with_field) is not None
