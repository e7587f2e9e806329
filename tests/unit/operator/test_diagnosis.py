"""States of pods and ReplicaSets: what the fault is, how sure that is, and what is none."""

import json
from typing import Any

import pytest

from llm_operator.api.conditions import Finding, Reason
from llm_operator.core.diagnosis import Fault, Proof, diagnose, not_answering
from llm_operator.core.names import Manifest
from llm_operator.core.words import says_the_same
from tests.unit.operator.builders import (
    a_container_status,
    a_pod,
    a_refusal,
    a_revision,
    died,
    going,
    waiting,
)

DOUBT, STANDING, COUNTED = Proof.DOUBT, Proof.STANDING, Proof.COUNTED
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: no cpu"}
LAST_WORDS = json.dumps({"reason": "ModeNotSupported", "message": "no qwen here.", "remedy": "Set LLM_MODE=mock."})


def fault_of(*pods: Manifest) -> Fault:
    found = diagnose(pods)
    assert found is not None
    return found


def ended(exit_code: int, reason: str = "Error", *, restarts: int, before: int | None = None) -> list[Manifest]:
    """A container that has just ended; `before` is how it ended the time before."""
    last = {} if before is None else {"lastState": {"terminated": {"exitCode": before}}}
    return a_container_status(
        state={"terminated": {"exitCode": exit_code, "reason": reason}}, restartCount=restarts, **last
    )


NOTE = json.dumps({"memoryBytes": 61 * 2**20, "phase": "loading", "at": "2026-01-02T03:04:05.000+00:00"}) + " " * 9

CASES: dict[str, tuple[dict[str, Any], Reason, Proof, str]] = {
    "the image name is not a name": (
        {"containerStatuses": waiting("InvalidImageName")},
        Reason.INVALID_IMAGE_NAME,
        STANDING,
        "x:1",
    ),
    "the image must not be pulled and is not there": (
        {"containerStatuses": waiting("ErrImageNeverPull", "Container image is not present with pull policy of Never")},
        Reason.IMAGE_NOT_FOUND,
        STANDING,
        "spec.image",
    ),
    "the kubelet says that the registry is away": (
        {"containerStatuses": waiting("RegistryUnavailable")},
        Reason.REGISTRY_UNAVAILABLE,
        DOUBT,
        "registry",
    ),
    "the runtime waits before it pulls again": (
        {
            "containerStatuses": waiting(
                "ImagePullBackOff", 'Back-off pulling image "x:1": ErrImagePull: x:1: not found'
            )
        },
        Reason.IMAGE_NOT_FOUND,
        STANDING,
        "It says: x:1: not found",
    ),
    "the runtime waits and says no more": (
        {"containerStatuses": waiting("ImagePullBackOff", 'Back-off pulling image "x:1"')},
        Reason.IMAGE_PULL_FAILED,
        DOUBT,
        "imagePullSecrets",
    ),
    "the image of an init container is not there": (
        {"initContainerStatuses": waiting("ErrImagePull", "not found")},
        Reason.IMAGE_NOT_FOUND,
        STANDING,
        "not found",
    ),
    "a Secret is missing": (
        {"containerStatuses": waiting("CreateContainerConfigError", 'secret "token" not found')},
        Reason.CONTAINER_CONFIG_ERROR,
        STANDING,
        'secret "token" not found',
    ),
    "the container cannot be created": (
        {"containerStatuses": waiting("CreateContainerError", "no command specified")},
        Reason.CONTAINER_CONFIG_ERROR,
        STANDING,
        "no command",
    ),
    "the container cannot be started": (
        {"containerStatuses": waiting("RunContainerError", 'exec: "server": executable file not found in $PATH')},
        Reason.CONTAINER_CONFIG_ERROR,
        STANDING,
        "not found in $PATH",
    ),
    "too little memory once": (
        {"containerStatuses": died(137, "OOMKilled")},
        Reason.OOM_KILLED,
        DOUBT,
        "limit of 64Mi",
    ),
    "too little memory twice": (
        {"containerStatuses": died(137, "OOMKilled", crashes=2)},
        Reason.OOM_KILLED,
        COUNTED,
        "limits.memory",
    ),
    "too little memory twice, running again for a moment": (
        {"containerStatuses": died(137, "OOMKilled", crashes=2, running=True)},
        Reason.OOM_KILLED,
        COUNTED,
        "limits.memory",
    ),
    "too little memory, and the server had noted how much it used": (
        {"containerStatuses": died(137, "OOMKilled", NOTE, crashes=2)},
        Reason.OOM_KILLED,
        COUNTED,
        "It says: 61 MiB of memory in use while loading.",
    ),
    "killed by the kubelet, and the note of memory gives no reason": (
        {"containerStatuses": died(137, "Error", NOTE, crashes=3)},
        Reason.PROBE_TIMEOUT,
        DOUBT,
        "probe",
    ),
    "the server crashes twice, and the note of memory gives no reason": (
        {"containerStatuses": died(139, "Error", NOTE, crashes=2)},
        Reason.CRASH_LOOP,
        DOUBT,
        "61 MiB",
    ),
    "too little memory, just now": (
        {"containerStatuses": ended(137, "OOMKilled", restarts=1, before=137)},
        Reason.OOM_KILLED,
        COUNTED,
        "limits.memory",
    ),
    "the server exits twice": ({"containerStatuses": died(3, crashes=2)}, Reason.CRASH_LOOP, DOUBT, "code 3"),
    "the server exits three times": (
        {"containerStatuses": died(3, crashes=3)},
        Reason.CRASH_LOOP,
        COUNTED,
        "kubectl logs -n clinic triage-1 --previous",
    ),
    "the server exits three times, in different ways": (
        {"containerStatuses": ended(3, restarts=2, before=4)},
        Reason.CRASH_LOOP,
        DOUBT,
        "code 3",
    ),
    "the server exits for the first time": (
        {"containerStatuses": ended(3, restarts=0)},
        Reason.CRASH_LOOP,
        DOUBT,
        "code 3",
    ),
    "the server says why and exits": (
        {"containerStatuses": died(78, message=LAST_WORDS)},
        Reason.CRASH_LOOP,
        DOUBT,
        "ModeNotSupported: no qwen here. Set LLM_MODE=mock.",
    ),
    "the server says why and exits twice": (
        {"containerStatuses": died(78, message=LAST_WORDS, crashes=2)},
        Reason.CRASH_LOOP,
        COUNTED,
        "ModeNotSupported",
    ),
    "the server is killed, as the kubelet does": (
        {"containerStatuses": died(137, crashes=9)},
        Reason.PROBE_TIMEOUT,
        DOUBT,
        "code 137",
    ),
    "the server ends because it was told to": (
        {"containerStatuses": died(0, "Completed", crashes=9)},
        Reason.PROBE_TIMEOUT,
        DOUBT,
        "probe",
    ),
    "the server ends by the signal to end": (
        {"containerStatuses": died(143, crashes=9)},
        Reason.PROBE_TIMEOUT,
        DOUBT,
        "probe",
    ),
    "the server is told to end and says why it could not": (
        {"containerStatuses": died(143, message="lost", crashes=2)},
        Reason.CRASH_LOOP,
        COUNTED,
        "lost",
    ),
    "an init container fails": ({"initContainerStatuses": died(1, crashes=3)}, Reason.CRASH_LOOP, COUNTED, "code 1"),
    "no node fits": ({"conditions": [UNSCHEDULABLE]}, Reason.UNSCHEDULABLE, DOUBT, "0/3 nodes"),
    "the node puts it out": (
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
        Reason.POD_EVICTED,
        DOUBT,
        "low on resource",
    ),
}


@pytest.mark.parametrize(("status", "reason", "proof", "words"), CASES.values(), ids=CASES)
def test_the_fault_is_found_and_named(status: dict[str, Any], reason: Reason, proof: Proof, words: str) -> None:
    found = fault_of(a_pod(**status))
    assert (found.finding.reason, found.proof) == (reason, proof)
    assert found.finding.message.startswith("Pod triage-1")
    assert words in found.finding.message


NOT_FOUND, DENIED = Reason.IMAGE_NOT_FOUND, Reason.IMAGE_PULL_DENIED
AWAY, FAILED = Reason.REGISTRY_UNAVAILABLE, Reason.IMAGE_PULL_FAILED
CONTAINERD = 'failed to pull and unpack image "docker.io/team/x:1": failed to resolve reference "docker.io/team/x:1": '
PULLS: dict[str, tuple[Reason, str]] = {
    "containerd: no such tag": (
        NOT_FOUND,
        f"rpc error: code = NotFound desc = {CONTAINERD}docker.io/team/x:1: not found",
    ),
    "containerd: no such repository": (
        DENIED,
        f"{CONTAINERD}pull access denied, repository does not exist or may require authorization: server message: "
        "insufficient_scope: authorization failed",
    ),
    "containerd: no credentials": (
        DENIED,
        f"{CONTAINERD}failed to authorize: failed to fetch anonymous token: unexpected status from GET request to "
        "https://r.example.com/token: 401 Unauthorized",
    ),
    "containerd: forbidden": (
        DENIED,
        f"{CONTAINERD}unexpected status from HEAD request to https://r.example.com/v2/x/manifests/1: 403 Forbidden",
    ),
    "containerd: the registry fails": (
        AWAY,
        f"{CONTAINERD}unexpected status from HEAD request to https://r.example.com/v2/x/manifests/1: "
        "503 Service Unavailable",
    ),
    "containerd: a proxy before the registry fails": (
        AWAY,
        f"{CONTAINERD}unexpected status from HEAD request to https://r.example.com/v2/x/manifests/1: 502 Bad Gateway",
    ),
    "containerd: too many pulls": (
        AWAY,
        f"{CONTAINERD}unexpected status from GET request to https://r.example.com/v2/x: 429 Too Many Requests\n"
        "toomanyrequests: You have reached your pull rate limit.",
    ),
    "containerd: no such host": (
        AWAY,
        f'{CONTAINERD}failed to do request: Head "https://r.example.com/v2/x/manifests/1": dial tcp: lookup '
        "r.example.com on 10.0.0.10:53: no such host",
    ),
    "containerd: no answer": (
        AWAY,
        f'{CONTAINERD}failed to do request: Head "https://10.0.0.1/v2/x": dial tcp 10.0.0.1:443: i/o timeout',
    ),
    "containerd: nobody listens": (
        AWAY,
        f'{CONTAINERD}failed to do request: Head "https://10.0.0.1/v2/x": dial tcp 10.0.0.1:443: connect: '
        "connection refused",
    ),
    "containerd: a certificate nobody trusts": (
        AWAY,
        f'{CONTAINERD}failed to do request: Head "https://10.0.0.1/v2/x": tls: failed to verify certificate: x509: '
        "certificate signed by unknown authority",
    ),
    "containerd: broken off": (AWAY, 'failed to copy: httpReadSeeker: failed open: Get "https://r.example.com/x": EOF'),
    "containerd: another machine": (NOT_FOUND, f"{CONTAINERD}no match for platform in manifest: not found"),
    "containerd: the disk is full": (
        FAILED,
        "failed to extract layer sha256:00: write /var/lib/containerd/x: no space left on device",
    ),
    "Docker: no such tag": (
        NOT_FOUND,
        "Error response from daemon: manifest for x:1 not found: manifest unknown: manifest unknown",
    ),
    "Docker: no such repository": (
        DENIED,
        "Error response from daemon: pull access denied for x, repository does not exist or may require 'docker "
        "login': denied: requested access to the resource is denied",
    ),
    "Docker: no credentials": (
        DENIED,
        "Error response from daemon: Head https://r.example.com/v2/x/manifests/1: unauthorized: authentication "
        "required",
    ),
    "Docker: too many pulls": (AWAY, "Error response from daemon: toomanyrequests: too many failed login attempts"),
    "Docker: given up": (
        AWAY,
        'Error response from daemon: Get "https://r.example.com/v2/": net/http: request canceled while waiting for '
        "connection (Client.Timeout exceeded while awaiting headers): context deadline exceeded",
    ),
    "CRI-O: no such tag": (
        NOT_FOUND,
        "rpc error: code = Unknown desc = reading manifest 1 in docker.io/team/x: manifest unknown",
    ),
    "CRI-O: no such repository": (
        NOT_FOUND,
        "initializing source docker://r.example.com/x:1: reading manifest 1 in r.example.com/x: name unknown",
    ),
    "CRI-O: denied": (
        DENIED,
        "initializing source docker://docker.io/team/x:1: reading manifest 1 in docker.io/team/x: requested access to "
        "the resource is denied",
    ),
    "CRI-O: no credentials": (
        DENIED,
        "initializing source docker://r.example.com/x:1: unable to retrieve auth token: invalid username/password: "
        "unauthorized: incorrect username or password",
    ),
    "CRI-O: the registry is away": (
        AWAY,
        "initializing source docker://r.example.com/x:1: pinging container registry r.example.com: Get "
        '"https://r.example.com/v2/": dial tcp 10.0.0.1:443: connect: connection refused',
    ),
    "CRI-O: the registry fails": (
        AWAY,
        "reading manifest 1 in r.example.com/x: received unexpected HTTP status: 500 Internal Server Error",
    ),
    "CRI-O: the network of the node is down": (AWAY, "dial tcp 10.0.0.1:443: connect: network is unreachable"),
    "nobody knows": (FAILED, "something else"),
    "no words": (FAILED, ""),
}


@pytest.mark.parametrize(("reason", "words"), PULLS.values(), ids=PULLS)
def test_words_of_runtimes_about_a_pull_are_understood(reason: Reason, words: str) -> None:
    found = fault_of(a_pod(containerStatuses=waiting("ErrImagePull", words)))
    assert found.finding.reason is reason
    assert found.proof is (STANDING if reason in (NOT_FOUND, DENIED) else DOUBT)


@pytest.mark.parametrize(("reason", "words"), PULLS.values(), ids=PULLS)
def test_the_fault_is_the_same_while_the_runtime_waits_before_it_pulls_again(reason: Reason, words: str) -> None:
    pulling = fault_of(a_pod(containerStatuses=waiting("ErrImagePull", words)))
    message = 'Back-off pulling image "x:1"' + (f": ErrImagePull: {words}" if words else "")
    assert fault_of(a_pod(containerStatuses=waiting("ImagePullBackOff", message))) == pulling


@pytest.mark.parametrize(
    ("image", "words", "reason"),
    [
        ("team/timeout-svc:nope", "docker.io/team/timeout-svc:nope: not found", NOT_FOUND),
        ("r.example.com/x509:1", 'failed to resolve reference "r.example.com/x509:1": not found', NOT_FOUND),
        ("team/server:403", "Head https://r.example.com/v2/team/server/manifests/403: not found", NOT_FOUND),
        ("team/denied@sha256:00", "docker.io/team/denied@sha256:00: manifest unknown", NOT_FOUND),
        ("team/denied:1", "pull access denied for team/denied: authorization failed", DENIED),
        ("not-found:1", "dial tcp 10.0.0.1:443: i/o timeout", AWAY),
    ],
)
def test_the_name_of_an_image_is_not_taken_for_words_about_it(image: str, words: str, reason: Reason) -> None:
    containers = waiting("ErrImagePull", words)
    containers[0]["image"] = image
    assert fault_of(a_pod(containerStatuses=containers)).finding.reason is reason


@pytest.mark.parametrize("state", ["ImageInspectError", "SignatureValidationFailed"])
def test_other_ways_in_which_an_image_is_not_had_are_doubts(state: str) -> None:
    found = fault_of(a_pod(containerStatuses=waiting(state, "something else")))
    assert (found.finding.reason, found.proof) == (FAILED, DOUBT)


HEALTHY: dict[str, dict[str, Any]] = {
    "a pod nobody has looked at": {},
    "a pod that starts": {"containerStatuses": waiting("ContainerCreating")},
    "a pod that warms up": {"containerStatuses": a_container_status(state={"running": {}}, restartCount=0)},
    "an init container that is done": {
        "initContainerStatuses": a_container_status(ready=True, state={"terminated": {"exitCode": 0}})
    },
    "a pod that is scheduled": {
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Initialized", "status": "False"}]
    },
    "a pod that waits for its gates": {
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]
    },
    "a pod that failed and nobody says why": {"phase": "Failed"},
}


@pytest.mark.parametrize("status", HEALTHY.values(), ids=HEALTHY)
def test_what_only_takes_time_is_no_fault(status: dict[str, Any]) -> None:
    assert diagnose([a_pod(**status)]) is None


def test_a_pod_without_any_status_is_no_fault() -> None:
    pod = a_pod()
    del pod["status"]
    assert diagnose([pod]) is None


def test_a_ready_pod_that_crashed_long_ago_is_no_fault() -> None:
    assert diagnose([a_pod(ready=True, containerStatuses=died(1, running=True))]) is None


def test_a_pod_that_is_going_away_is_no_fault() -> None:
    assert diagnose([going(a_pod(containerStatuses=died(1, crashes=9)))]) is None


def test_memory_without_a_limit_is_that_of_the_node() -> None:
    pod = a_pod(containerStatuses=died(137, "OOMKilled"))
    pod["spec"]["containers"] = [{"name": "other"}]
    found = fault_of(pod)
    assert "the memory of the node" in found.finding.message
    pod["spec"]["containers"] = [{"name": "server"}]
    assert diagnose([pod]) == found


def test_the_exit_that_was_counted_last_is_told_with_its_time() -> None:
    assert fault_of(a_pod(containerStatuses=died(1))).last_exit == "2026-01-02T03:04:05Z"
    assert fault_of(a_pod(containerStatuses=died(137, "OOMKilled"))).last_exit == "2026-01-02T03:04:05Z"
    assert fault_of(a_pod(containerStatuses=waiting("InvalidImageName"))).last_exit is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("[1]", "It says: [1]"),
        ("{}", None),
        ('{"message": "alone"}', "It says: alone"),
        ('{"reason": "A", "message": "b.", "remedy": "c."}', "It says: A: b. c."),
        ("plain\n  words", "It says: plain words"),
        ("{half", "It says: {half"),
    ],
)
def test_last_words_of_any_form_are_told(words: str, told: str | None) -> None:
    message = fault_of(a_pod(containerStatuses=died(1, message=words))).finding.message
    assert message.endswith(told) if told else ("It says" not in message)


def test_very_long_words_are_cut() -> None:
    message = fault_of(a_pod(containerStatuses=died(1, message="x" * 100_000))).finding.message
    assert len(message) < 2000
    assert message.endswith("x…")


# Several pods.


def test_the_newest_pod_speaks_first() -> None:
    old, new = a_pod("old", containerStatuses=died(1)), a_pod("new", containerStatuses=died(137, "OOMKilled"))
    new["metadata"]["creationTimestamp"] = "2026-01-02T04:00:00Z"
    assert fault_of(old, new).finding.reason is Reason.OOM_KILLED
    assert fault_of(new, old) == fault_of(old, new)


def test_a_surer_fault_speaks_before_that_of_a_newer_pod() -> None:
    sure, new = a_pod("sure", containerStatuses=died(1, crashes=3)), a_pod("new", conditions=[UNSCHEDULABLE])
    new["metadata"]["creationTimestamp"] = "2026-01-02T04:00:00Z"
    assert fault_of(new, sure).finding.reason is Reason.CRASH_LOOP


def test_a_standing_fault_that_a_ready_sibling_does_not_share_is_a_doubt() -> None:
    sick = a_pod("sick", containerStatuses=waiting("CreateContainerConfigError"))
    assert fault_of(sick, a_pod("well", ready=True)) == Fault(fault_of(sick).finding, DOUBT)
    assert fault_of(sick, a_pod("waits")).proof is STANDING
    crashes = a_pod("sick", containerStatuses=died(1, crashes=3))
    assert fault_of(crashes, a_pod("well", ready=True)).proof is COUNTED


def test_an_ended_pod_that_lies_around_is_not_the_fault_of_the_one_in_its_place() -> None:
    corpse, new = a_pod("old", phase="Failed", reason="Evicted"), a_pod("new")
    new["metadata"]["creationTimestamp"] = "2026-01-02T04:00:00Z"
    assert fault_of(corpse).finding.reason is Reason.POD_EVICTED
    assert diagnose([corpse, new]) is None


def test_an_ended_pod_is_no_sibling_that_speaks_for_the_revision() -> None:
    sick, over = a_pod("sick", containerStatuses=waiting("InvalidImageName")), a_pod("a", ready=True, phase="Succeeded")
    assert fault_of(sick, over).proof is STANDING


# Pods that the API server refuses.


def refused(words: str) -> Finding:
    found = diagnose([], [a_refusal(words, a_revision())])
    assert found is not None
    assert found.proof is STANDING
    return found.finding


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ('pods "triage-abc" is forbidden: exceeded quota: compute, requested: cpu=1', Reason.QUOTA_EXCEEDED),
        (
            'pods "triage-abc" is forbidden: violates PodSecurity "restricted:latest": hostNetwork',
            Reason.POD_SECURITY_VIOLATION,
        ),
        ('pods "triage-abc" is forbidden: no PriorityClass with name high was found', Reason.POD_CREATION_REFUSED),
        ('admission webhook "policy.example.com" denied the request: no', Reason.POD_CREATION_REFUSED),
        ("", Reason.POD_CREATION_REFUSED),
    ],
)
def test_a_refusal_is_understood(words: str, reason: Reason) -> None:
    assert refused(words).reason is reason


def test_a_refusal_is_told_without_the_random_name_of_the_pod() -> None:
    one = refused('pods "triage-abcde" is forbidden: exceeded quota: compute')
    assert one == refused('pods "triage-fghij" is forbidden: exceeded quota: compute')
    assert one.message.endswith("It says: exceeded quota: compute")


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"conditions": [{"type": "ReplicaFailure", "status": "False", "message": "it is over"}]},
        {"conditions": [{"type": "Other", "status": "True"}]},
    ],
)
def test_a_replica_set_that_makes_its_pods_is_no_fault(status: dict[str, Any]) -> None:
    assert diagnose([], [{"metadata": {"name": "triage-abc"}, "status": status}]) is None


# A server that does not answer.


@pytest.mark.parametrize(("started", "path"), [(True, "/readyz"), (False, "/startupz"), (None, "/startupz")])
def test_a_server_that_does_not_answer_is_told_with_the_probe_that_asks(started: bool | None, path: str) -> None:
    finding = not_answering([a_pod(containerStatuses=a_container_status(state={"running": {}}, started=started))])
    assert finding is not None
    assert finding.reason is Reason.PROBE_TIMEOUT
    assert path in finding.message
    assert "kubectl logs -n clinic triage-1" in finding.message


@pytest.mark.parametrize(
    "pods",
    [
        [],
        [a_pod(ready=True, containerStatuses=a_container_status(state={"running": {}}, ready=True))],
        [a_pod(containerStatuses=waiting("ContainerCreating"))],
        [a_pod(containerStatuses=a_container_status(state={"terminated": {"exitCode": 1}}))],
        [going(a_pod(containerStatuses=a_container_status(state={"running": {}})))],
    ],
    ids=["there is none", "it answers", "it is not there yet", "it has ended", "it is going away"],
)
def test_there_is_no_server_that_does_not_answer_when(pods: list[Manifest]) -> None:
    assert not_answering(pods) is None


# Words that change by themselves.


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("Refused. It says: request 1f2e3d4c at 10:05", "Refused. It says: request a1b2c3d4 at 10:06", True),
        ("Refused. It says: not found", "Refused.", True),
        ("Refused.", "Refused. It says: not found", False),
        ("Refused. It says: not found", "Refused. It says: denied", False),
        ("Refused by a. It says: no", "Refused by b. It says: no", False),
        ("`spec.a`: bad. `spec.b`: bad.", "`spec.a`: bad.", False),
    ],
)
def test_messages_that_say_the_same_are_told_apart_from_others(old: str, new: str, same: bool) -> None:
    assert says_the_same(old, new) is same
