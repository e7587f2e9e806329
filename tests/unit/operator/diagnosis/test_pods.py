"""States of pods and ReplicaSets: what the fault is, how sure that is, and what is none."""

import json
from typing import Any

import pytest

from llm_operator.api.conditions import Reason
from llm_operator.core.diagnosis.awaited import awaited
from llm_operator.core.diagnosis.fault import Fault, Proof
from llm_operator.core.diagnosis.messages import says_the_same
from llm_operator.core.diagnosis.pods import diagnose
from llm_operator.core.names import Manifest
from tests.unit.operator.builders import (
    a_container_status,
    a_pod,
    a_refusal,
    a_revision,
    died,
    going,
    injected,
    waiting,
)

DOUBT, STANDING, COUNTED = Proof.DOUBT, Proof.STANDING, Proof.COUNTED
RUNNING_AND_READY = a_container_status(state={"running": {}}, ready=True)
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

RUNC = "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
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
    "a key is missing": (
        {
            "containerStatuses": waiting(
                "CreateContainerConfigError", "couldn't find key token in ConfigMap clinic/settings"
            )
        },
        Reason.CONTAINER_CONFIG_ERROR,
        STANDING,
        "couldn't find key token",
    ),
    "the image asks for root": (
        {
            "containerStatuses": waiting(
                "CreateContainerConfigError", "container has runAsNonRoot and image will run as root"
            )
        },
        Reason.CONTAINER_CONFIG_ERROR,
        STANDING,
        "run as root",
    ),
    "the command is for another machine": (
        {"containerStatuses": waiting("RunContainerError", f'{RUNC}exec: "/server": exec format error: unknown')},
        Reason.CONTAINER_CONFIG_ERROR,
        STANDING,
        "exec format error",
    ),
    "the command is missing, says crun": (
        {"containerStatuses": waiting("CreateContainerError", "executable file `server` not found in $PATH: No such")},
        Reason.CONTAINER_CONFIG_ERROR,
        STANDING,
        "executable file",
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
        "raise spec.resources.limits.memory, to 128Mi for a start",
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
        "code 3",
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
        "ModeNotSupported: no qwen here. Set spec.image to",
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
    assert (found.cause.reason, found.proof) == (reason, proof)
    assert found.cause.message.startswith("Pod triage-1")
    assert words in found.cause.message


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
    assert found.cause.reason is reason
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
    assert fault_of(a_pod(containerStatuses=containers)).cause.reason is reason


@pytest.mark.parametrize("state", ["ImageInspectError", "SignatureValidationFailed"])
def test_other_ways_in_which_an_image_is_not_had_are_doubts(state: str) -> None:
    found = fault_of(a_pod(containerStatuses=waiting(state, "something else")))
    assert (found.cause.reason, found.proof) == (FAILED, DOUBT)


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
    assert "set spec.resources.limits.memory" in found.cause.message
    assert "the memory of the node" in found.cause.message
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
    message = fault_of(a_pod(containerStatuses=died(1, message=words))).cause.message
    assert message.endswith(told) if told else ("It says" not in message)


def test_very_long_words_are_cut() -> None:
    message = fault_of(a_pod(containerStatuses=died(1, message="x" * 100_000))).cause.message
    assert len(message) < 2000
    assert message.endswith("x…")


# Several pods.


def test_the_newest_pod_speaks_first() -> None:
    old, new = a_pod("old", containerStatuses=died(1)), a_pod("new", containerStatuses=died(137, "OOMKilled"))
    new["metadata"]["creationTimestamp"] = "2026-01-02T04:00:00Z"
    assert fault_of(old, new).cause.reason is Reason.OOM_KILLED
    assert fault_of(new, old) == fault_of(old, new)


def test_a_surer_fault_speaks_before_that_of_a_newer_pod() -> None:
    sure, new = a_pod("sure", containerStatuses=died(1, crashes=3)), a_pod("new", conditions=[UNSCHEDULABLE])
    new["metadata"]["creationTimestamp"] = "2026-01-02T04:00:00Z"
    assert fault_of(new, sure).cause.reason is Reason.CRASH_LOOP


def test_a_standing_fault_that_a_ready_sibling_does_not_share_is_a_doubt() -> None:
    sick = a_pod("sick", containerStatuses=waiting("InvalidImageName"))
    assert fault_of(sick, a_pod("well", ready=True)) == Fault(fault_of(sick).cause, DOUBT)
    assert fault_of(sick, a_pod("waits")).proof is STANDING
    crashes = a_pod("sick", containerStatuses=died(1, crashes=3))
    assert fault_of(crashes, a_pod("well", ready=True)).proof is COUNTED


def test_an_ended_pod_that_lies_around_is_not_the_fault_of_the_one_in_its_place() -> None:
    corpse, new = a_pod("old", phase="Failed", reason="Evicted"), a_pod("new")
    new["metadata"]["creationTimestamp"] = "2026-01-02T04:00:00Z"
    assert fault_of(corpse).cause.reason is Reason.POD_EVICTED
    assert diagnose([corpse, new]) is None


def test_an_ended_pod_is_no_sibling_that_speaks_for_the_revision() -> None:
    sick, over = a_pod("sick", containerStatuses=waiting("InvalidImageName")), a_pod("a", ready=True, phase="Succeeded")
    assert fault_of(sick, over).proof is STANDING


# Pods that the API server refuses.


def test_a_refusal_is_a_proof_or_a_doubt_by_its_words() -> None:
    no = diagnose([], [a_refusal('admission webhook "policy" denied the request: no', a_revision())])
    away = diagnose([], [a_refusal('Internal error occurred: failed calling webhook "w": EOF', a_revision())])
    assert no is not None
    assert away is not None
    assert (no.cause.reason, no.proof) == (Reason.POD_CREATION_REFUSED, STANDING)
    assert (away.cause.reason, away.proof) == (Reason.WEBHOOK_UNAVAILABLE, DOUBT)


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


def waits_for(*pods: Manifest) -> Fault:
    assert diagnose(pods) is None
    found = awaited(pods)
    assert found is not None
    assert found.proof is DOUBT
    return found


RUNNING = a_container_status(state={"running": {}})


@pytest.mark.parametrize(("started", "path"), [(True, "/readyz"), (False, "/startupz"), (None, "/startupz")])
def test_a_server_that_does_not_answer_is_told_with_the_probe_that_asks(started: bool | None, path: str) -> None:
    found = waits_for(a_pod(containerStatuses=a_container_status(state={"running": {}}, started=started)))
    assert found.cause.reason is Reason.PROBE_TIMEOUT
    assert path in found.cause.message
    assert found.look == "See `kubectl logs -n clinic triage-1`."


def test_a_pod_that_still_fetches_is_not_called_one_that_does_not_answer() -> None:
    pod = a_pod(initContainerStatuses=injected(RUNNING, "fetch"), containerStatuses=waiting("PodInitializing"))
    found = waits_for(pod)
    assert found.cause.reason is Reason.PROGRESS_DEADLINE_EXCEEDED
    assert "still fetches its model" in found.cause.message


@pytest.mark.parametrize(
    "status",
    [
        {
            "initContainerStatuses": injected(RUNNING, "vault-agent-init"),
            "containerStatuses": waiting("PodInitializing"),
        },
        {"containerStatuses": [*RUNNING_AND_READY, *injected(RUNNING, "vault-agent-init")]},
    ],
    ids=["an init container that goes on and on", "a sidecar beside a server that is ready"],
)
def test_an_injected_container_that_is_waited_for_is_told_as_such(status: dict[str, Any]) -> None:
    found = waits_for(a_pod(**status))
    assert found.cause.reason is Reason.INJECTED_CONTAINER_FAILING
    assert "container vault-agent-init runs and is not ready" in found.cause.message
    assert "injected" in found.cause.message


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing"])
def test_a_container_that_is_not_there_yet_may_wait_for_a_volume_or_the_network(reason: str) -> None:
    found = waits_for(a_pod(containerStatuses=waiting(reason)))
    assert found.cause.reason is Reason.PROGRESS_DEADLINE_EXCEEDED
    assert "volume" in found.cause.message
    assert found.told.message.endswith("See `kubectl describe pod -n clinic triage-1`.")


@pytest.mark.parametrize(
    "pods",
    [
        [],
        [a_pod()],
        [a_pod(ready=True, containerStatuses=RUNNING)],
        [a_pod(phase="Succeeded", containerStatuses=RUNNING)],
        [a_pod(containerStatuses=a_container_status(state={"terminated": {"exitCode": 1}}))],
        [going(a_pod(containerStatuses=RUNNING))],
    ],
    ids=["there is none", "nothing is known", "it answers", "it is over", "it has ended", "it is going away"],
)
def test_nothing_is_waited_for_when(pods: list[Manifest]) -> None:
    assert awaited(pods) is None


# Containers that somebody injected.


def with_sidecar(**status: Any) -> Manifest:
    pod = a_pod(**status)
    pod["spec"]["containers"].append({"name": "istio-proxy"})
    return pod


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (died(1, crashes=9), "container istio-proxy ended with code 1"),
        (died(137, "OOMKilled", crashes=9), "container istio-proxy ended with code 137"),
        (waiting("InvalidImageName"), "container istio-proxy waits (InvalidImageName)"),
        (waiting("ErrImagePull", "not found"), "It says: not found"),
        (waiting("CreateContainerConfigError", 'secret "mesh" not found'), 'It says: secret "mesh" not found'),
    ],
    ids=["it crashes", "it is killed", "its image has no name", "its image is not there", "its Secret is not there"],
)
@pytest.mark.parametrize("where", ["containerStatuses", "initContainerStatuses"])
def test_what_an_injected_container_does_proves_nothing(status: list[Manifest], words: str, where: str) -> None:
    found = fault_of(with_sidecar(**{where: injected(status)}))
    assert (found.cause.reason, found.proof) == (Reason.INJECTED_CONTAINER_FAILING, DOUBT)
    assert words in found.cause.message
    assert "an admission webhook injected it" in found.cause.message
    assert "spec.image" not in found.cause.message


def test_the_last_words_of_an_injected_container_may_be_lines_of_a_log_and_are_not_told() -> None:
    found = fault_of(with_sidecar(containerStatuses=injected(died(1, message="GET /triage?query=chest+pain"))))
    assert "chest" not in found.told.message


def test_our_own_containers_speak_before_what_was_injected() -> None:
    sidecar, server = injected(died(1, crashes=9)), died(78, message=LAST_WORDS, crashes=2)
    found = fault_of(with_sidecar(containerStatuses=[*sidecar, *server]))
    assert (found.cause.reason, found.proof) == (Reason.CRASH_LOOP, COUNTED)


def test_the_crashes_of_a_server_that_is_ready_now_are_not_why_its_sidecar_is_not() -> None:
    server = [{**one, "ready": True} for one in died(78, message=LAST_WORDS, crashes=5, running=True)]
    found = fault_of(with_sidecar(containerStatuses=[*server, *injected(died(1))]))
    assert found.cause.reason is Reason.INJECTED_CONTAINER_FAILING


def test_a_sidecar_that_came_up_at_the_second_try_is_no_fault_of_a_server_that_starts() -> None:
    sidecar = [{**one, "ready": True} for one in injected(died(1, running=True))]
    assert diagnose([with_sidecar(containerStatuses=[*sidecar, *RUNNING])]) is None


def test_logs_are_asked_for_by_container_where_there_are_several() -> None:
    alone, beside = a_pod(containerStatuses=died(3)), with_sidecar(containerStatuses=died(3))
    assert fault_of(alone).look == "See `kubectl logs -n clinic triage-1 --previous`."
    assert fault_of(beside).look == "See `kubectl logs -n clinic triage-1 -c server --previous`."
    sidecar = fault_of(with_sidecar(containerStatuses=injected(died(3))))
    assert sidecar.look == "See `kubectl logs -n clinic triage-1 -c istio-proxy --previous`."


def test_where_to_look_stands_before_somebody_elses_words() -> None:
    told = fault_of(a_pod(containerStatuses=died(3, message="the end"))).told
    assert told.message.endswith("See `kubectl logs -n clinic triage-1 --previous`. It says: the end")


# Containers that the node cannot create now.

NODE_TROUBLE = {
    "a name that is still taken": 'failed to reserve container name "server_triage": name "server_triage" is reserved',
    "a runtime that is slow": "context deadline exceeded",
    "a kubelet that has just begun": "failed to sync secret cache: timed out waiting for the condition",
    "services that were not read yet": "services have not yet been read at least once, cannot construct envvars",
    "a device that is not there yet": (
        'error gathering device information while adding custom device "/dev/nvidia0": no such file or directory'
    ),
    "a hook that is not there yet": f'{RUNC}error running hook #0: exec: "nvidia-hook": executable file not found',
    "a runtime that is not there yet": 'exec: "nvidia-container-runtime": executable file not found in $PATH',
    "a program of the driver": "fork/exec /usr/bin/nvidia-container-cli: no such file or directory",
    "a volume that went": "error mounting /var/lib/kubelet/pods/x to rootfs at /models: no such file or directory",
    "unknown words": "something else",
    "no words": "",
}


@pytest.mark.parametrize("words", NODE_TROUBLE.values(), ids=NODE_TROUBLE)
@pytest.mark.parametrize("state", ["CreateContainerError", "CreateContainerConfigError", "RunContainerError"])
def test_what_a_node_cannot_do_now_proves_nothing(state: str, words: str) -> None:
    found = fault_of(a_pod(containerStatuses=waiting(state, words)))
    assert (found.cause.reason, found.proof) == (Reason.CONTAINER_RUNTIME_ERROR, DOUBT)


def test_a_secret_by_the_name_of_a_device_is_still_a_secret() -> None:
    found = fault_of(a_pod(containerStatuses=waiting("CreateContainerConfigError", 'secret "device" not found')))
    assert found.cause.reason is Reason.CONTAINER_CONFIG_ERROR


# Pods that nobody schedules.

GATED = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "Scheduling is blocked"}


def test_scheduling_gates_are_named() -> None:
    pod = a_pod(conditions=[GATED])
    pod["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}, {"name": "example.com/cost"}]
    found = fault_of(pod)
    assert (found.cause.reason, found.proof) == (Reason.SCHEDULING_GATED, DOUBT)
    assert "kueue.x-k8s.io/admission, example.com/cost" in found.cause.message


def test_gates_without_names_are_told_as_well() -> None:
    assert "names unknown" in fault_of(a_pod(conditions=[GATED])).cause.message


@pytest.mark.parametrize(
    ("condition", "refusal"),
    [(GATED, "no"), (UNSCHEDULABLE, "no"), (None, "exceeded quota: pods")],
    ids=["gates", "no node", "a quota"],
)
def test_missing_room_is_told_only_where_nothing_else_is_wrong(condition: Manifest | None, refusal: str) -> None:
    pods = [] if condition is None else [a_pod("no-room", conditions=[condition])]
    refusals = [a_refusal(refusal, a_revision())] if condition is None else []
    alone = diagnose(pods, refusals)
    assert alone is not None
    assert alone.is_capacity
    slow = a_pod("slow", containerStatuses=waiting("ErrImagePull", "dial tcp: i/o timeout"))
    both = diagnose([*pods, slow], refusals)
    assert both is not None
    assert both.cause.reason is Reason.REGISTRY_UNAVAILABLE


# Remedies with names and numbers.


def test_secrets_for_a_pull_that_is_denied_are_named() -> None:
    pod = a_pod(containerStatuses=waiting("ErrImagePull", "401 Unauthorized"))
    assert "name a Secret for the registry in spec.imagePullSecrets" in fault_of(pod).cause.message
    pod["spec"]["imagePullSecrets"] = [{"name": "regcred"}, {"name": "mirror"}]
    assert "`kubectl get secret -n clinic regcred mirror`" in fault_of(pod).cause.message


@pytest.mark.parametrize(
    ("limit", "enough"), [("64Mi", "128Mi"), ("300M", "448Mi"), ("1Gi", "1536Mi"), ("6Gi", "9216Mi"), (2**30, "1536Mi")]
)
def test_who_was_killed_for_its_memory_is_told_what_to_try(limit: str | int, enough: str) -> None:
    pod = a_pod(containerStatuses=died(137, "OOMKilled"))
    pod["spec"]["containers"][0]["resources"]["limits"]["memory"] = limit
    assert f"raise spec.resources.limits.memory, to {enough} for a start" in fault_of(pod).cause.message


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
