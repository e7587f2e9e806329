"""Where in a pod's manifest it stands what a container does. Pure."""

from llm_operator.core import names
from llm_operator.core.names import Manifest

# Containers that this operator declares. Any other was injected by an admission webhook.
OURS = frozenset({names.SERVER_CONTAINER, names.FETCH_CONTAINER, names.PRUNE_CONTAINER})


def injected(pod: Manifest, container: Manifest, what: str) -> str:
    """What to tell of a container that somebody injected."""
    return (
        f"Pod {pod_name(pod)}: container {container['name']} {what}; it is not the LLMDeployment's, an admission "
        "webhook injected it: see to what does (`kubectl get mutatingwebhookconfigurations`)."
    )


def containers(pod: Manifest) -> list[Manifest]:
    """What the kubelet says of each container, init containers first."""
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def waits_for(container: Manifest) -> Manifest:
    """What a container waits for; empty where it does not wait."""
    waiting: Manifest = container.get("state", {}).get("waiting", {})
    return waiting


def last_exit(container: Manifest) -> Manifest | None:
    """How a container ended that is not ready; a finished init container is."""
    if container.get("ready"):
        return None
    ended: Manifest | None = container.get("state", {}).get("terminated") or container.get("lastState", {}).get(
        "terminated"
    )
    return ended


def see_logs(pod: Manifest, container: Manifest, *, previous: bool = True) -> str:
    """Where to read the container's log: of the run that ended (`previous`), or of the one that goes on."""
    several = len(pod["spec"].get("initContainers", [])) + len(pod["spec"]["containers"]) > 1
    which = f" -c {container['name']}" if several else ""
    before = " --previous" if previous else ""
    return f"See `kubectl logs -n {pod['metadata']['namespace']} {pod_name(pod)}{which}{before}`."


def memory_limit(pod: Manifest, container: str) -> str | None:
    """The container's memory limit as it stands in the manifest; None without one."""
    for one in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
        if one["name"] == container:
            limit = one.get("resources", {}).get("limits", {}).get("memory")
            return None if limit is None else str(limit)
    return None


def pod_name(pod: Manifest) -> str:
    """The pod's name."""
    return str(pod["metadata"]["name"])
