"""The pods of one revision, and what keeps them from becoming ready. Pure."""

from dataclasses import replace

from llm_operator.api.conditions import Cause, Reason
from llm_operator.core import names
from llm_operator.core.diagnosis.fault import Fault, Proof
from llm_operator.core.diagnosis.messages import IT_SAYS, with_note
from llm_operator.core.diagnosis.pods import diagnose
from llm_operator.core.live import has_ended, is_deleting, is_ready
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Observation, Suspicion

# What a kubelet says once for a second, and then only that it waits before it pulls again.
PULL_PROOFS = (Reason.IMAGE_NOT_FOUND, Reason.IMAGE_PULL_DENIED)


def ready_pods(observation: Observation, revision: str) -> int:
    """How many pods of a revision are ready."""
    pods = pods_of(observation, revision)
    return sum(1 for pod in pods if is_ready(pod) and not is_deleting(pod) and not has_ended(pod))


def fault_of(observation: Observation, revision: str) -> Fault | None:
    """What keeps the pods of one revision from becoming ready."""
    fault = diagnose(pods_of(observation, revision), replica_sets_of(observation, revision))
    return _in_its_words(observation.suspicion, revision, _with_missing_secrets(observation, fault))


def _with_missing_secrets(observation: Observation, fault: Fault | None) -> Fault | None:
    missing = observation.missing_secrets
    if fault is None or not missing or fault.cause.reason != Reason.IMAGE_PULL_DENIED:
        return fault
    note = f"The kubelet did not find Secret {' and '.join(missing)}: create it."
    return replace(fault, cause=Cause(fault.cause.reason, with_note(fault.cause.message, note)))


def _in_its_words(suspicion: Suspicion | None, revision: str, fault: Fault | None) -> Fault | None:
    """The fault; while an older kubelet waits before it pulls again, and says nothing, what it said before."""
    if fault is None or suspicion is None or suspicion.revision != revision or suspicion.reason not in PULL_PROOFS:
        return fault
    says_nothing = fault.cause.reason == Reason.IMAGE_PULL_FAILED and IT_SAYS not in fault.cause.message
    return Fault(Cause(suspicion.reason, suspicion.message), Proof.STANDING) if says_nothing else fault


def pods_of(observation: Observation, revision: str) -> list[Manifest]:
    """The pods of one revision."""
    return [pod for pod in observation.pods if names.revision_of(pod) == revision]


def replica_sets_of(observation: Observation, revision: str) -> list[Manifest]:
    """The ReplicaSets of one revision."""
    return [one for one in observation.replica_sets if names.revision_of(one) == revision]


def waiting_pods(observation: Observation, revision: str) -> list[Manifest]:
    """The pods of one revision that are to become ready, and are not."""
    pods = pods_of(observation, revision)
    return [pod for pod in pods if not is_deleting(pod) and not has_ended(pod) and not is_ready(pod)]
