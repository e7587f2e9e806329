"""Whether a Lease may be taken or renewed, and what is written for it. Called by leader_election.py.

The rules are client-go's, so that `kubectl get lease` means what it means for every other controller. A holder
counts as gone only when its record has not changed for the whole duration on *our* monotonic clock: the times in the
record are for people, because the clocks of two machines need not agree.
"""

from dataclasses import dataclass
from datetime import datetime

from llm_operator.core.names import Manifest

API_VERSION = "coordination.k8s.io/v1"
RELEASED_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Candidate:
    """One process that wants the lease, and how long others are to wait for it once it is silent."""

    namespace: str
    name: str
    identity: str
    lease_seconds: int


@dataclass(frozen=True, slots=True)
class Sighting:
    """A record of the lease, and since when by our own clock it has been seen unchanged."""

    record: Manifest
    since: float

    @property
    def holder(self) -> str:
        """Identity of the holder; empty after a release."""
        return self.record.get("holderIdentity") or ""


def sight(lease: Manifest | None, before: Sighting | None, now: float) -> Sighting | None:
    """What is known of the lease after a read; None if it was never there.

    That the lease was deleted says nothing about its holder, who may write until its own deadline: so the last record
    goes on counting.
    """
    if lease is None:
        return before
    record = lease.get("spec") or {}
    return before if before is not None and before.record == record else Sighting(record, now)


def held_by_another(seen: Sighting | None, candidate: Candidate, now: float) -> bool:
    """Whether somebody else holds the lease and may still be alive."""
    if seen is None or seen.holder in ("", candidate.identity):
        return False
    return now < seen.since + (seen.record.get("leaseDurationSeconds") or candidate.lease_seconds)


def acquisition(
    lease: Manifest | None, seen: Sighting | None, candidate: Candidate, *, now: float, date: datetime
) -> Manifest | None:
    """The Lease to create (where there is none) or to replace so that the candidate holds it; None: it must wait."""
    if held_by_another(seen, candidate, now):
        return None
    base = _absent(candidate) if lease is None else lease
    before = base.get("spec") or {}
    record = {
        **before,
        "holderIdentity": candidate.identity,
        "leaseDurationSeconds": candidate.lease_seconds,
        "renewTime": _micro_time(date),
    }
    if before.get("holderIdentity") != candidate.identity:
        record["acquireTime"] = _micro_time(date)
        record["leaseTransitions"] = before.get("leaseTransitions", -1) + 1
    return {**base, "spec": record}


def release(lease: Manifest | None, candidate: Candidate, *, date: datetime) -> Manifest | None:
    """The Lease to replace so that nobody waits for the candidate; None if it does not hold it."""
    record = (lease or {}).get("spec") or {}
    if lease is None or record.get("holderIdentity") != candidate.identity:
        return None
    given_up = {"holderIdentity": "", "leaseDurationSeconds": RELEASED_SECONDS, "renewTime": _micro_time(date)}
    return {**lease, "spec": {**record, **given_up}}


def _absent(candidate: Candidate) -> Manifest:
    metadata = {"namespace": candidate.namespace, "name": candidate.name}
    return {"apiVersion": API_VERSION, "kind": "Lease", "metadata": metadata}


def _micro_time(date: datetime) -> str:
    """metav1.MicroTime: the API server takes exactly six digits."""
    return date.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
