"""Conditions of an LLMDeployment: their types, and every reason the operator can give.

Reasons are API: users match on them, docs/api.md is generated from them, and docs/troubleshooting.md has
an entry for each that asks somebody to act.
"""

from dataclasses import dataclass
from enum import StrEnum


class ConditionType(StrEnum):
    """Condition types; each tells one fact. Ready and Available are always present, ModelCached where there
    is a cache, the others only while true (kstatus).
    """

    READY = "Ready"
    AVAILABLE = "Available"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    MODEL_CACHED = "ModelCached"
    ROLLED_BACK = "RolledBack"
    DEGRADED = "Degraded"


CONDITIONS: dict[ConditionType, str] = {
    ConditionType.READY: "Every replica runs the declared spec and answers. Always present; its reason is the REASON "
    "column.",
    ConditionType.AVAILABLE: "At least one replica answers requests, whichever spec it runs. Always present.",
    ConditionType.RECONCILING: "The operator is bringing the declared spec up. Present only while true.",
    ConditionType.STALLED: "Nothing but a change by somebody helps; the message says which. Present only while true.",
    ConditionType.MODEL_CACHED: "Whether the model of the declared revision is in the cache, whole and checked. "
    "Present where `spec.cache` is used.",
    ConditionType.ROLLED_BACK: "Another revision runs in place of the declared one, which was rejected for this "
    "reason. Present only while true.",
    ConditionType.DEGRADED: "What runs is not as it should be: a good revision fails, a rollback failed, the mock "
    "stands in, or the infrastructure is suspected. Present only while true.",
}


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
    APPLY_FAILING = "ApplyFailing"
    DRIFT_NOT_REPAIRED = "DriftNotRepaired"
    CHANGED_BY_ADMISSION = "ChangedByAdmission"
    EDIT_REVERTED = "EditReverted"

    INVALID_IMAGE_NAME = "InvalidImageName"
    IMAGE_NOT_FOUND = "ImageNotFound"
    IMAGE_PULL_DENIED = "ImagePullDenied"
    REGISTRY_UNAVAILABLE = "RegistryUnavailable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    CONTAINER_CONFIG_ERROR = "ContainerConfigError"
    CONTAINER_RUNTIME_ERROR = "ContainerRuntimeError"
    INJECTED_CONTAINER_FAILING = "InjectedContainerFailing"
    OOM_KILLED = "OOMKilled"
    CRASH_LOOP = "CrashLoop"
    PROBE_TIMEOUT = "ProbeTimeout"
    POD_EVICTED = "PodEvicted"
    UNSCHEDULABLE = "Unschedulable"
    SCHEDULING_GATED = "SchedulingGated"
    QUOTA_EXCEEDED = "QuotaExceeded"
    POD_SECURITY_VIOLATION = "PodSecurityViolation"
    POD_CREATION_REFUSED = "PodCreationRefused"
    POD_CREATION_FAILED = "PodCreationFailed"
    WEBHOOK_UNAVAILABLE = "WebhookUnavailable"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    REJECTED_EARLIER = "RejectedEarlier"

    MODEL_READY = "ModelReady"
    MODEL_FETCHING = "ModelFetching"
    CLAIM_PENDING = "ClaimPending"
    CLAIM_LOST = "ClaimLost"
    MEMORY_LIMIT_TOO_SMALL = "MemoryLimitTooSmall"
    # The server's own words for why a fetch failed: docs/model-cache.md.
    TOKEN_MISSING = "TokenMissing"  # noqa: S105 - a reason, not a secret
    TOKEN_INVALID = "TokenInvalid"  # noqa: S105
    REPOSITORY_GATED = "RepositoryGated"
    ACCESS_DENIED = "AccessDenied"
    REPOSITORY_NOT_FOUND = "RepositoryNotFound"
    REVISION_NOT_FOUND = "RevisionNotFound"
    MODEL_NOT_SUPPORTED = "ModelNotSupported"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    TLS_FAILED = "TlsFailed"
    ENDPOINT_INVALID = "EndpointInvalid"
    CACHE_NOT_WRITABLE = "CacheNotWritable"
    NO_SPACE = "NoSpace"
    OUT_OF_MEMORY = "OutOfMemory"
    OFFLINE_MODE = "OfflineMode"
    HUB_CLIENT_MISSING = "HubClientMissing"
    RATE_LIMITED = "RateLimited"
    NETWORK_UNREACHABLE = "NetworkUnreachable"
    HOST_NOT_FOUND = "HostNotFound"
    ENDPOINT_UNAVAILABLE = "EndpointUnavailable"
    DOWNLOAD_STALLED = "DownloadStalled"
    STORAGE_FAILED = "StorageFailed"
    FETCH_INTERRUPTED = "FetchInterrupted"
    NO_SPACE_YET = "NoSpaceYet"
    FETCH_FAILED = "FetchFailed"
    MODE_NOT_SUPPORTED = "ModeNotSupported"
    INVALID_SETTINGS = "InvalidSettings"


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
    Reason.APPLY_FAILING: "An object cannot be written for now: a webhook or the API server fails; its words follow.",
    Reason.DRIFT_NOT_REPAIRED: "Somebody else changes the same field again and again; the message names it.",
    Reason.CHANGED_BY_ADMISSION: "An event: a webhook or policy set fields of a child otherwise; that is accepted.",
    Reason.EDIT_REVERTED: "Somebody edited a child by hand, which was put back (an event, and `status.reverted`).",
    Reason.INVALID_IMAGE_NAME: "The image reference cannot be parsed by the container runtime.",
    Reason.IMAGE_NOT_FOUND: "The registry has no such image, or the node must not pull and has none.",
    Reason.IMAGE_PULL_DENIED: "The registry refused the credentials, or asks for some.",
    Reason.REGISTRY_UNAVAILABLE: "The registry could not be reached, failed, or asked to come later.",
    Reason.IMAGE_PULL_FAILED: "The image could not be pulled, nobody knows why; the runtime's words follow.",
    Reason.CONTAINER_CONFIG_ERROR: "The container cannot be created, for example because a Secret is missing.",
    Reason.CONTAINER_RUNTIME_ERROR: "The node cannot create the container now: its runtime or a driver fails.",
    Reason.INJECTED_CONTAINER_FAILING: "A container that an admission webhook injected fails, or is not ready.",
    Reason.OOM_KILLED: "The container used more memory than its limit and was killed.",
    Reason.CRASH_LOOP: "The server exits instead of serving; the message holds its own last words.",
    Reason.PROBE_TIMEOUT: "The server runs but does not answer its probes in time.",
    Reason.POD_EVICTED: "The node put the pod out: it ran short of memory or disk, or is shutting down.",
    Reason.UNSCHEDULABLE: "No node can take the pod; the message holds the scheduler's words.",
    Reason.SCHEDULING_GATED: "Scheduling gates that somebody set keep the pod from being scheduled.",
    Reason.QUOTA_EXCEEDED: "A ResourceQuota of the namespace leaves no room for the pod.",
    Reason.POD_SECURITY_VIOLATION: "Pod Security admission of the namespace refuses the pod.",
    Reason.POD_CREATION_REFUSED: "Admission refuses the pods: a limit range, a policy, a webhook that says no.",
    Reason.POD_CREATION_FAILED: "The pods cannot be created now: something that they name is not there, or the API "
    "server fails.",
    Reason.WEBHOOK_UNAVAILABLE: "An admission webhook that every pod has to pass does not work.",
    Reason.PROGRESS_DEADLINE_EXCEEDED: "The replicas did not become available in time, and no fault is known.",
    Reason.REJECTED_EARLIER: "The revision is recorded as rejected, and the record does not say why.",
    Reason.MODEL_READY: "The model is in the cache, whole and checked.",
    Reason.MODEL_FETCHING: "The model is being fetched into the cache; servers of the new revision start after that.",
    Reason.CLAIM_PENDING: "The claim of the cache has no volume yet.",
    Reason.CLAIM_LOST: "The claim of the cache lost its volume, is being deleted, or is not the one of before.",
    Reason.MEMORY_LIMIT_TOO_SMALL: "`resources.limits.memory` cannot hold the model; the message says what would.",
    Reason.TOKEN_MISSING: "The Hub has no such repository, or it is not public and there is no token.",
    Reason.TOKEN_INVALID: "The Hub does not accept the token.",
    Reason.REPOSITORY_GATED: "The account of the token has not been granted access to a gated repository.",
    Reason.ACCESS_DENIED: "The Hub denies access to the repository.",
    Reason.REPOSITORY_NOT_FOUND: "The Hub has no such repository that the token may see.",
    Reason.REVISION_NOT_FOUND: "The repository has no such branch, tag or commit.",
    Reason.MODEL_NOT_SUPPORTED: "The server cannot run such a model: another architecture, a variant that it does not "
    "know, no safetensors files, or files are missing.",
    Reason.CHECKSUM_MISMATCH: "A file of the model arrived damaged again and again.",
    Reason.TLS_FAILED: "The certificate of the Hub's address is not trusted, or it does not speak TLS.",
    Reason.ENDPOINT_INVALID: "What answers at `model.endpoint` is no Hub.",
    Reason.CACHE_NOT_WRITABLE: "The fetch cannot write to the volume of the cache.",
    Reason.NO_SPACE: "The volume of the cache has too little room for the model.",
    Reason.OUT_OF_MEMORY: "The transfer of the model was killed, most likely for its memory.",
    Reason.OFFLINE_MODE: "`HF_HUB_OFFLINE` is set for the fetch, and the model is not in the cache.",
    Reason.HUB_CLIENT_MISSING: "The image cannot fetch: it lacks the package huggingface_hub.",
    Reason.RATE_LIMITED: "The Hub asks to come later, for longer or more often than the fetch waits.",
    Reason.NETWORK_UNREACHABLE: "There is no connection to the Hub, or it breaks.",
    Reason.HOST_NOT_FOUND: "The name of the Hub's address cannot be resolved.",
    Reason.ENDPOINT_UNAVAILABLE: "The Hub fails (5xx).",
    Reason.DOWNLOAD_STALLED: "The transfer of the model stood still, several times.",
    Reason.STORAGE_FAILED: "The volume of the cache failed, or was too slow for too long.",
    Reason.FETCH_INTERRUPTED: "A signal ended the fetch; it begins again.",
    Reason.NO_SPACE_YET: "The volume of the cache has too little room while other fetches into it are at work.",
    Reason.FETCH_FAILED: "The fetch ended in an unforeseen way; its log says where.",
    Reason.MODE_NOT_SUPPORTED: "The image cannot run the mode: it lacks the model's libraries. Nothing was fetched.",
    Reason.INVALID_SETTINGS: "The fetch does not take a setting; the message names it.",
}

# Nothing is wrong and nobody needs to do anything. Every other reason has an entry in docs/troubleshooting.md.
FINE = frozenset(
    {
        Reason.ALL_REPLICAS_READY,
        Reason.SOME_REPLICAS_AVAILABLE,
        Reason.SCALED_TO_ZERO,
        Reason.ROLLING_OUT,
        Reason.SOAKING,
        Reason.MODEL_READY,
        Reason.MODEL_FETCHING,
    }
)

# What a fetch may give as its reason, by inference_server/fetch/failures.py; anything else in its last words is not
# believed. (A test holds both lists together.)
FETCH_REASONS = frozenset(
    {
        Reason.TOKEN_MISSING,
        Reason.TOKEN_INVALID,
        Reason.REPOSITORY_GATED,
        Reason.ACCESS_DENIED,
        Reason.REPOSITORY_NOT_FOUND,
        Reason.REVISION_NOT_FOUND,
        Reason.MODEL_NOT_SUPPORTED,
        Reason.CHECKSUM_MISMATCH,
        Reason.TLS_FAILED,
        Reason.ENDPOINT_INVALID,
        Reason.CACHE_NOT_WRITABLE,
        Reason.NO_SPACE,
        Reason.OUT_OF_MEMORY,
        Reason.OFFLINE_MODE,
        Reason.HUB_CLIENT_MISSING,
        Reason.RATE_LIMITED,
        Reason.NETWORK_UNREACHABLE,
        Reason.HOST_NOT_FOUND,
        Reason.ENDPOINT_UNAVAILABLE,
        Reason.DOWNLOAD_STALLED,
        Reason.STORAGE_FAILED,
        Reason.FETCH_INTERRUPTED,
        Reason.NO_SPACE_YET,
        Reason.FETCH_FAILED,
        Reason.MODE_NOT_SUPPORTED,
        Reason.INVALID_SETTINGS,
    }
)


@dataclass(frozen=True, slots=True)
class Cause:
    """A fact with its reason and a message that ends in a remedy where one is known.

    The reason is a `Reason`, but for what a newer operator recorded, which is passed on.
    """

    reason: str
    message: str
