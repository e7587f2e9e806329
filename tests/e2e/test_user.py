"""What a user does, on real nodes: apply, ask, edit, make mistakes, delete."""

import json
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.e2e import client
from tests.e2e.steps import (
    ENDS_THE_OPERATOR,
    OPERATOR,
    edit,
    example,
    of_the_operator,
    operator_logs,
    reason,
    wait_ready,
)
from tests.kubectl import Kubectl, an_llmdeployment, condition, eventually

CANARY = "CANARY-7f3a9c"


# The others need a model and a volume that nobody has here; the API server judges them in tests/integration.
MOCKS = [path for path in sorted((ROOT / "examples").glob("*.yaml")) if "mode: mock" in path.read_text()]


@pytest.mark.parametrize("path", MOCKS, ids=lambda path: path.name)
def test_every_example_answers_a_request_from_another_pod(kubectl: Kubectl, path: Path) -> None:
    kubectl("apply", "-f", str(path))
    wait_ready(kubectl)
    found = client.ask_once(kubectl)
    assert found["failures"] == []
    assert found["answer"]["mode"] == "mock"
    assert found["answer"]["response"]


def test_patient_text_stays_out_of_every_log(kubectl: Kubectl) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    assert client.ask_once(kubectl, canary=CANARY)["failures"] == []
    logs = kubectl("logs", "deployment/triage")
    assert logs, "the request was logged"
    assert CANARY not in logs
    assert kubectl.namespace in operator_logs(kubectl), "the operator that works is among them"
    assert CANARY not in operator_logs(kubectl)


def test_edits_of_replicas_and_resources_lose_no_request(kubectl: Kubectl) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    with client.nothing_lost(kubectl):
        edit(kubectl, {"resources": {"limits": {"memory": "300Mi"}}, "rollout": {"soakSeconds": 300}})
        eventually(lambda: reason(kubectl) == "Soaking")
        edit(kubectl, {"rollout": {"soakSeconds": 2}})
        wait_ready(kubectl)
        kubectl("scale", "llmdep/triage", "--replicas=2")
        assert wait_ready(kubectl)["status"]["readyReplicas"] == 2
        edit(kubectl, {"resources": {"limits": {"memory": "320Mi"}}})
        wait_ready(kubectl)
        kubectl("scale", "llmdep/triage", "--replicas=1")
        wait_ready(kubectl)


def test_a_first_revision_with_too_little_memory_is_told_with_the_limit(kubectl: Kubectl) -> None:
    resources = {"requests": {"memory": "16Mi"}, "limits": {"memory": "24Mi"}}
    kubectl.apply(an_llmdeployment(resources=resources))
    eventually(lambda: reason(kubectl) == "OOMKilled")
    assert "24Mi" in condition(kubectl.get("llmdep", "triage"), "Ready")["message"]
    eventually(lambda: reason(kubectl, "Stalled") == "NoKnownGoodRevision")
    (pod,) = kubectl.list("pods")
    note = json.loads(pod["status"]["containerStatuses"][0]["lastState"]["terminated"]["message"])
    assert 0 < note["memoryBytes"] <= 24 * 1024 * 1024, "the server had noted how much it used"
    edit(kubectl, {"resources": {"limits": {"memory": "256Mi"}}})
    wait_ready(kubectl)


def test_a_node_that_is_not_there_is_told(kubectl: Kubectl) -> None:
    kubectl.apply(example(nodeSelector={"no": "such-node"}))
    eventually(lambda: reason(kubectl) == "Unschedulable")
    assert condition(kubectl.get("llmdep", "triage"), "Available")["status"] == "False"


@ENDS_THE_OPERATOR
def test_a_new_operator_pod_restarts_no_server(kubectl: Kubectl) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    before = [pod["metadata"]["uid"] for pod in kubectl.list("pods")]
    operator = of_the_operator(kubectl)
    operator("delete", "pod", "-l", OPERATOR, "--timeout=120s")
    operator("rollout", "status", "deployment/llm-operator", "--timeout=280s")
    kubectl("label", "service", "triage", "app.kubernetes.io/part-of=other", "--overwrite")

    def label_is_back() -> bool:
        service = kubectl.get("service", "triage")
        return service is not None and service["metadata"]["labels"]["app.kubernetes.io/part-of"] == "llmdeployment"

    eventually(label_is_back)
    assert [pod["metadata"]["uid"] for pod in kubectl.list("pods")] == before


def test_deletion_ends_the_pods(kubectl: Kubectl) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    kubectl("delete", "llmdep", "triage", "--timeout=120s")
    eventually(lambda: not kubectl.list("deployments,services,pods"))
