"""What the tests do with the LLMDeployment `triage`, and what they look for."""

from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.kubectl import Kubectl, Manifest, condition, eventually, is_ready

OPERATOR = "app.kubernetes.io/component=operator"
OPERATOR_NAMESPACE = "llm-operator-system"
# One after the other, while tests of other objects go on: they lose nothing but a few seconds.
ENDS_THE_OPERATOR = pytest.mark.xdist_group("ends the operator")


def of_the_operator(kubectl: Kubectl) -> Kubectl:
    """kubectl in the operator's namespace."""
    return Kubectl(kubectl.program, kubectl.kubeconfig, OPERATOR_NAMESPACE)


def operator_logs(kubectl: Kubectl, *arguments: str) -> str:
    """What all pods of the operator have logged; each line begins with the pod."""
    return of_the_operator(kubectl)("logs", "-l", OPERATOR, "--prefix", "--tail=-1", *arguments)


def server_image(kubectl: Kubectl) -> str:
    """The image that the operator was installed with."""
    deployment = of_the_operator(kubectl).get("deployment", "llm-operator")
    assert deployment is not None
    variables = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    return next(str(one["value"]) for one in variables if one["name"] == "LLMOP_SERVER_IMAGE")


def example(**spec: Any) -> Manifest:
    """examples/mock.yaml, good after 2 s, with other fields in its spec."""
    manifest: Manifest = yaml.safe_load((ROOT / "examples/mock.yaml").read_text())
    manifest["spec"] |= {"rollout": {"soakSeconds": 2}, **spec}
    return manifest


def edit(kubectl: Kubectl, spec: Manifest) -> None:
    """Merge fields into the spec; None removes one."""
    kubectl.patch("llmdep", "triage", {"spec": spec})


def triage(kubectl: Kubectl) -> Manifest:
    """The LLMDeployment."""
    found = kubectl.get("llmdep", "triage")
    assert found is not None
    return found


def reason(kubectl: Kubectl, kind: str = "Ready") -> Any:
    """Reason of a condition, or None."""
    return condition(triage(kubectl), kind).get("reason")


def wait_ready(kubectl: Kubectl, *, seconds: float = 300) -> Manifest:
    """Wait until Ready is True for what the spec says now."""

    def ready() -> Manifest:
        found = triage(kubectl)
        assert is_ready(found), found.get("status")
        return found

    return eventually(ready, seconds=seconds, every=0.5)


def wait_rolled_back(kubectl: Kubectl, why: str, *, seconds: float = 300) -> Manifest:
    """Wait until the declared revision was rejected for this reason and another one serves."""

    def rolled_back() -> Manifest:
        found = triage(kubectl)
        assert condition(found, "RolledBack").get("reason") == why, found.get("status")
        return found

    found = eventually(rolled_back, seconds=seconds, every=0.5)
    ready = condition(found, "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "RolledBack")
    assert condition(found, "RolledBack")["status"] == "True"
    assert condition(found, "Available")["status"] == "True"
    assert found["status"]["rejected"][0]["reason"] == why
    return found


def servers(kubectl: Kubectl) -> dict[str, int]:
    """The server pods that are there to stay: uid and restarts."""
    pods = kubectl.list("pods", "-l", "app.kubernetes.io/instance=triage")
    return {
        pod["metadata"]["uid"]: sum(one["restartCount"] for one in pod["status"].get("containerStatuses", []))
        for pod in pods
        if "deletionTimestamp" not in pod["metadata"]
    }
