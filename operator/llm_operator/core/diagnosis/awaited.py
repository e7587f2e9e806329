"""What a pod without a fault waits for: usual while it starts, a cause once its time is over. Pure."""

from collections.abc import Callable, Iterable

from llm_operator.api.conditions import Cause, Reason
from llm_operator.core import names
from llm_operator.core.diagnosis.containers import OURS, containers, injected, pod_name, see_logs, waits_for
from llm_operator.core.diagnosis.fault import Fault, Proof
from llm_operator.core.live import has_ended, is_deleting, is_ready
from llm_operator.core.names import Manifest


def awaited(pods: Iterable[Manifest]) -> Fault | None:
    """What a pod without a fault is waiting for: usual while it starts, a cause once its time is over."""
    waiting = [pod for pod in pods if not (is_deleting(pod) or has_ended(pod) or is_ready(pod))]
    found = (check(pod, one) for pod in waiting for check in AWAITED for one in containers(pod))
    return next((fault for fault in found if fault is not None), None)


def _server_does_not_answer(pod: Manifest, container: Manifest) -> Fault | None:
    if container["name"] != names.SERVER_CONTAINER or not _runs_unready(container):
        return None
    probe = "readiness probe (GET /readyz)" if container.get("started") else "startup probe (GET /startupz)"
    cause = Cause(
        Reason.PROBE_TIMEOUT,
        f"Pod {pod_name(pod)}: container {container['name']} runs and does not answer its {probe}; give it more CPU in "
        "spec.resources, or time in spec.rollout.progressDeadlineSeconds.",
    )
    return Fault(cause, Proof.DOUBT, look=see_logs(pod, container, previous=False))


def _fetch_goes_on(pod: Manifest, container: Manifest) -> Fault | None:
    if container["name"] != names.FETCH_CONTAINER or not _runs_unready(container):
        return None
    cause = Cause(
        Reason.PROGRESS_DEADLINE_EXCEEDED,
        f"Pod {pod_name(pod)} still fetches its model; raise spec.rollout.progressDeadlineSeconds, or set spec.cache, "
        "so that it is fetched once.",
    )
    return Fault(cause, Proof.DOUBT, look=see_logs(pod, container, previous=False))


def _injected_not_ready(pod: Manifest, container: Manifest) -> Fault | None:
    if container["name"] in OURS or not _runs_unready(container):
        return None
    text = injected(pod, container, "runs and is not ready, and the pod waits for it")
    cause = Cause(Reason.INJECTED_CONTAINER_FAILING, text)
    return Fault(cause, Proof.DOUBT, look=see_logs(pod, container, previous=False))


def _not_yet_created(pod: Manifest, container: Manifest) -> Fault | None:
    reason = waits_for(container).get("reason")
    if reason not in ("ContainerCreating", "PodInitializing"):
        return None
    cause = Cause(
        Reason.PROGRESS_DEADLINE_EXCEEDED,
        f"Pod {pod_name(pod)}: container {container['name']} is not created yet ({reason}): a volume, the network of "
        "the pod or a large image is waited for.",
    )
    look = f"See `kubectl describe pod -n {pod['metadata']['namespace']} {pod_name(pod)}`."
    return Fault(cause, Proof.DOUBT, look=look)


def _runs_unready(container: Manifest) -> bool:
    return "running" in container.get("state", {}) and not container.get("ready")


AWAITED: tuple[Callable[[Manifest, Manifest], Fault | None], ...] = (
    _server_does_not_answer,
    _fetch_goes_on,
    _injected_not_ready,
    _not_yet_created,
)
