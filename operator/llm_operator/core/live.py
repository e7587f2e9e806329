"""What every live object says of itself: whether it is being deleted; of a pod, whether it has ended or is ready."""

from llm_operator.core.names import Manifest


def is_deleting(live: Manifest) -> bool:
    """Whether the object is being deleted."""
    return "deletionTimestamp" in live["metadata"]


def has_ended(pod: Manifest) -> bool:
    """Whether the pod has ended for good."""
    return pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


def is_ready(pod: Manifest) -> bool:
    """Whether the pod's Ready condition is True."""
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod.get("status", {}).get("conditions", [])
    )
