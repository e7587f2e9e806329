"""What one decision may look at, as plain values. Read by observe.py; nothing here does anything."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core.names import Manifest

# Differences of a child that admission made and that are accepted: by path the digests of both values.
Accepted = Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Admitted:
    """What admission made of the last write of a child; of a Deployment that of one revision."""

    revision: str | None
    accepted: Accepted


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator was installed with and decisions depend on."""

    server_image: str
    # How long a fault that carries no count of its own must last before it is a proof.
    confirm_seconds: float = 10.0
    # How fetches get out of the cluster's network; empty where nothing is needed.
    fetch_https_proxy: str = ""
    fetch_no_proxy: str = ""
    fetch_ca_config_map: str = ""


@dataclass(frozen=True, slots=True)
class InvalidSpec:
    """A stored spec that this operator cannot read; `problems` says why, one sentence each."""

    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parent:
    """An LLMDeployment as it was read."""

    name: str
    namespace: str
    uid: str
    generation: int
    resource_version: str
    spec: LLMDeploymentSpec | InvalidSpec
    status: Manifest
    deleting: bool = False
    adopts: bool = False


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A fault that would condemn a revision if it lasts: which one, of which attempt, and since when it is seen."""

    revision: str
    attempt: int
    reason: str
    since: datetime
    # Its words: a kubelet that waits before it tries again may say nothing.
    message: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch is, in bytes."""

    done: int
    total: int

    @property
    def percent(self) -> int:
        """Whole percent; 100 only at the end."""
        return self.done * 100 // self.total


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """What besides its own LLMDeployment a claim may be used for.

    `specs` are those of the other LLMDeployments of the namespace, as they are stored; `revisions` and `jobs` all
    ControllerRevisions and Jobs of this operator in the namespace, whoever they belong to.
    """

    specs: tuple[Manifest, ...]
    revisions: tuple[Manifest, ...]
    jobs: tuple[Manifest, ...]


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything one decision may look at.

    `pods` are those of the Deployment of its name, `revisions` the ControllerRevisions with its labels.
    `claim`, the Job `fetch` and its pods are those of the declared cache and model; `others_keep_claim` says that
    another LLMDeployment wants the claim kept, and `other_fetches` are Jobs that the parent owns and no longer
    declares. `fetch_progress` is what the log of the fetch at work said last; it `is_heard` while that can be read.
    `fetch_events` are those of the Job, read only where it has no pod for a while, `neighbourhood` only where models
    may be pruned, `replica_sets` only when the Deployment says that pods are refused, `missing_secrets` only where a
    pull is denied. `admitted` is what admission made of the last write of a child, by its kind, as far as this process
    has seen one. `now` is the API server's time, and since `contact_since` it has answered without a long break.
    """

    parent: Parent
    deployment: Manifest | None
    service: Manifest | None
    pods: tuple[Manifest, ...]
    revisions: tuple[Manifest, ...]
    now: datetime
    contact_since: datetime
    replica_sets: tuple[Manifest, ...] = ()
    missing_secrets: tuple[str, ...] = ()
    suspicion: Suspicion | None = None
    claim: Manifest | None = None
    others_keep_claim: bool = False
    fetch: Manifest | None = None
    fetch_pods: tuple[Manifest, ...] = ()
    fetch_progress: Progress | None = None
    fetch_is_heard: bool = False
    fetch_events: tuple[Manifest, ...] = ()
    other_fetches: tuple[Manifest, ...] = ()
    neighbourhood: Neighbourhood | None = None
    admitted: Mapping[str, Admitted] = field(default_factory=dict)
