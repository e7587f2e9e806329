"""The plain values that decisions are made of: what was observed, and what is to be done."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from llm_operator.api.conditions import Finding
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core.admission import Admitted
from llm_operator.core.drift import Accepted
from llm_operator.core.names import Manifest


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


@dataclass(frozen=True, slots=True)
class Record:
    """Create the ControllerRevision of a revision, with its first verdict."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Judge:
    """Write another verdict onto a ControllerRevision as it was read."""

    live: Manifest
    annotation: str
    # Set when the verdict says so for the first time: what the outcome is and why.
    outcome: Finding | None = None
    rejects: bool = False
    rolls_back: bool = False
    # The annotation that pins the model, when that is written with it.
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Learn:
    """Write onto a ControllerRevision what admission makes of its Deployment."""

    live: Manifest
    annotation: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """Become the owner of what an earlier LLMDeployment of the name left behind."""

    live: Manifest
    operations: tuple[Manifest, ...]


@dataclass(frozen=True, slots=True)
class Apply:
    """Make one child what `manifest` declares, in one request; `live` is what was observed, None: create it.

    A change of what is there is the JSON patch `operations`; `accepted` is what admission is known to make of it.
    """

    manifest: Manifest
    live: Manifest | None
    # Path of the first field that is not as declared.
    path: str | None = None
    operations: tuple[Manifest, ...] = ()
    accepted: Accepted = field(default_factory=dict)
    # Whether it brings another revision: then it is not the repair of somebody else's edit.
    is_change: bool = False


@dataclass(frozen=True, slots=True)
class Forget:
    """Delete a ControllerRevision as it was read: nothing needs it any more."""

    live: Manifest


@dataclass(frozen=True, slots=True)
class Make:
    """Create a claim, or a Job that works on one.

    `optional`: if it is refused nothing is wrong with the LLMDeployment, and the log is told.
    """

    manifest: Manifest
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Amend:
    """JSON patch of a claim or a fetch's Job as it was read: others may have a share in it."""

    live: Manifest
    operations: tuple[Manifest, ...]
    optional: bool = False
    # What somebody should look at, for the log.
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Discard:
    """Delete a Job: one that has ended, so that another try can have its name, or one that nobody needs any more."""

    live: Manifest


Action = Record | Judge | Learn | Adopt | Apply | Forget | Make | Amend | Discard


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: actions, in order, and why nothing more can be done (`obstacle`)."""

    actions: tuple[Action, ...] = ()
    obstacle: Finding | None = None
    look_again_after: float | None = None
    suspicion: Suspicion | None = None

    def is_delicate(self, parent: Parent) -> bool:
        """Whether it must be made from live reads: it condemns a revision, undoes somebody's edit, or makes anew what
        was there before, and the LLMDeployment may be gone as well.
        """
        is_new = "conditions" not in parent.status
        return any(
            (isinstance(one, Judge) and one.rejects)
            or (isinstance(one, Apply) and not (one.live is None and is_new))
            or (isinstance(one, Make) and not is_new)
            or isinstance(one, (Adopt, Amend, Discard))
            for one in self.actions
        )
