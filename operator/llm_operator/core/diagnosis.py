"""Why pods do not become ready: reads pod and ReplicaSet states, returns the fault and how sure it is.

Checks are pure and ordered; of one pod the first that finds something counts, of several pods the surest.
Text that changes by itself (back-off times, restart counts, generated pod names in API errors) is kept out:
it would be written to the status again and again. A runtime's own words come last, so that a message with
them starts like one without.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

from llm_operator.api.conditions import Finding, Reason
from llm_operator.core import names
from llm_operator.core.fetch_words import FINAL_CODES, fetch_reason
from llm_operator.core.names import Manifest
from llm_operator.core.words import detail, gives_a_reason, last_words, why_not_pulled

PULL_REASONS = (
    "ErrImagePull",
    "ErrImageNeverPull",
    "ImageInspectError",
    "ImagePullBackOff",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
CONFIG_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
BACK_OFF_PREFIX = re.compile(r'^Back-off pulling image "[^"]*"(: ErrImagePull: |$)')
GENERATED_POD_NAME = re.compile(r'^pods "[^"]*" is forbidden: ')
PULL_TEXTS: dict[Reason, str] = {
    Reason.IMAGE_NOT_FOUND: "was not found; correct spec.image",
    Reason.IMAGE_PULL_DENIED: "may not be pulled; check spec.image and spec.imagePullSecrets",
    Reason.REGISTRY_UNAVAILABLE: "cannot be pulled now; check the registry and the network of the node",
    Reason.IMAGE_PULL_FAILED: "cannot be pulled; check spec.image and spec.imagePullSecrets",
}
# Crashes that are a proof: of a server that gave its reason for giving up, and of one that did not.
EXPLAINED_CRASHES = 2
UNEXPLAINED_CRASHES = 3
# The server ends with 0 only when told to; the others are the kubelet's SIGKILL and SIGTERM.
KILLED_BY_PROBE = (0, 137, 143)


class Proof(IntEnum):
    """How sure it is that the revision itself is at fault."""

    DOUBT = 0  # Time, a node or somebody else may heal it.
    STANDING = 1  # It is, once it has lasted a while.
    COUNTED = 2  # It is: the same happened often enough.


@dataclass(frozen=True, slots=True)
class Fault:
    """What keeps pods from becoming ready."""

    finding: Finding
    proof: Proof
    # When the exit happened that was counted last (RFC 3339 in UTC).
    last_exit: str | None = None


def diagnose(pods: Iterable[Manifest], replica_sets: Iterable[Manifest] = ()) -> Fault | None:
    """The fault that keeps these pods from becoming ready, or None when there is none (yet).

    A state that pods of the same revision on other nodes do not share is no proof.
    """
    newest_first = sorted(
        (pod for pod in pods if not is_going(pod)),
        key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]),
        reverse=True,
    )
    # A pod that was ended lies around long after another has taken its place.
    present = [pod for pod in newest_first if pod is newest_first[0] or not is_over(pod)]
    waiting = [pod for pod in present if not is_ready(pod)]
    faults = [fault for fault in (_fault_of(pod) for pod in waiting) if fault is not None]
    faults += [fault for fault in (_pods_refused(one) for one in replica_sets) if fault is not None]
    if not faults:
        return None
    surest = max(faults, key=lambda fault: fault.proof)
    if surest.proof is Proof.STANDING and len(waiting) < len(present):
        return Fault(surest.finding, Proof.DOUBT)
    return surest


def not_answering(pods: Iterable[Manifest]) -> Finding | None:
    """A server that runs and does not answer its probes: usual while it starts, a finding once its time is over."""
    for pod in pods:
        for container in _containers(pod):
            if "running" in container.get("state", {}) and not container.get("ready") and not is_going(pod):
                probe = "readiness probe (GET /readyz)" if container.get("started") else "startup probe (GET /startupz)"
                return Finding(
                    Reason.PROBE_TIMEOUT,
                    f"Pod {_name(pod)}: container {container['name']} runs and does not answer its {probe}; see "
                    f"`kubectl logs -n {pod['metadata']['namespace']} {_name(pod)}`.",
                )
    return None


def _fault_of(pod: Manifest) -> Fault | None:
    return next((fault for fault in (check(pod) for check in POD_CHECKS) if fault is not None), None)


def is_going(live: Manifest) -> bool:
    """Whether the object is being deleted."""
    return "deletionTimestamp" in live["metadata"]


def is_over(pod: Manifest) -> bool:
    """Whether the pod has ended for good."""
    return pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


def is_ready(pod: Manifest) -> bool:
    """Whether the pod's Ready condition is True."""
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod.get("status", {}).get("conditions", [])
    )


def _evicted(pod: Manifest) -> Fault | None:
    status = pod.get("status", {})
    if status.get("phase") != "Failed" or not status.get("reason"):
        return None
    finding = Finding(
        Reason.POD_EVICTED,
        f"Pod {_name(pod)} was ended by its node ({status['reason']}); see to the node, or raise "
        f"spec.resources.requests.{detail(status.get('message', ''))}",
    )
    return Fault(finding, Proof.DOUBT)


def _image_name_invalid(pod: Manifest) -> Fault | None:
    for container, waiting in _waiting(pod):
        if waiting.get("reason") == "InvalidImageName":
            finding = Finding(
                Reason.INVALID_IMAGE_NAME,
                f"Pod {_name(pod)}: the image name {container.get('image')!r} cannot be parsed; "
                "set spec.image to a reference such as registry.example.com/team/server:1.2.",
            )
            return Fault(finding, Proof.STANDING)
    return None


def _image_not_pulled(pod: Manifest) -> Fault | None:
    for container, waiting in _waiting(pod):
        if waiting.get("reason") in PULL_REASONS:
            words = BACK_OFF_PREFIX.sub("", waiting.get("message", ""))
            reason = why_not_pulled(waiting["reason"], words, container.get("image", ""))
            finding = Finding(
                reason, f"Pod {_name(pod)}: image {container.get('image')} {PULL_TEXTS[reason]}.{detail(words)}"
            )
            known = reason in (Reason.IMAGE_NOT_FOUND, Reason.IMAGE_PULL_DENIED)
            return Fault(finding, Proof.STANDING if known else Proof.DOUBT)
    return None


def _container_not_created(pod: Manifest) -> Fault | None:
    for container, waiting in _waiting(pod):
        if waiting.get("reason") in CONFIG_REASONS:
            finding = Finding(
                Reason.CONTAINER_CONFIG_ERROR,
                f"Pod {_name(pod)}: container {container['name']} cannot be created; create what is missing "
                f"or correct the spec.{detail(waiting.get('message', ''))}",
            )
            return Fault(finding, Proof.STANDING)
    return None


def _out_of_memory(pod: Manifest) -> Fault | None:
    for container, terminated in _last_exits(pod):
        if terminated.get("reason") == "OOMKilled":
            limit = _memory_limit(pod, container["name"])
            used_up = f"its memory limit of {limit}" if limit else "the memory of the node"
            finding = Finding(
                Reason.OOM_KILLED,
                f"Pod {_name(pod)}: container {container['name']} used more than {used_up} and was killed; "
                f"raise spec.resources.limits.memory.{detail(last_words(terminated.get('message', '')))}",
            )
            return Fault(finding, _counted(container, EXPLAINED_CRASHES), terminated.get("finishedAt"))
    return None


def _fetch_failed(pod: Manifest) -> Fault | None:
    """A pod that fetches its model for itself, and says why it cannot: what can pass is no proof."""
    for container, terminated in _last_exits(pod):
        found = fetch_reason(terminated.get("message", "")) if container["name"] == names.FETCH_CONTAINER else None
        if found is not None:
            reason, words = found
            code = terminated.get("exitCode")
            finding = Finding(
                reason,
                f"Pod {_name(pod)}: the fetch of the model exited with code {code}; see `kubectl logs -n "
                f"{pod['metadata']['namespace']} {_name(pod)} -c {names.FETCH_CONTAINER} --previous`.{detail(words)}",
            )
            return Fault(finding, Proof.COUNTED if code in FINAL_CODES else Proof.DOUBT, terminated.get("finishedAt"))
    return None


def _crash(pod: Manifest) -> Fault | None:
    for container, terminated in _last_exits(pod):
        message = terminated.get("message", "")
        logs = f"see `kubectl logs -n {pod['metadata']['namespace']} {_name(pod)} --previous`."
        if terminated.get("exitCode") in KILLED_BY_PROBE and not gives_a_reason(message):
            finding = Finding(
                Reason.PROBE_TIMEOUT,
                f"Pod {_name(pod)}: container {container['name']} was ended with code {terminated.get('exitCode')}, as "
                f"the kubelet does when its startup or liveness probe is not answered in time; {logs}",
            )
            return Fault(finding, Proof.DOUBT)
        finding = Finding(
            Reason.CRASH_LOOP,
            f"Pod {_name(pod)}: container {container['name']} exited with code {terminated.get('exitCode')}; "
            f"{logs}{detail(last_words(message))}",
        )
        enough = EXPLAINED_CRASHES if gives_a_reason(message) else UNEXPLAINED_CRASHES
        return Fault(finding, _counted(container, enough), terminated.get("finishedAt"))
    return None


def _counted(container: Manifest, enough: int) -> Proof:
    """COUNTED once the container ended in the same way often enough, as far as its status remembers."""
    state, last = container.get("state", {}), container.get("lastState", {}).get("terminated")
    crashes = container.get("restartCount", 0) + (0 if "running" in state else 1)
    now = state.get("terminated")
    alike = now is None or last is None or now.get("exitCode") == last.get("exitCode")
    return Proof.COUNTED if alike and crashes >= enough else Proof.DOUBT


def _unschedulable(pod: Manifest) -> Fault | None:
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            finding = Finding(
                Reason.UNSCHEDULABLE,
                f"Pod {_name(pod)} fits on no node; lower spec.resources.requests, or correct spec.nodeSelector, "
                f"spec.affinity and spec.tolerations, or add a node.{detail(condition.get('message', ''))}",
            )
            return Fault(finding, Proof.DOUBT)
    return None


POD_CHECKS: tuple[Callable[[Manifest], Fault | None], ...] = (
    _evicted,
    _image_name_invalid,
    _image_not_pulled,
    _container_not_created,
    _out_of_memory,
    _fetch_failed,
    _crash,
    _unschedulable,
)
REFUSALS: tuple[tuple[Reason, str, str], ...] = (
    (
        Reason.QUOTA_EXCEEDED,
        "exceeded quota",
        "raise the quota, lower spec.resources, or set rollout.strategy Recreate",
    ),
    (Reason.POD_SECURITY_VIOLATION, "violates PodSecurity", "see which policy of the namespace forbids it"),
    (Reason.POD_CREATION_REFUSED, "", "raise the limit range, create what is missing, or correct the spec"),
)


def _pods_refused(replica_set: Manifest) -> Fault | None:
    for condition in replica_set.get("status", {}).get("conditions", []):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            words = GENERATED_POD_NAME.sub("", condition.get("message", ""))
            reason, remedy = next((reason, remedy) for reason, sign, remedy in REFUSALS if sign in words)
            return Fault(Finding(reason, f"The API server refuses the pods; {remedy}.{detail(words)}"), Proof.STANDING)
    return None


def _containers(pod: Manifest) -> list[Manifest]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _waiting(pod: Manifest) -> list[tuple[Manifest, Manifest]]:
    return [(one, one["state"]["waiting"]) for one in _containers(pod) if "waiting" in one.get("state", {})]


def _last_exits(pod: Manifest) -> list[tuple[Manifest, Manifest]]:
    """Containers that ended at least once, with how; a finished init container is no fault."""
    exits = []
    for container in _containers(pod):
        state = container.get("state", {})
        terminated = state.get("terminated") or container.get("lastState", {}).get("terminated")
        finished = state.get("terminated", {}).get("exitCode") == 0 and container.get("ready")
        if terminated is not None and not finished:
            exits.append((container, terminated))
    return exits


def _memory_limit(pod: Manifest, container: str) -> str | None:
    for one in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
        if one["name"] == container:
            limit = one.get("resources", {}).get("limits", {}).get("memory")
            return None if limit is None else str(limit)
    return None


def _name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])
