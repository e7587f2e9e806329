"""What is known of a revision, and how it is written into the annotation of its record. Pure."""

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from llm_operator.api.conditions import Reason
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core.names import Manifest
from llm_operator.core.times import timestamp

# As conditions take it.
REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")

MESSAGE_LIMIT = 2048
REASON_LENGTH = 128


class State(StrEnum):
    """What is known of a revision. A fallback is never judged."""

    CANDIDATE = "Candidate"
    GOOD = "Good"
    REJECTED = "Rejected"
    FALLBACK = "Fallback"


@dataclass(frozen=True, slots=True)
class RolloutTerms:
    """What a verdict depended on besides the revision: how its pods are brought up, and how long they may take."""

    strategy: str
    deadline: int
    soak: int

    @classmethod
    def of(cls, spec: LLMDeploymentSpec) -> "RolloutTerms":
        """The terms that a spec sets."""
        rollout = spec.rollout
        return cls(rollout.strategy, rollout.progress_deadline_seconds, rollout.soak_seconds)

    def are_easier_than(self, old: "RolloutTerms") -> bool:
        """Whether a revision that failed on the old terms might do on these."""
        return self.strategy != old.strategy or self.deadline > old.deadline or self.soak < old.soak


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a revision, and how it came to be known.

    `started_at` is None while nothing of it is to run. `progress` is the most replicas that were ever available, or
    bytes that were ever fetched, since `progress_at`. `extended` says that its time was doubled, because good pods
    failed too when it was over. `rollbacks` are the times at which it was rejected in favour of a good one.
    `retry_token` and `terms` are those that the attempt knows of. `suffices` is how many available replicas are no
    fewer than served, or were asked for, when it began; `rollout` is what it was rejected on. `lacks_room` says that so
    many serve, and that nothing but room keeps the others from doing so.
    """

    state: State
    attempt: int = 1
    started_at: datetime | None = None
    progress: int = 0
    progress_at: datetime | None = None
    extended: bool = False
    decided_at: datetime | None = None
    reason: str = ""
    message: str = ""
    retry_token: str | None = None
    rollbacks: tuple[datetime, ...] = ()
    terms: str | None = None
    suffices: int | None = None
    rollout: RolloutTerms | None = None
    lacks_room: bool = False


def encode(verdict: Verdict) -> str:
    """The verdict as the text of the annotation."""
    fields = {
        "state": str(verdict.state),
        "attempt": verdict.attempt,
        "startedAt": _text(verdict.started_at),
        "progress": verdict.progress,
        "progressAt": _text(verdict.progress_at),
        "extended": verdict.extended,
        "decidedAt": _text(verdict.decided_at),
        "reason": verdict.reason,
        "message": verdict.message[:MESSAGE_LIMIT],
        "retryToken": verdict.retry_token,
        "rollbacks": [_text(one) for one in verdict.rollbacks],
        "terms": verdict.terms,
        "suffices": verdict.suffices,
        "rollout": None if verdict.rollout is None else asdict(verdict.rollout),
        "lacksRoom": verdict.lacks_room,
    }
    return json.dumps({key: value for key, value in fields.items() if value})


@lru_cache(maxsize=4096)
def decode(annotation: str | None) -> Verdict | None:
    """The verdict that an annotation holds, or None when it cannot be read: anybody may have edited it.

    What a newer operator called a revision, this one may not know. Then it is not good: better not tried than tried
    again. The reason for a rejection is told as it stands there.
    """
    try:
        fields = json.loads(annotation or "")
        state = _state(fields["state"])
        reason = _reason(fields.get("reason")) if state is State.REJECTED else ""
        return Verdict(
            state=state,
            attempt=max(1, _count(fields.get("attempt", 1))),
            started_at=parse_time(fields.get("startedAt")),
            progress=_count(fields.get("progress", 0)),
            progress_at=parse_time(fields.get("progressAt")),
            decided_at=parse_time(fields.get("decidedAt")),
            extended=fields.get("extended") is True,
            reason=reason,
            message=str(fields.get("message", "")),
            retry_token=_word(fields.get("retryToken")),
            rollbacks=tuple(_moment(one) for one in fields.get("rollbacks", [])),
            terms=_word(fields.get("terms")),
            suffices=_count(fields.get("suffices", 0)) or None,
            rollout=None if fields.get("rollout") is None else _rollout(fields["rollout"]),
            lacks_room=fields.get("lacksRoom") is True,
        )
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
        return None


def _word(value: Any) -> str | None:
    return str(value) if value else None


def _state(text: Any) -> State:
    known = {str(state): state for state in State}
    if not isinstance(text, str) or not text:
        raise ValueError(text)
    return known.get(text, State.REJECTED)


def _reason(text: Any) -> str:
    is_one = isinstance(text, str) and len(text) <= REASON_LENGTH and REASON.fullmatch(text)
    return text if is_one else str(Reason.REJECTED_EARLIER)


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)


def parse_time(text: str | None) -> datetime | None:
    """A time of metav1.Time. Raises ValueError for what is none."""
    return None if text is None else _moment(text)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    moment = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).astimezone(UTC)
    if not 1970 <= moment.year < 9000:  # Sums with it must not overflow.
        raise ValueError(text)
    return moment


def _rollout(fields: Manifest) -> RolloutTerms:
    return RolloutTerms(str(fields["strategy"]), _count(fields["deadline"]), _count(fields["soak"]))


def _count(value: Any) -> int:
    number = int(value)
    if not 0 <= number < 2**31:
        raise ValueError(value)
    return number
