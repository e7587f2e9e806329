"""A fault of pods, and how sure it is that the revision is to blame: proof or doubt."""

from dataclasses import dataclass
from enum import IntEnum

from llm_operator.api.conditions import Cause, Reason
from llm_operator.core.diagnosis.messages import with_note

# Room that somebody else may make or take at any time: they say nothing about the revision.
CAPACITY = frozenset({Reason.UNSCHEDULABLE, Reason.SCHEDULING_GATED, Reason.QUOTA_EXCEEDED})


class Proof(IntEnum):
    """How sure it is that the revision itself is at fault."""

    DOUBT = 0  # Time, a node or somebody else may heal it.
    STANDING = 1  # It is, once it has lasted a while.
    COUNTED = 2  # It is: the same happened often enough.


@dataclass(frozen=True, slots=True)
class Fault:
    """What keeps pods from becoming ready."""

    cause: Cause
    proof: Proof
    # When the exit happened that was counted last (RFC 3339 in UTC).
    last_exit: str | None = None
    # Where to read more, for as long as the pod is there.
    look: str = ""

    @property
    def told(self) -> Cause:
        """The cause while the pod is there."""
        return Cause(self.cause.reason, with_note(self.cause.message, self.look))

    @property
    def is_capacity(self) -> bool:
        """Whether all that lacks is room."""
        return self.cause.reason in CAPACITY
