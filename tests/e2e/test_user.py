"""What a user does, on real nodes: apply, ask, edit, make mistakes, delete."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e import client
from tests.e2e.conftest import ROOT
from tests.kubectl import Kubectl, Manifest, an_llmdeployment, condition, eventually, is_ready

CANARY = "CANARY-7f3a9c"


def wait_ready(kubectl: Kubectl, *, seconds: float = 120) -> Manifest:
    def ready() -> Manifest | None:
        found = kubectl.get("llmdep", "triage")
        assert is_ready(found), found and found.get("status")
        return found

    found = eventually(ready, seconds=seconds, every=0.5)
    assert found is not None
    return found


def reason(kubectl: Kubectl) -> Any:
    return condition(kubectl.get("llmdep", "triage"), "Ready").get("reason")


def example(**spec: Any) -> Manifest:
    manifest: Manifest = yaml.safe_load((ROOT / "examples/mock.yaml").read_text())
    manifest["spec"] |= spec
    return manifest


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
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
    operator = Kubectl(kubectl.program, kubectl.kubeconfig, "llm-operator-system")
    assert CANARY not in operator("logs", "deployment/llm-operator")


def test_edits_of_replicas_and_resources_lose_no_request(kubectl: Kubectl) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    client.start(kubectl)
    kubectl("scale", "llmdep/triage", "--replicas=2")
    assert wait_ready(kubectl)["status"]["readyReplicas"] == 2
    kubectl.patch("llmdep", "triage", {"spec": {"resources": {"limits": {"memory": "300Mi"}}}})
    wait_ready(kubectl)
    kubectl("scale", "llmdep/triage", "--replicas=1")
    wait_ready(kubectl)
    found = client.finish(kubectl)
    assert found["count"] > 100
    assert found["failures"] == []


def test_a_mode_the_image_cannot_run_is_told_in_the_servers_words_while_the_old_pod_serves(kubectl: Kubectl) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    client.start(kubectl)
    kubectl.patch("llmdep", "triage", {"spec": {"mode": "qwen"}})
    eventually(lambda: reason(kubectl) == "CrashLoop", seconds=60)
    found = kubectl.get("llmdep", "triage")
    assert "ModeNotSupported" in condition(found, "Ready")["message"]
    assert "mock" in condition(found, "Ready")["message"], "it says what is allowed"
    assert condition(found, "Available")["status"] == "True"
    assert client.finish(kubectl)["failures"] == []
    kubectl.patch("llmdep", "triage", {"spec": {"mode": "mock"}})
    wait_ready(kubectl)


def test_an_image_that_is_not_there_is_told_while_the_old_pod_serves(kubectl: Kubectl) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    client.start(kubectl)
    kubectl.patch("llmdep", "triage", {"spec": {"image": "localhost:1/not/there:1"}})
    eventually(lambda: reason(kubectl) == "ImagePullFailed", seconds=60)
    found = kubectl.get("llmdep", "triage")
    assert "localhost:1/not/there:1" in condition(found, "Ready")["message"]
    assert condition(found, "Available")["status"] == "True"
    assert client.finish(kubectl)["failures"] == []


def test_too_little_memory_is_told_with_the_limit(kubectl: Kubectl) -> None:
    resources = {"requests": {"memory": "16Mi"}, "limits": {"memory": "24Mi"}}
    kubectl.apply(an_llmdeployment(resources=resources))
    eventually(lambda: reason(kubectl) == "OOMKilled", seconds=90)
    assert "24Mi" in condition(kubectl.get("llmdep", "triage"), "Ready")["message"]
    kubectl.patch("llmdep", "triage", {"spec": {"resources": {"limits": {"memory": "256Mi"}}}})
    wait_ready(kubectl)


def test_a_node_that_is_not_there_is_told(kubectl: Kubectl) -> None:
    kubectl.apply(example(nodeSelector={"no": "such-node"}))
    eventually(lambda: reason(kubectl) == "Unschedulable", seconds=60)
    assert condition(kubectl.get("llmdep", "triage"), "Available")["status"] == "False"


def test_a_new_operator_pod_restarts_no_server(kubectl: Kubectl) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    before = [pod["metadata"]["uid"] for pod in kubectl.list("pods")]
    operator = Kubectl(kubectl.program, kubectl.kubeconfig, "llm-operator-system")
    operator("delete", "pod", "-l", "app.kubernetes.io/component=operator", "--timeout=60s")
    operator("rollout", "status", "deployment/llm-operator", "--timeout=120s", timeout=130)
    kubectl("label", "service", "triage", "app.kubernetes.io/part-of=other", "--overwrite")

    def label_is_back() -> bool:
        service = kubectl.get("service", "triage")
        return service is not None and service["metadata"]["labels"]["app.kubernetes.io/part-of"] == "llmdeployment"

    eventually(label_is_back)
    assert [pod["metadata"]["uid"] for pod in kubectl.list("pods")] == before


def test_deletion_ends_the_pods(kubectl: Kubectl) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    kubectl("delete", "llmdep", "triage", "--timeout=30s")
    eventually(lambda: not kubectl.list("deployments,services,pods"), seconds=60)
