"""The commands of before (`kubectl set env`, `rollout undo`, ...): what was typed is put back, and its author told."""

import pytest

from tests.integration.test_lifecycle import create_ready, wait_ready
from tests.kubectl import Kubectl, eventually

pytestmark = pytest.mark.usefixtures("operator")

COMMANDS = {
    "set env": (("set", "env", "deployment/triage", "LLM_MODE=qwen"), "kubectl-set", "Set spec.mode of"),
    "set image": (("set", "image", "deployment/triage", "server=kwok/other:1"), "kubectl-set", "Set spec.image of"),
    "set resources": (
        ("set", "resources", "deployment/triage", "--limits=memory=2Gi"),
        "kubectl-set",
        "Set spec.resources of",
    ),
    "scale": (("scale", "deployment/triage", "--replicas=3"), "kubectl", "kubectl scale llmdeployment triage"),
    "autoscale": (
        ("autoscale", "deployment/triage", "--min=2", "--max=3", "--cpu=50"),
        "an autoscaler",
        "scaleTargetRef",
    ),
    "rollout pause": (("rollout", "pause", "deployment/triage"), "kubectl-rollout", "cannot be paused"),
}


def told(kubectl: Kubectl, manager: str, remedy: str) -> bool:
    """Whether status and events tell who set what, and what to edit instead."""
    found = kubectl.get("llmdep", "triage")
    assert found is not None
    reverted = found["status"]["reverted"]
    assert reverted["manager"] == manager, reverted
    assert remedy in reverted["message"], reverted
    events = kubectl.list("events")
    return any(one["reason"] == "EditReverted" and one["message"] == reverted["message"] for one in events)


@pytest.mark.parametrize(("command", "manager", "remedy"), COMMANDS.values(), ids=COMMANDS)
def test_what_was_typed_is_put_back_and_told(
    kubectl: Kubectl, command: tuple[str, ...], manager: str, remedy: str
) -> None:
    create_ready(kubectl, resources={"limits": {"memory": "1Gi"}})
    before = kubectl.get("deployment", "triage")
    assert before is not None
    kubectl(*command)
    eventually(lambda: told(kubectl, manager, remedy))
    if manager == "an autoscaler":
        kubectl("delete", "hpa", "triage")

    def is_back() -> bool:
        found = kubectl.get("deployment", "triage")
        return found is not None and found["spec"] == before["spec"]

    eventually(is_back)


def test_undo_names_the_record_of_the_revision_to_go_back_to(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    first = wait_ready(kubectl)["status"]["activeRevision"]
    kubectl.patch("llmdep", "triage", {"spec": {"image": "kwok/second:1"}})
    second = wait_ready(kubectl)["status"]["activeRevision"]
    assert second != first
    kubectl("rollout", "undo", "deployment/triage")
    eventually(lambda: told(kubectl, "kubectl", f"kubectl get controllerrevision triage-{first}"))
    shown = kubectl("get", "controllerrevision", f"triage-{first}", "-o", "jsonpath={.data.fields}")
    assert '"mode":"mock"' in shown
    eventually(lambda: wait_ready(kubectl)["status"]["servingRevision"] == second)


def test_the_next_edit_of_the_llmdeployment_ends_the_notice(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    kubectl("set", "env", "deployment/triage", "LLM_MODE=qwen")
    eventually(lambda: told(kubectl, "kubectl-set", "Set spec.mode of"))
    kubectl.patch("llmdep", "triage", {"spec": {"image": "kwok/second:1"}})
    assert "reverted" not in wait_ready(kubectl)["status"]
