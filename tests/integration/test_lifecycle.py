"""From apply through edits to deletion, as a user goes."""

from importlib.metadata import version
from typing import Any

import pytest

from tests.integration.conftest import OPERATOR, ControlPlane
from tests.kubectl import Kubectl, Manifest, Refused, an_llmdeployment, condition, eventually, is_ready

pytestmark = pytest.mark.usefixtures("operator")


def create_ready(kubectl: Kubectl, name: str = "triage", **spec: Any) -> Manifest:
    kubectl.apply(an_llmdeployment(name, **spec))
    return wait_ready(kubectl, name)


def wait_ready(kubectl: Kubectl, name: str = "triage") -> Manifest:
    def ready() -> Manifest | None:
        found = kubectl.get("llmdep", name)
        assert is_ready(found), found and found.get("status")
        return found

    found = eventually(ready)
    assert found is not None
    return found


def server(kubectl: Kubectl, name: str = "triage") -> Manifest:
    deployment = kubectl.get("deployment", name)
    assert deployment is not None
    return deployment["spec"]["template"]["spec"]["containers"][0]


def test_apply_gives_a_deployment_a_service_and_an_honest_line_in_kubectl_get(kubectl: Kubectl) -> None:
    found = create_ready(kubectl, replicas=2)
    assert found["metadata"].get("finalizers") is None
    assert set(found["metadata"].get("annotations", {})) == {"kubectl.kubernetes.io/last-applied-configuration"}
    assert found["status"]["url"] == f"http://triage.{kubectl.namespace}.svc:8002"
    service = kubectl.get("service", "triage")
    assert service is not None
    assert service["spec"]["ports"][0]["port"] == 8002
    pods = kubectl.list("pods", "-l", found["status"]["selector"])
    assert len(pods) == 2
    header, line = kubectl("get", "llmdeployments").splitlines()
    assert header.split() == ["NAME", "MODE", "MODEL", "READY", "REASON", "REPLICAS", "CACHE", "URL", "AGE"]
    assert line.split()[:5] == ["triage", "mock", "True", "AllReplicasReady", "2"]


@pytest.mark.parametrize(
    ("edit", "where", "value"),
    [
        ({"mode": "qwen", "model": {"source": "image"}}, ("env", 0, "value"), "qwen"),
        ({"image": "other/server:2"}, ("image",), "other/server:2"),
        ({"resources": {"limits": {"memory": "2Gi"}}}, ("resources", "limits", "memory"), "2Gi"),
        ({"imagePullPolicy": "Always"}, ("imagePullPolicy",), "Always"),
    ],
    ids=["mode", "image", "resources", "imagePullPolicy"],
)
def test_an_edit_reaches_the_pods(kubectl: Kubectl, edit: dict[str, Any], where: tuple[Any, ...], value: str) -> None:
    before = create_ready(kubectl)
    kubectl.patch("llmdep", "triage", {"spec": edit})
    kubectl("wait", "--for=condition=Ready", "llmdep/triage", "--timeout=120s")
    found: Any = server(kubectl)
    for step in where:
        found = found[step]
    assert found == value
    after = wait_ready(kubectl)
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1


def test_a_field_taken_out_is_taken_out_of_the_pods(kubectl: Kubectl) -> None:
    create_ready(kubectl, resources={"limits": {"memory": "1Gi"}}, nodeSelector={"kubernetes.io/os": "linux"})
    kubectl.patch("llmdep", "triage", {"spec": {"resources": None, "nodeSelector": None}})
    wait_ready(kubectl)
    deployment = kubectl.get("deployment", "triage")
    assert deployment is not None
    assert server(kubectl)["resources"] == {}
    assert "nodeSelector" not in deployment["spec"]["template"]["spec"]


def test_kubectl_scale_works_through_the_scale_subresource(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    kubectl("scale", "llmdep/triage", "--replicas=3")
    assert wait_ready(kubectl)["status"]["readyReplicas"] == 3
    kubectl("scale", "llmdep/triage", "--replicas=0")
    found = wait_ready(kubectl)
    assert condition(found, "Ready")["reason"] == "ScaledToZero"
    assert condition(found, "Available")["status"] == "False"


def test_of_two_quick_edits_the_last_one_wins(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    for image in ("a/server:2", "a/server:3", "a/server:2", "a/server:4"):
        kubectl.patch("llmdep", "triage", {"spec": {"image": image}})
    found = wait_ready(kubectl)
    assert found["metadata"]["generation"] == 5
    assert server(kubectl)["image"] == "a/server:4"


def test_a_wait_right_after_an_edit_does_not_return_the_answer_from_before(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    kubectl.patch("llmdep", "triage", {"spec": {"nodeSelector": {"disk": "of-gold"}}})
    with pytest.raises(Refused, match="timed out"):
        kubectl("wait", "--for=condition=Ready", "llmdep/triage", "--timeout=3s")
    eventually(lambda: condition(kubectl.get("llmdep", "triage"), "Ready")["reason"] == "Unschedulable")
    found = kubectl.get("llmdep", "triage")
    assert "nodes are available" in condition(found, "Ready")["message"]
    assert condition(found, "Available")["status"] == "True", "the old pod serves on"
    kubectl.patch("llmdep", "triage", {"spec": {"nodeSelector": None}})
    wait_ready(kubectl)


def test_deletion_takes_the_children_along(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    kubectl("delete", "llmdep", "triage", "--timeout=120s")
    eventually(lambda: not kubectl.list("deployments,services,replicasets,pods"))


def test_an_object_made_again_at_once_becomes_ready(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    kubectl("delete", "llmdep", "triage", "--timeout=120s")
    found = create_ready(kubectl)
    deployment = kubectl.get("deployment", "triage")
    assert deployment is not None
    assert deployment["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["uid"]


def test_foreground_deletion_is_not_undone(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    kubectl("delete", "llmdep", "triage", "--cascade=foreground", "--timeout=120s")
    eventually(lambda: not kubectl.list("deployments,services,pods"))


def test_every_request_names_the_operator(kubectl: Kubectl, control_plane: ControlPlane) -> None:
    create_ready(kubectl)
    # Other tests send requests of their own with the operator's token, in their namespaces.
    places = (None, kubectl.namespace)
    mine = [
        one
        for one in control_plane.requests()
        if one["user"]["username"] == OPERATOR and one.get("objectRef", {}).get("namespace") in places
    ]
    assert {one["verb"] for one in mine} >= {"get", "list", "watch", "create", "patch"}
    assert {one.get("userAgent") for one in mine} == {f"llm-operator/{version('llm-operator')}"}
