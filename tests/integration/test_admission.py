"""Admission plugins that refuse, normalise and inject: nothing half done, no fight, and judging goes on."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import ControlPlane, running_operator
from tests.integration.test_lifecycle import create_ready, server, wait_ready
from tests.integration.webhooks import Denied, registered_webhook
from tests.kubectl import Kubectl, Manifest, Refused, an_llmdeployment, condition, eventually

REVISION = "llm.carepath.ai/revision"
ADMITTED = "llm.carepath.ai/admitted"
CONTAINERS = "/spec/template/spec/containers"
SIDECAR = {
    "name": "istio-proxy",
    "image": "proxy:1",
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}


def reason(kubectl: Kubectl, kind: str = "Ready") -> Any:
    return condition(kubectl.get("llmdep", "triage"), kind).get("reason")


def deployment(kubectl: Kubectl) -> Manifest:
    found = kubectl.get("deployment", "triage")
    assert found is not None
    return found


def records(kubectl: Kubectl) -> dict[str, Manifest]:
    """The recorded templates, by the name of their revision."""
    return {
        one["metadata"]["annotations"][REVISION]: one["data"]["template"]
        for one in kubectl.list("controllerrevisions", "-l", "app.kubernetes.io/instance=triage")
    }


def replica_sets(kubectl: Kubectl) -> list[Manifest]:
    return kubectl.list("replicasets", "-l", "app.kubernetes.io/instance=triage")


def test_a_webhook_of_the_tests_is_asked_refuses_and_can_be_away(kubectl: Kubectl, tmp_path: Path) -> None:
    def no_secrets(request: dict[str, object]) -> Denied:
        return Denied(f"no {request['operation']} here")

    def refused() -> str:
        try:
            kubectl("create", "secret", "generic", "one")
        except Refused as error:
            return str(error)
        return ""

    with registered_webhook(kubectl, tmp_path, no_secrets, resources=["secrets"], kind="Validating") as webhook:
        assert "no CREATE here" in refused()
        assert len(webhook.requests) == 1
        with webhook.away():
            assert "failed calling webhook" in refused()
        assert "no CREATE here" in refused()
        webhook.handler = lambda _: []
        assert refused() == ""


@contextmanager
def policy(kubectl: Kubectl, resource: str, expression: str) -> Iterator[None]:
    """A ValidatingAdmissionPolicy of the namespace, in force: what does not meet the expression is denied."""
    name = f"{kubectl.namespace}-{resource}"
    group = {"deployments": "apps"}.get(resource, "")
    rule = {"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"]}
    probe = {**rule, "apiGroups": [""], "resources": ["configmaps"]}
    kubectl.apply(
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kubectl.namespace}},
                    "resourceRules": [{**rule, "resources": [resource]}, probe],
                },
                "validations": [
                    {
                        "expression": f"object.kind == 'ConfigMap' ? object.metadata.name != 'denied' : {expression}",
                        "message": "the policy of the test forbids it",
                    }
                ],
            },
        },
        {
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name, "validationActions": ["Deny"]},
        },
    )

    def is_in_force() -> bool:
        try:
            kubectl("create", "configmap", "denied", "--dry-run=server")
        except Refused as error:
            return "the policy of the test" in str(error)
        return False

    try:
        eventually(is_in_force)
        yield
    finally:
        kubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", name)


NO_OTHER_IMAGES = "object.spec.template.spec.containers.all(c, !c.image.startsWith('docker.io/'))"


@pytest.mark.usefixtures("operator")
@pytest.mark.parametrize("strategy", ["RollingUpdate", "Recreate"])
def test_a_refused_edit_that_drops_fields_changes_nothing_and_ends_no_pod(kubectl: Kubectl, strategy: str) -> None:
    create_ready(kubectl, generation={"maxNewTokens": 100}, rollout={"soakSeconds": 0, "strategy": strategy})
    before, pods = deployment(kubectl), kubectl.list("pods")
    with policy(kubectl, "deployments", NO_OTHER_IMAGES):
        kubectl.patch("llmdep", "triage", {"spec": {"generation": None, "image": "docker.io/t/s:1"}})
        eventually(lambda: reason(kubectl) == "ApplyRefused")
        assert "the policy of the test forbids it" in condition(kubectl.get("llmdep", "triage"), "Stalled")["message"]
        after = deployment(kubectl)
        assert (after["metadata"]["generation"], after["spec"]) == (before["metadata"]["generation"], before["spec"])
        kept = [one["metadata"]["uid"] for one in kubectl.list("pods")]
        assert kept == [one["metadata"]["uid"] for one in pods]
        kubectl.patch("llmdep", "triage", {"spec": {"generation": {"maxNewTokens": 100}, "image": None}})
        wait_ready(kubectl)
    assert [one["metadata"]["uid"] for one in kubectl.list("pods")] == kept


@pytest.mark.usefixtures("operator")
def test_every_template_that_the_cluster_sees_is_a_recorded_one(kubectl: Kubectl, tmp_path: Path) -> None:
    seen: list[Manifest] = []

    def look(request: Manifest) -> list[Manifest]:
        seen.append(request["object"])
        return []

    with registered_webhook(kubectl, tmp_path, look, kind="Validating", failure_policy="Ignore"):
        create_ready(kubectl, generation={"maxNewTokens": 100}, nodeSelector={"kubernetes.io/os": "linux"})
        kubectl.patch("llmdep", "triage", {"spec": {"generation": None, "nodeSelector": None}})
        wait_ready(kubectl)
        kubectl.patch("llmdep", "triage", {"spec": {"image": "kwok/notfound:1", "generation": {"topK": 3}}})
        eventually(lambda: condition(kubectl.get("llmdep", "triage"), "RolledBack").get("status") == "True")
        wait_rolled_back(kubectl)
    # Two good ones and the bad one; a hybrid would have one of its own.
    assert len(replica_sets(kubectl)) == 3
    known = records(kubectl)
    assert seen
    for one in seen:
        template = one["spec"]["template"]
        recorded = known[template["metadata"]["annotations"][REVISION]]
        (container,), (wanted,) = template["spec"]["containers"], recorded["spec"]["containers"]
        assert (container["image"], container["env"]) == (wanted["image"], wanted["env"])
        assert template["spec"].get("nodeSelector") == recorded["spec"].get("nodeSelector")
    entries = kubectl("get", "deployment", "triage", "-o", "yaml", "--show-managed-fields")
    assert "manager: llm-operator" in entries


def wait_rolled_back(kubectl: Kubectl) -> None:
    def is_back() -> bool:
        found = kubectl.get("llmdep", "triage")
        assert found is not None
        status = found["status"]
        good = condition(found, "Ready").get("reason") == "RolledBack"
        return good and status["activeRevision"] == status["lastKnownGoodRevision"]

    eventually(is_back)


def normalise(request: Manifest) -> list[Manifest]:
    """As policy engines do: fields of the pod template, and of the object's own metadata."""
    return [
        {"op": "add", "path": f"{CONTAINERS}/0/imagePullPolicy", "value": "Always"},
        {"op": "add", "path": f"{CONTAINERS}/0/resources", "value": {"requests": {"cpu": "7m"}}},
        {"op": "add", "path": "/metadata/labels/app.kubernetes.io~1part-of", "value": "platform"},
    ]


def inject(request: Manifest) -> list[Manifest]:
    """As meshes and agents do: each part where it is not there already."""
    pod = request["object"]["spec"]["template"]["spec"]
    operations = []
    if len(pod["containers"]) == 1:
        operations.append({"op": "add", "path": f"{CONTAINERS}/-", "value": SIDECAR})
    if all(one["name"] != "AGENT" for one in pod["containers"][0]["env"]):
        agent = {"name": "AGENT", "value": "1"}
        operations.append({"op": "add", "path": f"{CONTAINERS}/0/env/-", "value": agent})
    if "initContainers" not in pod:
        first = [{**SIDECAR, "name": "istio-init"}]
        operations.append({"op": "add", "path": "/spec/template/spec/initContainers", "value": first})
    return operations


def sign(request: Manifest) -> list[Manifest]:
    """A value that is another one at each write."""
    path = "/spec/template/spec/containers/0/terminationMessagePath"
    return [{"op": "add", "path": path, "value": f"/tmp/{request['uid']}"}]


WEBHOOKS: dict[str, Callable[[Manifest], list[Manifest]]] = {"normalise": normalise, "inject": inject, "sign": sign}


@pytest.mark.parametrize("webhook", WEBHOOKS)
def test_what_admission_sets_is_accepted_told_once_and_a_bad_change_is_rolled_back_all_the_same(
    control_plane: ControlPlane, kubectl: Kubectl, tmp_path: Path, webhook: str
) -> None:
    plane, log, namespace = control_plane, tmp_path / "log", kubectl.namespace

    def writes(since: int) -> list[str]:
        return [one for one in plane.operator_writes(namespace=namespace, since=since) if "deployments/" in one]

    with registered_webhook(kubectl, tmp_path, WEBHOOKS[webhook]):
        with running_operator(plane, log, LLMOP_NAMESPACES=namespace):
            create_ready(kubectl, resources={"limits": {"memory": "1Gi"}})
            eventually(lambda: is_recorded(kubectl))
            assert len(told(kubectl)) == 1
            good, since = deployment(kubectl), len(plane.requests())
            for number in range(3):
                kubectl("label", "llmdep", "triage", f"look={number}", "--overwrite")
                kubectl("annotate", "service", "triage", f"look={number}", "--overwrite")
            wait_ready(kubectl)
        with running_operator(plane, log, LLMOP_NAMESPACES=namespace):
            kubectl("label", "llmdep", "triage", "look=again", "--overwrite")
            wait_ready(kubectl)
            assert writes(since) == [], "neither a fight nor a write after a restart"
            assert len(told(kubectl)) == 1
            kubectl("set", "env", "deployment/triage", "LLM_MODE=qwen")
            eventually(lambda: server(kubectl)["env"][0]["value"] == "mock")
            wait_ready(kubectl)
            if webhook != "sign":
                assert deployment(kubectl)["spec"] == good["spec"], "an edit is put back, what admission set stays"
            bad = {"image": "kwok/notfound:1", "rollout": {"progressDeadlineSeconds": 20}}
            kubectl.patch("llmdep", "triage", {"spec": bad})
            wait_rolled_back(kubectl)
            status = (kubectl.get("llmdep", "triage") or {})["status"]
            assert status["rejected"][0]["reason"] == "ImageNotFound"


def is_recorded(kubectl: Kubectl) -> bool:
    found = kubectl.list("controllerrevisions", "-l", "app.kubernetes.io/instance=triage")
    return all(ADMITTED in one["metadata"]["annotations"] for one in found)


def told(kubectl: Kubectl) -> list[Manifest]:
    return [one for one in kubectl.list("events") if one.get("reason") == "ChangedByAdmission"]


@pytest.mark.usefixtures("operator")
def test_what_somebody_adds_by_hand_where_a_webhook_would_may_is_taken_out(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    for operation in inject({"object": deployment(kubectl)}):
        kubectl(
            "patch",
            "deployment",
            "triage",
            "--type=json",
            "-p",
            json.dumps([operation]),
        )

    def is_taken_out() -> bool:
        pod = deployment(kubectl)["spec"]["template"]["spec"]
        return [one["name"] for one in pod["containers"]] == ["server"] and "initContainers" not in pod

    eventually(is_taken_out)


@pytest.mark.usefixtures("operator")
def test_a_service_that_a_webhook_normalises_is_accepted_and_a_third_value_is_put_back(
    kubectl: Kubectl, tmp_path: Path
) -> None:
    def label(request: Manifest) -> list[Manifest]:
        labels = request["object"]["metadata"]["labels"]
        is_ours = labels["app.kubernetes.io/part-of"] == "llmdeployment"
        path = "/metadata/labels/app.kubernetes.io~1part-of"
        return [{"op": "add", "path": path, "value": "platform"}] if is_ours else []

    def part_of() -> str:
        return str((kubectl.get("service", "triage") or {})["metadata"]["labels"]["app.kubernetes.io/part-of"])

    with registered_webhook(kubectl, tmp_path, label, resources=["services"]) as webhook:
        create_ready(kubectl)
        assert part_of() == "platform"
        asked = len(webhook.requests)
        kubectl("label", "llmdep", "triage", "look=1")
        wait_ready(kubectl)
        assert len(webhook.requests) == asked
        kubectl("label", "service", "triage", "app.kubernetes.io/part-of=third", "--overwrite")
        eventually(lambda: part_of() == "platform")
        wait_ready(kubectl)


@pytest.mark.usefixtures("operator")
def test_a_service_that_may_not_be_repaired_is_told_and_keeps_no_rollback_back(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    with policy(kubectl, "services", "object.spec.ports[0].port == 80"):
        kubectl.patch("service", "triage", {"spec": {"ports": [{"name": "http", "port": 80, "targetPort": "http"}]}})
        eventually(lambda: reason(kubectl) == "ApplyRefused")
        kubectl.patch("llmdep", "triage", {"spec": {"image": "kwok/notfound:1"}})

        def is_back() -> bool:
            status = (kubectl.get("llmdep", "triage") or {})["status"]
            return bool(status["rejected"]) and status["activeRevision"] == status["lastKnownGoodRevision"]

        eventually(is_back)
        assert reason(kubectl, "Stalled") == "ApplyRefused"


@pytest.mark.usefixtures("operator")
def test_a_restart_asked_for_during_a_bad_roll_out_is_done_once_the_good_pods_are_back(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    kubectl("rollout", "restart", "deployment/triage")
    eventually(lambda: len(replica_sets(kubectl)) == 2)
    wait_ready(kubectl)
    at = deployment(kubectl)["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"]
    before = {one["metadata"]["uid"] for one in replica_sets(kubectl)}
    kubectl.patch("llmdep", "triage", {"spec": {"image": "kwok/never:1", "rollout": {"progressDeadlineSeconds": 15}}})
    eventually(lambda: server(kubectl)["image"] == "kwok/never:1")

    def restarted_at(one: Manifest) -> Any:
        return one["spec"]["template"]["metadata"]["annotations"].get("kubectl.kubernetes.io/restartedAt")

    def restarted_again() -> Any:
        # Within the same second it would be the same restart.
        kubectl("rollout", "restart", "deployment/triage")
        asked = restarted_at(deployment(kubectl))
        return None if asked == at else asked

    asked = eventually(restarted_again)

    def is_done() -> bool:
        found = deployment(kubectl)
        return server(kubectl)["image"] != "kwok/never:1" and restarted_at(found) == asked

    eventually(is_done)
    wait_rolled_back(kubectl)
    of_the_good = {
        restarted_at(one): one["metadata"]["uid"]
        for one in replica_sets(kubectl)
        if one["spec"]["template"]["spec"]["containers"][0]["image"] != "kwok/never:1"
    }
    # The one that served came back as it was. (Kubernetes may have forgotten the very first one by now.)
    assert of_the_good.keys() - {None} == {at, asked}
    assert of_the_good[at] in before


def test_orphans_are_left_untouched_until_they_are_to_be_adopted_and_no_pod_restarts(
    operator: Path, kubectl: Kubectl
) -> None:
    create_ready(kubectl, image="registry.example.com/server:2")
    pods = {one["metadata"]["uid"] for one in kubectl.list("pods")}
    before = deployment(kubectl)
    revisions = set(records(kubectl))
    kubectl("delete", "llmdep", "triage", "--cascade=orphan")
    eventually(lambda: "ownerReferences" not in deployment(kubectl)["metadata"])
    kubectl.apply(an_llmdeployment(image="registry.example.com/server:2"))
    eventually(lambda: reason(kubectl) == "NameConflict")
    remedy = "kubectl annotate llmdeployment triage llm.carepath.ai/adopt-orphans=true"
    assert remedy in condition(kubectl.get("llmdep", "triage"), "Ready")["message"]
    kubectl(*remedy.split()[1:])
    wait_ready(kubectl)
    assert {one["metadata"]["uid"] for one in kubectl.list("pods")} == pods
    assert deployment(kubectl)["spec"] == before["spec"]
    assert set(records(kubectl)) == revisions
    uid = (kubectl.get("llmdep", "triage") or {})["metadata"]["uid"]
    for kind in ("deployment", "service", "controllerrevision"):
        for one in kubectl.list(kind, "-l", "app.kubernetes.io/instance=triage"):
            owners = one["metadata"]["ownerReferences"]
            assert [owner["uid"] for owner in owners if owner.get("controller")] == [uid], kind


def test_what_somebody_else_controls_is_never_adopted(operator: Path, kubectl: Kubectl) -> None:
    create_ready(kubectl)
    kubectl("delete", "llmdep", "triage", "--cascade=orphan")
    eventually(lambda: "ownerReferences" not in deployment(kubectl)["metadata"])
    kubectl("create", "configmap", "owner")
    uid = (kubectl.get("configmap", "owner") or {})["metadata"]["uid"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "controller": True}
    kubectl.patch("service", "triage", {"metadata": {"ownerReferences": [owner]}})
    parent = an_llmdeployment()
    parent["metadata"]["annotations"] = {"llm.carepath.ai/adopt-orphans": "true"}
    kubectl.apply(parent)
    eventually(lambda: "Service triage" in condition(kubectl.get("llmdep", "triage"), "Ready").get("message", ""))
    assert (kubectl.get("service", "triage") or {})["metadata"]["ownerReferences"] == [owner]
