"""What the recorded revisions say together: which was good last, which to run, which may be forgotten. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from llm_operator.core.names import Manifest
from llm_operator.core.observation import Parent
from llm_operator.core.ownership import controls
from llm_operator.core.revisions.revision import Revision, decided, hash_in, parse_revision
from llm_operator.core.revisions.state import State

BUDGET_WINDOW = timedelta(hours=1)
# Besides those that something needs.
KEPT = 5


@dataclass(frozen=True, slots=True)
class History:
    """The revisions of one LLMDeployment, the oldest first."""

    revisions: tuple[Revision, ...]

    def get(self, name: str | None) -> Revision | None:
        """The revision of that name."""
        return next((one for one in self.revisions if one.hash == name), None)

    def last_good(self) -> Revision | None:
        """The revision that was proved good last."""
        good = [one for one in self.revisions if one.state is State.GOOD]
        return max(good, key=lambda one: (decided(one), one.number), default=None)

    def rejected(self) -> list[Revision]:
        """The revisions that are rejected, the newest first."""
        found = [one for one in self.revisions if one.state is State.REJECTED]
        return sorted(found, key=lambda one: (decided(one), one.number), reverse=True)

    def next_number(self) -> int:
        """A number that says of a new revision that it is the newest."""
        return max((one.number for one in self.revisions), default=0) + 1

    def rollbacks(self, now: datetime) -> list[datetime]:
        """When there were rollbacks within the last hour, the earliest first.

        A revision that is rendered anew takes them along, and those of the record before it count once.
        """
        counted = {
            (hash_in(one.hash), moment) for one in self.revisions for moment in recent(one.verdict.rollbacks, now)
        }
        return sorted(moment for _, moment in counted)

    def with_record(self, record: Manifest) -> "History":
        """The history as it will be read once this ControllerRevision has been written."""
        revision = parse_revision(record)
        assert revision is not None, "what is written can be read"
        others = [one for one in self.revisions if one.live["metadata"]["name"] != record["metadata"]["name"]]
        return _in_order([*others, revision])

    def superfluous(self, needed: Iterable[str | None], now: datetime) -> list[Revision]:
        """Revisions that may be forgotten: not needed, in no budget, and older than the few kept for people."""
        keep = set(needed)
        rest = [one for one in self.revisions if one.hash not in keep and not recent(one.verdict.rollbacks, now)]
        return rest[: max(0, len(rest) - KEPT)]


def read_history(parent: Parent, manifests: Iterable[Manifest]) -> History:
    """The history from ControllerRevisions; those of others, or on their way out, do not count."""
    own = [one for one in manifests if controls(parent, one) and "deletionTimestamp" not in one["metadata"]]
    revisions = [revision for revision in map(parse_revision, own) if revision is not None]
    return _in_order(revisions)


def _in_order(revisions: Iterable[Revision]) -> History:
    return History(tuple(sorted(revisions, key=lambda one: one.number)))


def recent(rollbacks: Iterable[datetime], now: datetime) -> tuple[datetime, ...]:
    """Those rollbacks that a budget still counts; nobody needs to know of the others."""
    return tuple(moment for moment in rollbacks if moment > now - BUDGET_WINDOW)
