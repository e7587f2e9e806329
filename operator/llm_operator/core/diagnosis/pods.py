"""Why pods do not become ready: reads pod and ReplicaSet states, returns the fault and how sure it is.

    proof, once it has lasted a while   image name invalid, image not found or denied, container wrongly declared,
                                        pods refused for good (refusals.py)
    proof, once it is counted           out of memory, crashes that say why (2), crashes that do not (3)
    doubt                               no room, evicted, gated, registry or runtime away, a probe that is not answered,
                                        a container that somebody injected

Checks are pure and ordered; of one pod the first that finds something counts, of several pods the surest. What can pass
by itself is a doubt, whatever its state is called: causes are read from the words. What follows from a proof or a doubt
is decided in revisions/verdict.py.

Text that changes by itself (back-off times, restart counts, generated pod names in API errors) is kept out:
it would be written to the status again and again. A runtime's own words come last, so that a message with
them starts like one without.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain

from llm_operator.api.conditions import Cause, Reason
from llm_operator.core import names, quantity
from llm_operator.core.diagnosis.containers import (
    OURS,
    containers,
    injected,
    last_exit,
    memory_limit,
    pod_name,
    see_logs,
    waits_for,
)
from llm_operator.core.diagnosis.fault import Fault, Proof
from llm_operator.core.diagnosis.fetch_messages import FINAL_CODES, TRANSIENT_CODES, fetch_reason
from llm_operator.core.diagnosis.messages import detail, gives_a_reason, is_wrongly_declared, last_words, why_not_pulled
from llm_operator.core.diagnosis.refusals import pods_refused
from llm_operator.core.live import has_ended, is_deleting, is_ready
from llm_operator.core.names import Manifest

PULL_REASONS = (
    "ErrImagePull",
    "ErrImageNeverPull",
    "ImageInspectError",
    "ImagePullBackOff",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)

CREATE_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")

# A container that waits for one of these is on its way, or is told by how it ended last.
USUAL_REASONS = ("ContainerCreating", "PodInitializing", "CrashLoopBackOff")

BACK_OFF_PREFIX = re.compile(r'^Back-off pulling image "[^"]*"(: ErrImagePull: |$)')

PULL_TEXTS: dict[Reason, str] = {
    Reason.IMAGE_NOT_FOUND: "was not found; correct spec.image",
    Reason.REGISTRY_UNAVAILABLE: "cannot be pulled now; check the registry and the network of the node",
    Reason.IMAGE_PULL_FAILED: "cannot be pulled; check spec.image and spec.imagePullSecrets",
}

# Crashes that are a proof: of a server that gave its reason for giving up, and of one that did not.
EXPLAINED_CRASHES = 2
UNEXPLAINED_CRASHES = 3
# The server ends with 0 only when told to; the others are the kubelet's SIGKILL and SIGTERM.
KILLED_BY_PROBE = (0, 137, 143)

# What a container that was killed for its memory is given to try, as a multiple of its limit.
MORE_MEMORY = 1.5


def diagnose(pods: Iterable[Manifest], replica_sets: Iterable[Manifest] = ()) -> Fault | None:
    """The fault that keeps these pods from becoming ready, or None when there is none (yet).

    A state that pods of the same revision on other nodes do not share is no proof. Missing room is told only where
    nothing else is wrong.
    """
    newest_first = sorted(
        (pod for pod in pods if not is_deleting(pod)),
        key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]),
        reverse=True,
    )
    # A pod that was ended lies around long after another has taken its place.
    present = [pod for pod in newest_first if pod is newest_first[0] or not has_ended(pod)]
    waiting = [pod for pod in present if not is_ready(pod)]
    faults = [fault for fault in (fault_of_pod(pod) for pod in waiting) if fault is not None]
    faults += [fault for fault in (pods_refused(one) for one in replica_sets) if fault is not None]
    if not faults:
        return None
    surest = max(faults, key=lambda fault: (fault.proof, not fault.is_capacity))
    if surest.proof is Proof.STANDING and len(waiting) < len(present):
        return replace(surest, proof=Proof.DOUBT)
    return surest


def denied_with_secrets(pods: Iterable[Manifest]) -> set[str]:
    """Names of pods whose image may not be pulled although they name Secrets: perhaps one of these does not exist."""
    return {
        pod_name(pod)
        for pod in pods
        if pod["spec"].get("imagePullSecrets") and not is_deleting(pod)
        for container in containers(pod)
        if (fault := _image_not_pulled(pod, container)) and fault.cause.reason == Reason.IMAGE_PULL_DENIED
    }


def fault_of_pod(pod: Manifest) -> Fault | None:
    """The fault of one pod; what our own containers do speaks before what was injected."""
    ours = [one for one in containers(pod) if one["name"] in OURS]
    injected = [one for one in containers(pod) if one["name"] not in OURS]
    found = chain(
        (check(pod) for check in POD_CHECKS),
        (check(pod, container) for check in CONTAINER_CHECKS for container in ours),
        (_injected_fails(pod, container) for container in injected),
    )
    return next((fault for fault in found if fault is not None), None)


def _evicted(pod: Manifest) -> Fault | None:
    status = pod.get("status", {})
    if status.get("phase") != "Failed" or not status.get("reason"):
        return None
    cause = Cause(
        Reason.POD_EVICTED,
        f"Pod {pod_name(pod)} was ended by its node ({status['reason']}); see to the node, or raise "
        f"spec.resources.requests.{detail(status.get('message', ''))}",
    )
    return Fault(cause, Proof.DOUBT)


def _gated(pod: Manifest) -> Fault | None:
    for condition in _not_scheduled(pod, "SchedulingGated"):
        gates = ", ".join(one["name"] for one in pod["spec"].get("schedulingGates", [])) or "names unknown"
        cause = Cause(
            Reason.SCHEDULING_GATED,
            f"Pod {pod_name(pod)} waits for its scheduling gates ({gates}). An admission webhook set them; whoever "
            "owns them takes them away, a queue once it admits the pod. Ask there, or have the pods exempted."
            f"{detail(condition.get('message', ''))}",
        )
        return Fault(cause, Proof.DOUBT)
    return None


def _unschedulable(pod: Manifest) -> Fault | None:
    for condition in _not_scheduled(pod, "Unschedulable"):
        cause = Cause(
            Reason.UNSCHEDULABLE,
            f"Pod {pod_name(pod)} fits on no node; lower spec.resources.requests, or correct spec.nodeSelector, "
            f"spec.affinity and spec.tolerations, or add a node.{detail(condition.get('message', ''))}",
        )
        return Fault(cause, Proof.DOUBT)
    return None


def _not_scheduled(pod: Manifest, reason: str) -> list[Manifest]:
    return [
        condition
        for condition in pod.get("status", {}).get("conditions", [])
        if condition["type"] == "PodScheduled" and condition.get("reason") == reason
    ]


def _image_name_invalid(pod: Manifest, container: Manifest) -> Fault | None:
    if waits_for(container).get("reason") != "InvalidImageName":
        return None
    cause = Cause(
        Reason.INVALID_IMAGE_NAME,
        f"Pod {pod_name(pod)}: the image name {container.get('image')!r} cannot be parsed; "
        "set spec.image to a reference such as registry.example.com/team/server:1.2.",
    )
    return Fault(cause, Proof.STANDING)


def _image_not_pulled(pod: Manifest, container: Manifest) -> Fault | None:
    waits = waits_for(container)
    if waits.get("reason") not in PULL_REASONS:
        return None
    words = BACK_OFF_PREFIX.sub("", waits.get("message", ""))
    reason = why_not_pulled(waits["reason"], words, container.get("image", ""))
    text = _denied(pod) if reason is Reason.IMAGE_PULL_DENIED else PULL_TEXTS[reason]
    cause = Cause(reason, f"Pod {pod_name(pod)}: image {container.get('image')} {text}.{detail(words)}")
    known = reason in (Reason.IMAGE_NOT_FOUND, Reason.IMAGE_PULL_DENIED)
    return Fault(cause, Proof.STANDING if known else Proof.DOUBT)


def _denied(pod: Manifest) -> str:
    """The kubelet pulls without a Secret that is missing, so the registry's no may be about that."""
    secrets = " ".join(one["name"] for one in pod["spec"].get("imagePullSecrets", []))
    if not secrets:
        return "may not be pulled; check spec.image, or name a Secret for the registry in spec.imagePullSecrets"
    return (
        "may not be pulled; check spec.image, and that each Secret of spec.imagePullSecrets exists, is of type "
        "kubernetes.io/dockerconfigjson and names this registry: "
        f"`kubectl get secret -n {pod['metadata']['namespace']} {secrets}`"
    )


def _container_not_created(pod: Manifest, container: Manifest) -> Fault | None:
    waits = waits_for(container)
    if waits.get("reason") not in CREATE_REASONS:
        return None
    words = waits.get("message", "")
    if is_wrongly_declared(words):
        cause = Cause(
            Reason.CONTAINER_CONFIG_ERROR,
            f"Pod {pod_name(pod)}: container {container['name']} cannot be created; create what is missing or correct "
            f"the spec.{detail(words)}",
        )
        return Fault(cause, Proof.STANDING)
    cause = Cause(
        Reason.CONTAINER_RUNTIME_ERROR,
        f"Pod {pod_name(pod)}: container {container['name']} cannot be created now; the kubelet tries again. If it "
        f"lasts, see to the node, its container runtime and its device plugins.{detail(words)}",
    )
    return Fault(cause, Proof.DOUBT)


def _out_of_memory(pod: Manifest, container: Manifest) -> Fault | None:
    ended = last_exit(container)
    if ended is None or ended.get("reason") != "OOMKilled":
        return None
    limit = memory_limit(pod, container["name"])
    used_up, remedy = "the memory of the node", "set spec.resources.limits.memory"
    if limit is not None:
        used_up = f"its memory limit of {limit}"
        remedy = f"raise spec.resources.limits.memory, to {_more_memory(limit)} for a start"
    cause = Cause(
        Reason.OOM_KILLED,
        f"Pod {pod_name(pod)}: container {container['name']} used more than {used_up} and was killed; {remedy}."
        f"{detail(last_words(ended.get('message', '')))}",
    )
    return Fault(cause, _counted(container, EXPLAINED_CRASHES), ended.get("finishedAt"))


def _more_memory(limit: str) -> str:
    """Half as much again, in round numbers: nobody knows what a program that was killed would have used."""
    amount = float(quantity.parse(limit)) * MORE_MEMORY / 2**20
    step = 64 if amount < 1024 else 256
    return f"{math.ceil(amount / step) * step}Mi"


def _fetch_failed(pod: Manifest, container: Manifest) -> Fault | None:
    """A pod that fetches its model for itself, and says why it cannot: what can pass is no proof."""
    ended = last_exit(container) if container["name"] == names.FETCH_CONTAINER else None
    if ended is None:
        return None
    code, message = ended.get("exitCode"), ended.get("message", "")
    found = fetch_reason(message)
    if found is None and code in TRANSIENT_CODES:
        found = Reason.FETCH_FAILED, last_words(message)
    if found is None:
        return None
    reason, words = found
    cause = Cause(reason, f"Pod {pod_name(pod)}: the fetch of the model exited with code {code}.{detail(words)}")
    proof = Proof.COUNTED if code in FINAL_CODES else Proof.DOUBT
    return Fault(cause, proof, ended.get("finishedAt"), look=see_logs(pod, container))


def _crash(pod: Manifest, container: Manifest) -> Fault | None:
    ended = last_exit(container)
    if ended is None:
        return None
    message, code = ended.get("message", ""), ended.get("exitCode")
    if code in KILLED_BY_PROBE and not gives_a_reason(message):
        cause = Cause(
            Reason.PROBE_TIMEOUT,
            f"Pod {pod_name(pod)}: container {container['name']} was ended with code {code}, as the kubelet does when "
            "its startup or liveness probe is not answered in time; give it more CPU in spec.resources, or time in "
            "spec.rollout.progressDeadlineSeconds.",
        )
        return Fault(cause, Proof.DOUBT, look=see_logs(pod, container))
    cause = Cause(
        Reason.CRASH_LOOP,
        f"Pod {pod_name(pod)}: container {container['name']} exited with code {code}.{detail(last_words(message))}",
    )
    enough = EXPLAINED_CRASHES if gives_a_reason(message) else UNEXPLAINED_CRASHES
    return Fault(cause, _counted(container, enough), ended.get("finishedAt"), look=see_logs(pod, container))


def _counted(container: Manifest, enough: int) -> Proof:
    """COUNTED once the container ended in the same way often enough, as far as its status remembers."""
    state, last = container.get("state", {}), container.get("lastState", {}).get("terminated")
    crashes = container.get("restartCount", 0) + (0 if "running" in state else 1)
    now = state.get("terminated")
    alike = now is None or last is None or now.get("exitCode") == last.get("exitCode")
    return Proof.COUNTED if alike and crashes >= enough else Proof.DOUBT


def _injected_fails(pod: Manifest, container: Manifest) -> Fault | None:
    """A container that somebody injected. Its last words are left out: lines of a log may hold anything."""
    waits, ended = waits_for(container), last_exit(container)
    if waits and waits.get("reason") not in USUAL_REASONS:
        what, words, look = f"waits ({waits.get('reason')})", waits.get("message", ""), ""
    elif ended is not None:
        what, words, look = f"ended with code {ended.get('exitCode')}", "", see_logs(pod, container)
    else:
        return None
    return Fault(
        Cause(Reason.INJECTED_CONTAINER_FAILING, f"{injected(pod, container, what)}{detail(words)}"),
        Proof.DOUBT,
        look=look,
    )


POD_CHECKS: tuple[Callable[[Manifest], Fault | None], ...] = (_evicted, _gated, _unschedulable)

CONTAINER_CHECKS: tuple[Callable[[Manifest, Manifest], Fault | None], ...] = (
    _image_name_invalid,
    _image_not_pulled,
    _container_not_created,
    _out_of_memory,
    _fetch_failed,
    _crash,
)
