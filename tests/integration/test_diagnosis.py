"""What the API server and the control plane say about pods that do not come up, and what becomes of the revision."""

import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_lifecycle import create_ready, wait_ready
from tests.integration.webhooks import Answer, Denied, Handler, Webhook, registered_webhook
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


CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
PROBE = {
    "securityContext": {"runAsNonRoot": True, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
    "containers": [{"name": "probe", "image": "x:1", "securityContext": CONFINED}],
}


def of_pods(kubectl: Kubectl, folder: Path, handler: Handler) -> AbstractContextManager[Webhook]:
    """A webhook that every new pod has to pass."""
    return registered_webhook(kubectl, folder, handler, resources=["pods"], operations=["CREATE"])


def test_a_webhook_that_is_away_is_waited_for_and_named(kubectl: Kubectl, tmp_path: Path) -> None:
    create_ready(kubectl)
    with of_pods(kubectl, tmp_path, lambda _: []) as webhook:
        with webhook.away():
            spec(kubectl, image="kwok/second:1")
            told = message(until(kubectl, "Ready", "WebhookUnavailable"))
            assert "The admission webhook webhook.example.com does not work" in told
            assert "serves; given up at 20" in told
        assert wait_ready(kubectl)["status"]["rejected"] == []


def test_a_webhook_that_could_not_ask_somebody_else_is_waited_for(kubectl: Kubectl, tmp_path: Path) -> None:
    create_ready(kubectl)
    no = Denied('image r.example.com/x:1 was not verified: Get "https://r.example.com/v2/": dial tcp: i/o timeout')
    with of_pods(kubectl, tmp_path, lambda _: no) as webhook:
        spec(kubectl, image="kwok/second:1")
        told = message(until(kubectl, "Ready", "WebhookUnavailable"))
        assert "Admission webhook webhook.example.com refuses the pods because it could not decide" in told
        webhook.handler = lambda _: []
        assert wait_ready(kubectl)["status"]["rejected"] == []


def test_a_webhook_that_says_no_is_a_proof(kubectl: Kubectl, tmp_path: Path) -> None:
    create_ready(kubectl)
    with of_pods(kubectl, tmp_path, lambda _: Denied("every pod names its cost centre")) as webhook:
        spec(kubectl, image="kwok/second:1")
        told = message(until(kubectl, "RolledBack", "PodCreationRefused"))
        assert "Admission webhook webhook.example.com refuses the pods" in told
        webhook.handler = lambda _: []
        spec(kubectl, rollback={"retryToken": "the-policy-is-another"})
        assert wait_ready(kubectl)["status"]["rejected"] == []


SIDECAR = {"name": "istio-proxy", "image": "mesh/proxy:1", "securityContext": CONFINED}


def told_by_the_kubelet(kubectl: Kubectl, pod: Manifest, **containers: Manifest) -> None:
    """Write what a kubelet would of the containers of a pod; one of which no more is said runs and is ready."""
    now = pod["status"]["startTime"]
    runs = {"ready": True, "started": True, "restartCount": 0, "state": {"running": {"startedAt": now}}}
    statuses = [
        {"name": name.replace("_", "-"), "image": "x:1", "imageID": "", **(told or runs)}
        for name, told in containers.items()
    ]
    ready = not any(containers.values())
    told = {"Initialized": True, "PodScheduled": True, "ContainersReady": ready, "Ready": ready}
    conditions = [{"type": one, "status": str(holds), "lastTransitionTime": now} for one, holds in told.items()]
    status = {"phase": "Running", "conditions": conditions, "containerStatuses": statuses}
    kubectl.patch("pod", pod["metadata"]["name"], {"status": status}, "--subresource=status")


def the_new_pod(kubectl: Kubectl) -> Manifest:
    """The pod of kwok/never, of which nobody says any more once it runs."""

    def runs() -> Manifest | None:
        pods = kubectl.list("pods", "-l", INSTANCE)
        new = (one for one in pods if one["spec"]["containers"][0]["image"] == "kwok/never:1")
        return next((one for one in new if one["status"].get("phase") == "Running"), None)

    pod = eventually(runs, seconds=PATIENCE)
    assert pod is not None
    return pod


def test_a_container_that_the_runtime_cannot_create_now_is_waited_for(kubectl: Kubectl) -> None:
    create_ready(kubectl)
    spec(kubectl, image="kwok/never:1")
    pod, words = the_new_pod(kubectl), 'failed to reserve container name "server_triage_clinic_0"'
    waits = {"waiting": {"reason": "CreateContainerError", "message": words}}
    told_by_the_kubelet(kubectl, pod, server={"ready": False, "restartCount": 0, "state": waits})
    assert words in message(until(kubectl, "Ready", "ContainerRuntimeError"))
    told_by_the_kubelet(kubectl, pod, server={})
    assert wait_ready(kubectl)["status"]["rejected"] == []


def test_a_sidecar_that_crashes_is_told_as_not_ours_and_waited_for(kubectl: Kubectl, tmp_path: Path) -> None:
    create_ready(kubectl)
    inject: Answer = [{"op": "add", "path": "/spec/containers/-", "value": SIDECAR}]
    with of_pods(kubectl, tmp_path, lambda _: inject):
        spec(kubectl, image="kwok/never:1")

        pod = the_new_pod(kubectl)
        name, now = pod["metadata"]["name"], pod["status"]["startTime"]
        ended = {"exitCode": 1, "reason": "Error", "startedAt": now, "finishedAt": "2099-01-01T00:00:00Z"}
        back_off = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
        crashes = {"ready": False, "restartCount": 5, "state": back_off, "lastState": {"terminated": ended}}
        told_by_the_kubelet(kubectl, pod, server={}, istio_proxy=crashes)
        told = message(until(kubectl, "Ready", "InjectedContainerFailing"))
        assert "container istio-proxy ended with code 1" in told
        assert f"kubectl logs -n {kubectl.namespace} {name} -c istio-proxy --previous" in told
        told_by_the_kubelet(kubectl, pod, server={}, istio_proxy={})
        assert wait_ready(kubectl)["status"]["rejected"] == []


def test_scheduling_gates_are_named_and_waited_for(kubectl: Kubectl, tmp_path: Path) -> None:
    create_ready(kubectl)
    gates = [{"name": "example.com/queue"}]
    with of_pods(kubectl, tmp_path, lambda _: [{"op": "add", "path": "/spec/schedulingGates", "value": gates}]):
        spec(kubectl, image="kwok/second:1")
        assert "(example.com/queue)" in message(until(kubectl, "Ready", "SchedulingGated"))
        (gated,) = [one for one in kubectl.list("pods", "-l", INSTANCE) if one["spec"].get("schedulingGates")]
        kubectl.patch("pod", gated["metadata"]["name"], {"spec": {"schedulingGates": None}})
        assert wait_ready(kubectl)["status"]["rejected"] == []


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


def test_the_secret_that_a_kubelet_did_not_find_is_named(kubectl: Kubectl) -> None:
    kubectl.apply(an_llmdeployment(image="kwok/denied:1", imagePullSecrets=[{"name": "regcred"}]))
    until(kubectl, "Stalled", "NoKnownGoodRevision")
    (pod,) = kubectl.list("pods", "-l", INSTANCE)
    regarding = {"kind": "Pod", **{key: pod["metadata"][key] for key in ("name", "namespace", "uid")}}
    kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{pod['metadata']['name']}.1"},
            "involvedObject": regarding,
            "reason": "FailedToRetrieveImagePullSecret",
            "message": "Unable to retrieve some image pull secrets (regcred); attempting to pull may not succeed.",
            "type": "Warning",
        }
    )
    spec(kubectl, rollback={"retryToken": "look-again"})

    def is_named() -> bool:
        return "The kubelet did not find Secret regcred: create it." in message(kubectl.get("llmdep", "triage") or {})

    eventually(is_named, seconds=PATIENCE)
