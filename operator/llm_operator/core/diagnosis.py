"""Why pods do not become ready: reads pod and Deployment states, returns the first known fault.

Checks are pure and ordered; the first that finds something wins. Text that changes by itself (back-off
times, restart counts, generated pod names in API errors) is kept out: it would be written to the status
again and again. A runtime's own words come last, so that a message with them starts like one without.
"""

import json
import re
from collections.abc import Callable, Iterable

from llm_operator.api.conditions import Finding, Reason
from llm_operator.core.names import Manifest

PULL_REASONS = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "RegistryUnavailable")
CONFIG_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
BACK_OFF_PREFIX = re.compile(r'^Back-off pulling image "[^"]*"(: ErrImagePull: |$)')
GENERATED_POD_NAME = re.compile(r'^pods "[^"]*" is forbidden: ')
DETAIL_LIMIT = 1024
IT_SAYS = " It says: "
VOLATILE = re.compile(r"[0-9a-fA-F-]{8,}|[0-9]+")


def diagnose(deployment: Manifest | None, pods: Iterable[Manifest]) -> Finding | None:
    """The fault that keeps pods from becoming ready, or None when there is none (yet)."""
    waiting = [pod for pod in pods if not is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]
    waiting.sort(key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]), reverse=True)
    for pod in waiting:
        for check in POD_CHECKS:
            finding = check(pod)
            if finding is not None:
                return finding
    return _pods_refused(deployment)


def is_ready(pod: Manifest) -> bool:
    """Whether the pod's Ready condition is True."""
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod.get("status", {}).get("conditions", [])
    )


def _image_name_invalid(pod: Manifest) -> Finding | None:
    for container, waiting in _waiting(pod):
        if waiting.get("reason") == "InvalidImageName":
            return Finding(
                Reason.INVALID_IMAGE_NAME,
                f"Pod {_name(pod)}: the image name {container.get('image')!r} cannot be parsed; "
                "set spec.image to a reference such as registry.example.com/team/server:1.2.",
            )
    return None


def _image_not_pulled(pod: Manifest) -> Finding | None:
    for container, waiting in _waiting(pod):
        if waiting.get("reason") in PULL_REASONS:
            words = BACK_OFF_PREFIX.sub("", waiting.get("message", ""))
            return Finding(
                Reason.IMAGE_PULL_FAILED,
                f"Pod {_name(pod)} cannot pull image {container.get('image')}; check spec.image and "
                f"spec.imagePullSecrets.{detail(words)}",
            )
    return None


def _container_not_created(pod: Manifest) -> Finding | None:
    for container, waiting in _waiting(pod):
        if waiting.get("reason") in CONFIG_REASONS:
            return Finding(
                Reason.CONTAINER_CONFIG_ERROR,
                f"Pod {_name(pod)}: container {container['name']} cannot be created; create what is missing "
                f"or correct the spec.{detail(waiting.get('message', ''))}",
            )
    return None


def _out_of_memory(pod: Manifest) -> Finding | None:
    for container, terminated in _last_exits(pod):
        if terminated.get("reason") == "OOMKilled":
            limit = _memory_limit(pod, container["name"])
            used_up = f"its memory limit of {limit}" if limit else "the memory of the node"
            return Finding(
                Reason.OOM_KILLED,
                f"Pod {_name(pod)}: container {container['name']} used more than {used_up} and was killed; "
                "raise spec.resources.limits.memory.",
            )
    return None


def _crash(pod: Manifest) -> Finding | None:
    for container, terminated in _last_exits(pod):
        return Finding(
            Reason.CRASH_LOOP,
            f"Pod {_name(pod)}: container {container['name']} exited with code {terminated.get('exitCode')}; "
            f"see `kubectl logs -n {pod['metadata']['namespace']} {_name(pod)} --previous`."
            f"{detail(_last_words(terminated.get('message', '')))}",
        )
    return None


def _unschedulable(pod: Manifest) -> Finding | None:
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Finding(
                Reason.UNSCHEDULABLE,
                f"Pod {_name(pod)} fits on no node; lower spec.resources.requests, or correct spec.nodeSelector, "
                f"spec.affinity and spec.tolerations, or add a node.{detail(condition.get('message', ''))}",
            )
    return None


POD_CHECKS: tuple[Callable[[Manifest], Finding | None], ...] = (
    _image_name_invalid,
    _image_not_pulled,
    _container_not_created,
    _out_of_memory,
    _crash,
    _unschedulable,
)


def _pods_refused(deployment: Manifest | None) -> Finding | None:
    for condition in (deployment or {}).get("status", {}).get("conditions", []):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            words = GENERATED_POD_NAME.sub("", condition.get("message", ""))
            return Finding(
                Reason.POD_CREATION_REFUSED,
                "New pods are refused by the API server; raise the quota or limit range, create what is missing, "
                f"or correct the spec.{detail(words)}",
            )
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


def _last_words(message: str) -> str:
    """The server's {reason, message, remedy} as a sentence; anything else as it is."""
    try:
        words = json.loads(message)
    except ValueError:
        return message
    if not isinstance(words, dict):
        return message
    parts = [str(words[key]) for key in ("reason", "message", "remedy") if words.get(key)]
    return f"{parts[0]}: {' '.join(parts[1:])}" if len(parts) > 1 else "".join(parts)


def detail(words: str) -> str:
    """Somebody else's words as the last sentence of a message, on one line and not too long."""
    words = " ".join(words.split())
    if not words:
        return ""
    return f"{IT_SAYS}{words[:DETAIL_LIMIT]}{'…' if len(words) > DETAIL_LIMIT else ''}"


def says_the_same(old: str, new: str) -> bool:
    """Whether the old message tells all of the new one, so that writing the new one would only cause an event.

    A runtime alternates between an error with and without details; a webhook puts a request id or the time
    into its refusal.
    """
    (old_head, _, old_words), (new_head, _, new_words) = old.partition(IT_SAYS), new.partition(IT_SAYS)
    return old_head == new_head and (not new_words or VOLATILE.sub("#", old_words) == VOLATILE.sub("#", new_words))


def _name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])
