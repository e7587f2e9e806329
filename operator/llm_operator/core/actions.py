"""What a decision may ask for, as plain values. Carried out by act.py."""

from dataclasses import dataclass, field

from llm_operator.api.conditions import Cause
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Accepted


@dataclass(frozen=True, slots=True)
class CreateRevision:
    """Create the ControllerRevision of a revision, with its first verdict."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class SetVerdict:
    """Write another verdict onto a ControllerRevision as it was read."""

    live: Manifest
    annotation: str
    # Set when the verdict says so for the first time: what the outcome is and why.
    outcome: Cause | None = None
    rejects: bool = False
    rolls_back: bool = False
    # The annotation that pins the model, when that is written with it.
    model: str | None = None


@dataclass(frozen=True, slots=True)
class SetAdmitted:
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
class DeleteRevision:
    """Delete a ControllerRevision as it was read: nothing needs it any more."""

    live: Manifest


@dataclass(frozen=True, slots=True)
class Create:
    """Create a claim, or a Job that works on one.

    `optional`: if it is refused nothing is wrong with the LLMDeployment, and the log is told.
    """

    manifest: Manifest
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Patch:
    """JSON patch of a claim or a fetch's Job as it was read: others may have a share in it."""

    live: Manifest
    operations: tuple[Manifest, ...]
    optional: bool = False
    # What somebody should look at, for the log.
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a Job: one that has ended, so that another try can have its name, or one that nobody needs any more."""

    live: Manifest


Action = CreateRevision | SetVerdict | SetAdmitted | Adopt | Apply | DeleteRevision | Create | Patch | Delete
