"""Conditions of an LLMDeployment: their types, and every reason the operator can give.

Reasons are API: users match on them, docs/api.md is generated from them, and docs/troubleshooting.md has
an entry for each that asks somebody to act.
"""

from dataclasses import dataclass
from enum import StrEnum


class ConditionType(StrEnum):
    """Condition types; each tells one fact. All but Ready and Available are present only while true (kstatus)."""

    READY = "Ready"
    AVAILABLE = "Available"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    ROLLED_BACK = "RolledBack"
    DEGRADED = "Degraded"


class Reason(StrEnum):
    """Why a condition has its status, or why a revision was rejected."""

    ALL_REPLICAS_READY = "AllReplicasReady"
    SOME_REPLICAS_AVAILABLE = "ReplicasAvailable"
    NO_REPLICAS_AVAILABLE = "NoReplicasAvailable"
    SCALED_TO_ZERO = "ScaledToZero"
    ROLLING_OUT = "RollingOut"
    SOAKING = "Soaking"
    ROLLING_BACK = "RollingBack"

    ROLLED_BACK = "RolledBack"
    ROLLBACK_FAILED = "RollbackFailed"
    ROLLBACK_DISABLED = "RollbackDisabled"
    ROLLBACK_BUDGET_EXCEEDED = "RollbackBudgetExceeded"
    NO_KNOWN_GOOD_REVISION = "NoKnownGoodRevision"
    FALLBACK_SERVES = "FallbackServes"
    REPLICAS_UNAVAILABLE = "ReplicasUnavailable"
    INFRASTRUCTURE_SUSPECTED = "InfrastructureSuspected"

    INVALID_SPEC = "InvalidSpec"
    NAME_CONFLICT = "NameConflict"
    WAITING_FOR_DELETION = "WaitingForDeletion"
    APPLY_REFUSED = "ApplyRefused"
    DRIFT_NOT_REPAIRED = "DriftNotRepaired"

    INVALID_IMAGE_NAME = "InvalidImageName"
    IMAGE_NOT_FOUND = "ImageNotFound"
    IMAGE_PULL_DENIED = "ImagePullDenied"
    REGISTRY_UNAVAILABLE = "RegistryUnavailable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_CONFIG_ERROR = "ContainerConfigError"
    OOM_KILLED = "OOMKilled"
    CRASH_LOOP = "CrashLoop"
    PROBE_TIMEOUT = "ProbeTimeout"
    POD_EVICTED = "PodEvicted"
    UNSCHEDULABLE = "Unschedulable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_SECURITY_VIOLATION = "PodSecurityViolation"
    POD_CREATION_REFUSED = "PodCreationRefused"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"


MEANINGS: dict[Reason, str] = {
    Reason.ALL_REPLICAS_READY: "Every replica runs the declared revision, and it has been proved good.",
    Reason.SOME_REPLICAS_AVAILABLE: "At least one replica answers requests; the message names the revision.",
    Reason.NO_REPLICAS_AVAILABLE: "No replica answers requests.",
    Reason.SCALED_TO_ZERO: "`spec.replicas` is 0, so nothing runs and nothing answers.",
    Reason.ROLLING_OUT: "The declared revision is being brought up; no fault is known.",
    Reason.SOAKING: "The new replicas answer, and must go on doing so for `rollout.soakSeconds`.",
    Reason.ROLLING_BACK: "The declared revision was rejected; the last good one is being brought back.",
    Reason.ROLLED_BACK: "The declared revision was rejected and the last good one serves.",
    Reason.ROLLBACK_FAILED: "The declared revision was rejected, and the last good one does not come back either.",
    Reason.ROLLBACK_DISABLED: "The declared revision was rejected; `rollback.enabled` is false, so it stays.",
    Reason.ROLLBACK_BUDGET_EXCEEDED: "Too many rollbacks within an hour: the declared revision is not tried yet.",
    Reason.NO_KNOWN_GOOD_REVISION: "The declared revision was rejected, and none was ever proved good.",
    Reason.FALLBACK_SERVES: "The mock of `rollback.fallback` answers, because no revision was ever proved good.",
    Reason.REPLICAS_UNAVAILABLE: "Replicas of a revision that was good are missing; no fault is known.",
    Reason.INFRASTRUCTURE_SUSPECTED: "Pods of the good revision fail too, so the new one is not blamed yet.",
    Reason.INVALID_SPEC: "The stored spec is not valid for this operator; the message says what is allowed.",
    Reason.NAME_CONFLICT: "An object of the name that is needed belongs to somebody else and is left untouched.",
    Reason.WAITING_FOR_DELETION: "Objects of an earlier LLMDeployment of the same name are still being deleted.",
    Reason.APPLY_REFUSED: "The API server refused an object the operator wanted to write; its words follow.",
    Reason.DRIFT_NOT_REPAIRED: "Somebody else changes the same field again and again; the message names it.",
    Reason.INVALID_IMAGE_NAME: "The image reference cannot be parsed by the container runtime.",
    Reason.IMAGE_NOT_FOUND: "The registry has no such image, or the node must not pull and has none.",
    Reason.IMAGE_PULL_DENIED: "The registry refused the credentials, or asks for some.",
    Reason.REGISTRY_UNAVAILABLE: "The registry could not be reached, failed, or asked to come later.",
    Reason.IMAGE_PULL_FAILED: "The image could not be pulled, nobody knows why; the runtime's words follow.",
    Reason.CONTAINER_CONFIG_ERROR: "The container cannot be created, for example because a Secret is missing.",
    Reason.OOM_KILLED: "The container used more memory than its limit and was killed.",
    Reason.CRASH_LOOP: "The server exits instead of serving; the message holds its own last words.",
    Reason.PROBE_TIMEOUT: "The server runs but does not answer its probes in time.",
    Reason.POD_EVICTED: "The node put the pod out: it ran short of memory or disk, or is shutting down.",
    Reason.UNSCHEDULABLE: "No node can take the pod; the message holds the scheduler's words.",
    Reason.QUOTA_EXCEEDED: "A ResourceQuota of the namespace leaves no room for the pod.",
    Reason.POD_SECURITY_VIOLATION: "Pod Security admission of the namespace refuses the pod.",
    Reason.POD_CREATION_REFUSED: "Admission refuses the pods: a limit range, a missing priority class, a policy.",
    Reason.PROGRESS_DEADLINE_EXCEEDED: "The replicas did not become available in time, and no fault is known.",
}

# Nothing is wrong and nobody needs to do anything. Every other reason has an entry in docs/troubleshooting.md.
FINE = frozenset(
    {
        Reason.ALL_REPLICAS_READY,
        Reason.SOME_REPLICAS_AVAILABLE,
        Reason.SCALED_TO_ZERO,
        Reason.ROLLING_OUT,
        Reason.SOAKING,
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact with its reason and a message that ends in a remedy where one is known."""

    reason: Reason
    message: str
