"""Drift, names that are taken, refusals: what is ours comes back, what is not stays untouched."""

import json
from typing import Any

import pytest

from tests.integration.test_crd import GOOD
from tests.integration.test_lifecycle import create_ready, server, wait_ready
from tests.kubectl import Kubectl, Manifest, an_llmdeployment, condition, eventually

pytestmark = pytest.mark.usefixtures("operator")

REMAINS = ("spec", "labels", "annotations", "ownerReferences", "uid")


def reason(kubectl: Kubectl, kind: str = "Ready") -> Any:
    return condition(kubectl.get("llmdep", "triage"), kind).get("reason")


@pytest.mark.parametrize("kind", ["deployment", "service"])
def test_a_deleted_child_comes_back(kubectl: Kubectl, kind: str) -> None:
    create_ready(kubectl)
    before = kubectl.get(kind, "triage")
    assert before is not None
    kubectl("delete", kind, "triage")

    def is_back() -> bool:
        found = kubectl.get(kind, "triage")
        return found is not None and found["metadata"]["uid"] != before["metadata"]["uid"]

    eventually(is_back)
    wait_ready(kubectl)


EDITS: dict[str, tuple[str, dict[str, Any]]] = {
    "the image": ("deployment", {"spec": {"template": {"spec": {"containers": [{"name": "server", "image": "x:9"}]}}}}),
    "the number of replicas": ("deployment", {"spec": {"replicas": 3}}),
    "the roll-out strategy": ("deployment", {"spec": {"strategy": {"rollingUpdate": {"maxUnavailable": 1}}}}),
    "a label": ("deployment", {"metadata": {"labels": {"app.kubernetes.io/part-of": "other"}}}),
    "the label that names its parent": ("service", {"metadata": {"labels": {"app.kubernetes.io/instance": "other"}}}),
    "the command": (
        "deployment",
        {"spec": {"template": {"spec": {"containers": [{"name": "server", "command": ["sleep", "9"]}]}}}},
    ),
    "a variable the server reads": (
        "deployment",
        {
            "spec": {
                "template": {
                    "spec": {"containers": [{"name": "server", "env": [{"name": "LISTEN_PORT", "value": "9"}]}]}
                }
            }
        },
    ),
    "a variable from elsewhere": (
        "deployment",
        {
            "spec": {
                "template": {
                    "spec": {
                        "containers": [
                            {
                                "name": "server",
                                "env": [
                                    {
                                        "name": "LLM_MODE",
                                        "value": None,
                                        "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}},
                                    }
                                ],
                            }
                        ]
                    }
                }
            }
        },
    ),
    "another kind of probe": (
        "deployment",
        {
            "spec": {
                "template": {
                    "spec": {
                        "containers": [
                            {"name": "server", "livenessProbe": {"httpGet": None, "tcpSocket": {"port": "http"}}}
                        ]
                    }
                }
            }
        },
    ),
    "another kind of volume": (
        "deployment",
        {"spec": {"template": {"spec": {"volumes": [{"name": "tmp", "emptyDir": None, "configMap": {"name": "x"}}]}}}},
    ),
    "more requests than limits": (
        "deployment",
        {
            "spec": {
                "template": {
                    "spec": {
                        "containers": [
                            {
                                "name": "server",
                                "resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "2Gi"}},
                            }
                        ]
                    }
                }
            }
        },
    ),
    "the user": ("deployment", {"spec": {"template": {"spec": {"securityContext": {"runAsUser": 0}}}}}),
    "a pause": ("deployment", {"spec": {"paused": True}}),
    "the label by which it is watched": ("service", {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}}),
    "a container beside the server": (
        "deployment",
        {"spec": {"template": {"spec": {"containers": [{"name": "other", "image": "x:9"}]}}}},
    ),
    "the port": ("service", {"spec": {"ports": [{"name": "http", "port": 80, "targetPort": "http"}]}}),
    "the selector": ("service", {"spec": {"selector": {"app.kubernetes.io/instance": "other"}}}),
}


@pytest.mark.parametrize(("kind", "edit"), EDITS.values(), ids=EDITS)
def test_an_edited_child_is_put_right(kubectl: Kubectl, kind: str, edit: dict[str, Any]) -> None:
    create_ready(kubectl, resources={"limits": {"memory": "1Gi"}})
    before = kubectl.get(kind, "triage")
    assert before is not None
    # Both kinds are what kubectl sends: a strategic patch merges lists by key, a merge patch replaces them.
    patch_type = "merge" if "ports" in edit.get("spec", {}) else "strategic"
    kubectl("patch", kind, "triage", f"--type={patch_type}", "-p", json.dumps(edit))

    def is_right() -> bool:
        found = kubectl.get(kind, "triage")
        assert found is not None
        same_labels = found["metadata"]["labels"] == before["metadata"]["labels"]
        spec, wanted = found["spec"], before["spec"]
        for one in (spec, wanted):
            for port in one.get("ports", []):
                port.pop("nodePort", None)
        return same_labels and spec == wanted

    eventually(is_right)


def test_a_mode_set_by_hand_on_the_deployment_is_put_right(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    kubectl("set", "env", "deployment/triage", "LLM_MODE=qwen")
    eventually(lambda: server(kubectl)["env"][0]["value"] == "mock")


def test_a_rollout_restart_is_let_through(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    (before,) = kubectl.list("pods")
    kubectl("rollout", "restart", "deployment/triage")
    eventually(lambda: [one["metadata"]["uid"] for one in kubectl.list("pods")] != [before["metadata"]["uid"]])
    wait_ready(kubectl)


def test_an_edit_that_comes_back_again_and_again_is_told_and_slowed_down(kubectl: Kubectl) -> None:
    create_ready(kubectl)

    def told() -> bool:
        kubectl("scale", "deployment/triage", "--replicas=2")
        found = kubectl.get("llmdep", "triage")
        both = {condition(found, kind).get("reason") for kind in ("Ready", "Stalled")}
        return both == {"DriftNotRepaired"}

    eventually(told, seconds=180)
    kubectl("delete", "deployment", "triage")
    eventually(lambda: kubectl.get("deployment", "triage"))
    wait_ready(kubectl)
    assert reason(kubectl, "Stalled") is None
    deployment = kubectl.get("deployment", "triage")
    assert deployment is not None
    assert deployment["spec"]["replicas"] == 1


def test_a_field_taken_out_goes_even_after_a_repair_that_made_us_its_owner_in_another_way(kubectl: Kubectl) -> None:
    create_ready(kubectl, nodeSelector={"kubernetes.io/os": "linux"})
    port = [{"op": "replace", "path": "/spec/template/spec/containers/0/ports/0/containerPort", "value": 80}]
    kubectl("patch", "deployment", "triage", "--type=json", "-p", json.dumps(port))
    eventually(lambda: server(kubectl)["ports"][0]["containerPort"] == 8002)
    wait_ready(kubectl)
    kubectl.patch("llmdep", "triage", {"spec": {"nodeSelector": None}})
    wait_ready(kubectl)
    deployment = kubectl.get("deployment", "triage")
    assert deployment is not None
    assert "nodeSelector" not in deployment["spec"]["template"]["spec"]


def test_a_condition_that_somebody_else_wrote_does_not_stay(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    found = kubectl.get("llmdep", "triage")
    assert found is not None
    left = {**condition(found, "Ready"), "type": "Stalled", "reason": "FromABackup"}
    kubectl.patch(
        "llmdep", "triage", {"status": {"conditions": [*found["status"]["conditions"], left]}}, "--subresource=status"
    )
    eventually(lambda: reason(kubectl, "Stalled") is None)
    assert reason(kubectl) == "AllReplicasReady"


REFUSE: Manifest = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "ValidatingAdmissionPolicy",
    "metadata": {"name": "no-forbidden-images"},
    "spec": {
        "matchConstraints": {
            "resourceRules": [
                {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"], "resources": ["deployments"]}
            ]
        },
        "validations": [
            {
                "expression": "object.spec.template.spec.containers.all(c, !c.image.contains('forbidden'))",
                "message": "this image is not allowed here",
            }
        ],
    },
}
BINDING: Manifest = {
    "apiVersion": "admissionregistration.k8s.io/v1",
    "kind": "ValidatingAdmissionPolicyBinding",
    "metadata": {"name": "no-forbidden-images"},
    "spec": {"policyName": "no-forbidden-images", "validationActions": ["Deny"]},
}


def test_a_refused_edit_is_told_and_leaves_nothing_half_done(kubectl: Kubectl) -> None:
    kubectl.apply(REFUSE, BINDING)
    try:
        create_ready(kubectl)
        before = kubectl.get("deployment", "triage")
        edit = {"spec": {"image": "forbidden/server:1", "replicas": 2}}

        def told() -> bool:
            # Until the policy is in force the edit is let through: then try again.
            kubectl.patch("llmdep", "triage", {"spec": edit["spec"]})
            if server(kubectl)["image"] == "forbidden/server:1":
                kubectl.patch("llmdep", "triage", {"spec": {"image": None, "replicas": 1}})
                wait_ready(kubectl)
            return bool(reason(kubectl) == "ApplyRefused")

        eventually(told, every=1)
        assert "this image is not allowed here" in condition(kubectl.get("llmdep", "triage"), "Stalled")["message"]
        for number in range(8):
            kubectl("label", "llmdep", "triage", f"look={number}", "--overwrite")
            assert reason(kubectl) == "ApplyRefused", "it is not mistaken for somebody else's edits"
        after = kubectl.get("deployment", "triage")
        assert before is not None
        assert after is not None
        assert after["spec"] == before["spec"]
        kubectl.patch("llmdep", "triage", {"spec": {"image": None, "replicas": 2}})
        wait_ready(kubectl)
    finally:
        kubectl("delete", "validatingadmissionpolicy,validatingadmissionpolicybinding", "no-forbidden-images")


def test_every_good_spec_makes_a_deployment_that_the_api_server_takes(kubectl: Kubectl) -> None:
    for number, spec in enumerate(GOOD.values()):
        kubectl.apply(an_llmdeployment(f"good-{number}", **spec))
    # Of a claim for a volume made by hand nobody has made the volume.
    served = {
        f"good-{number}"
        for number, spec in enumerate(GOOD.values())
        if (spec.get("cache") or {}).get("storageClassName") != ""
    }

    def none_refused() -> bool:
        found = kubectl.list("llmdeployments")
        reasons = {one["metadata"]["name"]: condition(one, "Ready").get("reason") for one in found}
        assert not {"ApplyRefused", "DriftNotRepaired"} & set(reasons.values()), reasons
        return all(reasons.values()) and {one["metadata"]["name"] for one in kubectl.list("deployments")} >= served

    eventually(none_refused)


def foreign(kind: str) -> Manifest:
    spec: Manifest = {"ports": [{"port": 1}], "selector": {"app": "other"}}
    if kind == "Deployment":
        pod = {"containers": [{"name": "a", "image": "a:1"}]}
        spec = {
            "replicas": 0,
            "selector": {"matchLabels": {"app": "other"}},
            "template": {"metadata": {"labels": {"app": "other"}}, "spec": pod},
        }
    version = "apps/v1" if kind == "Deployment" else "v1"
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "triage"}, "spec": spec}


@pytest.mark.parametrize("kind", ["Deployment", "Service"])
def test_a_name_that_is_taken_is_told_and_the_owner_is_left_alone(kubectl: Kubectl, kind: str) -> None:
    kubectl.apply(foreign(kind))
    before = kubectl.get(kind, "triage")
    assert before is not None
    kubectl.apply(an_llmdeployment())
    eventually(lambda: reason(kubectl) == "NameConflict")
    found = condition(kubectl.get("llmdep", "triage"), "Stalled")
    assert found["status"] == "True"
    assert f"{kind} triage" in found["message"]
    after = kubectl.get(kind, "triage")
    assert after is not None
    assert after["spec"] == before["spec"]
    assert {key: after["metadata"].get(key) for key in REMAINS} == {key: before["metadata"].get(key) for key in REMAINS}
    other = "service" if kind == "Deployment" else "deployment"
    assert kubectl.get(other, "triage") is None, "half a server helps nobody"
    kubectl("delete", kind, "triage")
    kubectl("label", "llmdep", "triage", "look=again")
    wait_ready(kubectl)


def allow_none_of(kubectl: Kubectl, what: str) -> None:
    kubectl("create", "quota", "none", f"--hard={what}=0")
    eventually(lambda: "hard" in (kubectl.get("quota", "none") or {}).get("status", {}))


def test_a_refused_child_is_told_in_the_api_servers_words_and_made_once_it_may_be(kubectl: Kubectl) -> None:
    allow_none_of(kubectl, "count/deployments.apps")
    kubectl.apply(an_llmdeployment())
    eventually(lambda: reason(kubectl) == "ApplyRefused")
    assert "exceeded quota: none" in condition(kubectl.get("llmdep", "triage"), "Stalled")["message"]
    kubectl("delete", "quota", "none")
    wait_ready(kubectl)


def test_pods_refused_by_admission_are_told(kubectl: Kubectl) -> None:
    allow_none_of(kubectl, "pods")
    kubectl.apply(an_llmdeployment())
    eventually(lambda: reason(kubectl) == "QuotaExceeded")
    assert "exceeded quota: none" in condition(kubectl.get("llmdep", "triage"), "Ready")["message"]


def test_a_missing_priority_class_is_told(kubectl: Kubectl) -> None:
    kubectl.apply(an_llmdeployment(priorityClassName="missing"))
    eventually(lambda: reason(kubectl) == "PodCreationFailed")
    assert "missing" in condition(kubectl.get("llmdep", "triage"), "Ready")["message"]
