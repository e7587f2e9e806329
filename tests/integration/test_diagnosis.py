"""What the API server and the control plane say about pods that do not come up, and what becomes of the revision."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.integration.test_lifecycle import create_ready, wait_ready
from tests.kubectl import Kubectl, Manifest, Refused, an_llmdeployment, condition, eventually

pytestmark = pytest.mark.usefixtures("operator")

PATIENCE = 300.0
INSTANCE = "app.kubernetes.io/instance=triage"


def spec(kubectl: Kubectl, **fields: Any) -> None:
    """Edit the LLMDeployment."""
    kubectl.patch("llmdep", "triage", {"spec": fields})


def until(kubectl: Kubectl, kind: str, reason: str) -> Manifest:
    """The LLMDeployment once a condition has this reason about its newest generation."""

    def found() -> Manifest | None:
        live = kubectl.get("llmdep", "triage")
        assert live is not None
        told = condition(live, kind)
        assert told.get("observedGeneration") == live["metadata"]["generation"], told
        assert told.get("reason") == reason, told
        return live

    live = eventually(found, seconds=PATIENCE)
    assert live is not None
    return live


def message(live: Manifest, kind: str = "Ready") -> str:
    return str(condition(live, kind)["message"])


@contextmanager
def existing(kubectl: Kubectl, *manifests: Manifest) -> Iterator[None]:
    """Objects of the cluster, for a while."""
    kubectl.apply(*manifests)
    try:
        yield
    finally:
        for one in manifests:
            kubectl("delete", one["kind"].lower(), one["metadata"]["name"], "--ignore-not-found")


def a_webhook_that_is_away(kubectl: Kubectl) -> Manifest:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": f"away-{uuid.uuid4().hex[:8]}"},
        "webhooks": [
            {
                "name": "inject.mesh.example.com",
                "admissionReviewVersions": ["v1"],
                "sideEffects": "None",
                "failurePolicy": "Fail",
                "clientConfig": {"url": "https://127.0.0.1:1/inject"},
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kubectl.namespace}},
                "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
            }
        ],
    }


def a_policy(kubectl: Kubectl, expression: str) -> tuple[Manifest, Manifest]:
    name = f"policy-{uuid.uuid4().hex[:8]}"
    group = {"apiVersion": "admissionregistration.k8s.io/v1", "metadata": {"name": name}}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}
    policy = {
        **group,
        "kind": "ValidatingAdmissionPolicy",
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": expression, "message": "every pod names its cost centre"}],
        },
    }
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": kubectl.namespace}}}
    binding = {
        **group,
        "kind": "ValidatingAdmissionPolicyBinding",
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": where},
    }
    return policy, binding


def refuses(kubectl: Kubectl, words: str) -> bool:
    """Whether admission says so of a pod like any other: what was applied just now is in force a moment later."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": PROBE}
    try:
        kubectl.apply(pod, dry_run=True)
    except Refused as refused:
        return words in str(refused)
    return False


PROBE = {
    "securityContext": {"runAsNonRoot": True, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [
        {
            "name": "probe",
            "image": "x:1",
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        }
    ],
}


def test_a_webhook_that_is_away_is_waited_for_and_named(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    with existing(kubectl, a_webhook_that_is_away(kubectl)):
        eventually(lambda: refuses(kubectl, "inject.mesh.example.com"))
        spec(kubectl, image="kwok/second:1")
        told = message(until(kubectl, "Ready", "WebhookUnavailable"))
        assert "The admission webhook inject.mesh.example.com does not work" in told
        assert "serves; given up at 20" in told
    found = wait_ready(kubectl)
    assert found["status"]["rejected"] == []


def test_a_policy_that_says_no_is_a_proof_and_named_and_a_token_tries_again(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    policy, binding = a_policy(kubectl, "false")
    with existing(kubectl, policy, binding):
        eventually(lambda: refuses(kubectl, "cost centre"))
        spec(kubectl, image="kwok/second:1")
        live = until(kubectl, "RolledBack", "PodCreationRefused")
        assert f"ValidatingAdmissionPolicy {policy['metadata']['name']} refuses the pods" in message(live)
        assert "It says: ValidatingAdmissionPolicy" in message(live)
        assert "cost centre" in message(live)
        assert "set another spec.rollback.retryToken once a cause outside is mended" in message(live)
    eventually(lambda: not refuses(kubectl, "cost centre"))
    spec(kubectl, rollback={"retryToken": "the-policy-is-gone"})
    assert wait_ready(kubectl)["status"]["rejected"] == []


def with_a_full_quota(kubectl: Kubectl) -> None:
    """A good revision, and one that was rejected because there is room for one pod only."""
    create_ready(kubectl)
    kubectl("create", "quota", "pods", "--hard=pods=1")
    eventually(lambda: (kubectl.get("quota", "pods") or {})["status"]["used"]["pods"] == "1")
    spec(kubectl, image="kwok/second:1", rollout={"progressDeadlineSeconds": 600})
    assert "given up at" in message(until(kubectl, "Ready", "QuotaExceeded"))
    spec(kubectl, rollout={"progressDeadlineSeconds": 6})
    until(kubectl, "RolledBack", "QuotaExceeded")


def test_strategy_recreate_alone_has_what_a_quota_stopped_tried_again(kubectl: Kubectl) -> None:
    with_a_full_quota(kubectl)
    spec(kubectl, rollout={"strategy": "Recreate", "progressDeadlineSeconds": 600})
    found = wait_ready(kubectl)
    assert found["status"]["rejected"] == []
    assert found["status"]["desiredRevision"] == found["status"]["lastKnownGoodRevision"]


def test_a_quota_that_was_raised_and_a_token_have_it_tried_again(kubectl: Kubectl) -> None:
    with_a_full_quota(kubectl)
    kubectl.patch("quota", "pods", {"spec": {"hard": {"pods": "2"}}})
    eventually(lambda: (kubectl.get("quota", "pods") or {})["status"]["hard"]["pods"] == "2")
    spec(kubectl, rollback={"retryToken": "there-is-room"})
    assert wait_ready(kubectl)["status"]["rejected"] == []


def test_more_than_a_whole_quota_is_a_proof(kubectl: Kubectl) -> None:
    create_ready(kubectl, resources={"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}})
    kubectl("create", "quota", "memory", "--hard=requests.memory=4Gi")
    eventually(lambda: (kubectl.get("quota", "memory") or {})["status"]["used"]["requests.memory"] == "1Gi")
    spec(kubectl, resources={"limits": {"memory": "6Gi"}, "requests": {"memory": "6Gi"}})
    live = until(kubectl, "RolledBack", "QuotaExceeded")
    assert "requests.memory 6Gi of 4Gi" in message(live)


def test_a_copied_deployment_that_fails_excuses_no_bad_revision(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    copy = kubectl.get("deployment", "triage")
    assert copy is not None
    copy["metadata"] = {"name": "triage-debug", "labels": copy["metadata"]["labels"]}
    del copy["status"]
    copy["spec"]["replicas"] = 3
    copy["spec"]["template"]["spec"]["containers"][0]["image"] = "kwok/notfound:1"
    kubectl.apply(copy)
    eventually(lambda: len(kubectl.list("pods", "-l", INSTANCE)) == 4)
    spec(kubectl, image="kwok/badname:1", rollout={"progressDeadlineSeconds": 600})
    live = until(kubectl, "RolledBack", "InvalidImageName")
    assert not condition(live, "Degraded")


def in_a_room_for_two(kubectl: Kubectl) -> Manifest:
    """The spec of pods of which a node can take two."""
    label = f"room-{kubectl.namespace}"
    kubectl("label", "node", "kwok-1", f"{label}=here")
    return {"nodeSelector": {label: "here"}, "resources": {"requests": {"cpu": "28"}}}


def test_replicas_that_an_autoscaler_asks_for_in_vain_condemn_nobody(kubectl: Kubectl) -> None:
    """There is room for two; the deadline is over before there is room for eight."""
    create_ready(kubectl, **in_a_room_for_two(kubectl))
    spec(kubectl, image="kwok/second:1", rollout={"soakSeconds": 5, "progressDeadlineSeconds": 15})

    def is_applied() -> bool:
        status = (kubectl.get("llmdep", "triage") or {})["status"]
        return bool(status["activeRevision"] == status["desiredRevision"])

    eventually(is_applied)
    kubectl("scale", "llmdep/triage", "--replicas=8")

    def is_late() -> bool:
        found = condition(kubectl.get("deployment", "triage"), "Progressing")
        return bool(found["reason"] == "ProgressDeadlineExceeded")

    eventually(is_late, seconds=PATIENCE)
    live = until(kubectl, "Ready", "Unschedulable")
    assert message(live).startswith("1 of 8 replicas serve.")
    assert "given up" not in message(live)
    kubectl("scale", "llmdep/triage", "--replicas=1")
    found = wait_ready(kubectl)
    assert found["status"]["rejected"] == []
    assert found["status"]["desiredRevision"] == found["status"]["lastKnownGoodRevision"]


def test_what_serves_on_all_the_room_there_is_is_good(kubectl: Kubectl) -> None:
    kubectl.apply(an_llmdeployment(replicas=8, **in_a_room_for_two(kubectl)))

    def is_good() -> bool:
        status = (kubectl.get("llmdep", "triage") or {})["status"]
        return bool(status["lastKnownGoodRevision"] == status["desiredRevision"] and status["readyReplicas"] == 2)

    eventually(is_good, seconds=PATIENCE)
    assert message(until(kubectl, "Ready", "Unschedulable")).startswith("2 of 8 replicas serve.")
