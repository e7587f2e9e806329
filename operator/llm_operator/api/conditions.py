"""Conditions of an LLMDeployment: their types, and every reason the operator can give.

Reasons are API: users match on them, docs/api.md is generated from them.
"""

from dataclasses import dataclass
from enum import StrEnum


class ConditionType(StrEnum):
    """Condition types; each tells one fact. Reconciling and Stalled are present only while true (kstatus)."""

    READY = "Ready"
    AVAILABLE = "Available"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class Reason(StrEnum):
    """Why a condition has its status. The text after each is the meaning shown in the docs."""

    ALL_REPLICAS_READY = "AllReplicasReady"
    SOME_REPLICAS_AVAILABLE = "ReplicasAvailable"
    NO_REPLICAS_AVAILABLE = "NoReplicasAvailable"
    SCALED_TO_ZERO = "ScaledToZero"
    ROLLING_OUT = "RollingOut"
    INVALID_SPEC = "InvalidSpec"
    NAME_CONFLICT = "NameConflict"
    WAITING_FOR_DELETION = "WaitingForDeletion"
    APPLY_REFUSED = "ApplyRefused"
    DRIFT_NOT_REPAIRED = "DriftNotRepaired"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    INVALID_IMAGE_NAME = "InvalidImageName"
    CONTAINER_CONFIG_ERROR = "ContainerConfigError"
    OOM_KILLED = "OOMKilled"
    CRASH_LOOP = "CrashLoop"
    UNSCHEDULABLE = "Unschedulable"
    POD_CREATION_REFUSED = "PodCreationRefused"


MEANINGS: dict[Reason, str] = {
    Reason.ALL_REPLICAS_READY: "Every replica runs the declared spec and answers its readiness probe.",
    Reason.SOME_REPLICAS_AVAILABLE: "At least one replica answers requests.",
    Reason.NO_REPLICAS_AVAILABLE: "No replica answers requests.",
    Reason.SCALED_TO_ZERO: "`spec.replicas` is 0, so nothing runs and nothing answers.",
    Reason.ROLLING_OUT: "The declared spec is being brought up; no fault is known.",
    Reason.INVALID_SPEC: "The stored spec is not valid for this operator; the message says what is allowed.",
    Reason.NAME_CONFLICT: "A Deployment or Service of this name belongs to somebody else and is left untouched.",
    Reason.WAITING_FOR_DELETION: "Objects of an earlier LLMDeployment of the same name are still being deleted.",
    Reason.APPLY_REFUSED: "The API server refused an object the operator wanted to write; its words follow.",
    Reason.DRIFT_NOT_REPAIRED: "Somebody else changes the same field again and again; the message names it.",
    Reason.IMAGE_PULL_FAILED: "The image could not be pulled; the message holds the registry's answer.",
    Reason.INVALID_IMAGE_NAME: "The image reference cannot be parsed by the container runtime.",
    Reason.CONTAINER_CONFIG_ERROR: "The container cannot be created, for example because a Secret is missing.",
    Reason.OOM_KILLED: "The container used more memory than its limit and was killed.",
    Reason.CRASH_LOOP: "The server exited instead of serving; the message holds its own last words.",
    Reason.UNSCHEDULABLE: "No node can take the pod; the message holds the scheduler's words.",
    Reason.POD_CREATION_REFUSED: "Pods are refused by admission: quota, limit range or pod security.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A fact with its reason and a message that ends in a remedy where one is known."""

    reason: Reason
    message: str
