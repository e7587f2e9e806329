"""How far the roll-out of a Deployment is, by its own counts. Pure."""

from llm_operator.core.names import Manifest


def is_rolled_out(deployment: Manifest) -> bool:
    """Whether every replica is of the newest template and available, and no other pod is left."""
    status, declared = deployment.get("status", {}), deployment["spec"].get("replicas", 1)
    return is_observed(deployment) and all(
        status.get(count, 0) == declared for count in ("updatedReplicas", "replicas", "availableReplicas")
    )


def is_observed(deployment: Manifest) -> bool:
    """Whether the counts speak about the newest spec of the Deployment."""
    return bool(deployment.get("status", {}).get("observedGeneration", 0) >= deployment["metadata"]["generation"])


def has_timed_out(deployment: Manifest) -> bool:
    """Whether Kubernetes has seen no progress for `progressDeadlineSeconds`: it keeps that time, without us too."""
    conditions = deployment.get("status", {}).get("conditions", [])
    return is_observed(deployment) and any(
        one["type"] == "Progressing" and one.get("reason") == "ProgressDeadlineExceeded" for one in conditions
    )


def of_the_newest(count: str, deployment: Manifest | None) -> int:
    """A count of the newest template alone, given that the old pods are well; 0 until the counts speak about it."""
    if deployment is None or not is_observed(deployment):
        return 0
    counts = deployment.get("status", {})
    old = counts.get("replicas", 0) - counts.get("updatedReplicas", 0)
    return max(0, int(counts.get(count, 0) - old))
