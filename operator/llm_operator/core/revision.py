"""Revisions: what the user declared for the pods, the exact template it became, and what is known of it.

A revision is named by a hash of the user's fields, so that the same spec is the same revision for ever,
whichever operator looks. The rendered template is stored beside it and applied verbatim: an operator that
would render it otherwise restarts nothing. All of it lives in an owned ControllerRevision, the verdict in
one annotation of it; status only shows it.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any

from llm_operator.api.conditions import Reason
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names, quantity
from llm_operator.core.cached_model import CachedModel, pinned, waits
from llm_operator.core.cached_model import decode as decode_model
from llm_operator.core.cached_model import encode as encode_model
from llm_operator.core.children import build_pod_template, metadata
from llm_operator.core.model import Parent, Settings
from llm_operator.core.names import Manifest

# What shapes the pods. Not replicas, rollout and rollback: editing those makes no revision. A model, and the claim it
# is in, do so where there is one to be fetched.
REVISIONED = frozenset(
    {
        "mode",
        "image",
        "image_pull_policy",
        "image_pull_secrets",
        "resources",
        "node_selector",
        "tolerations",
        "affinity",
        "priority_class_name",
        "generation",
    }
)
HASH_LENGTH = 10
MESSAGE_LIMIT = 2048


class State(StrEnum):
    """What is known of a revision. A fallback is never judged."""

    CANDIDATE = "Candidate"
    GOOD = "Good"
    REJECTED = "Rejected"
    FALLBACK = "Fallback"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is known of a revision, and how it came to be known.

    `started_at` is None while nothing of it is to run. `progress` is the most replicas that were ever available,
    since `progress_at`. `extended` says that its time was doubled, because good pods failed too when it was over.
    `rollbacks` are the times at which it was rejected in favour of a good one.
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


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision as it is recorded (`live`), or as it is about to be (`live` without a resourceVersion)."""

    hash: str
    number: int
    fields: Manifest
    template: Manifest
    verdict: Verdict
    live: Manifest
    model: CachedModel | None = None

    @property
    def waits(self) -> bool:
        """Whether it cannot be applied before its model has been fetched."""
        return self.model is None and waits(self.template)

    @property
    def state(self) -> State:
        """Short for the verdict's state."""
        return self.verdict.state

    def judged(self, verdict: Verdict, model: CachedModel | None = None) -> "Revision":
        """The same revision with another verdict, and a model if one is given, as it will be once that is written."""
        annotations = {**self.live["metadata"].get("annotations", {}), names.VERDICT: encode(verdict)}
        if model is not None:
            annotations[names.MODEL] = encode_model(model)
        live = {**self.live, "metadata": {**self.live["metadata"], "annotations": annotations}}
        if model is None:
            return replace(self, verdict=verdict, live=live)
        return replace(self, verdict=verdict, live=live, model=model, template=pinned(self.template, model))


def revisioned_fields(spec: LLMDeploymentSpec) -> Manifest:
    """The part of a spec that makes a revision, in one form whichever way it was written.

    Defaults are left out, so that a field a later operator adds changes no hash.
    """
    included = set(REVISIONED) if spec.canonical_mode == "mock" else {*REVISIONED, "model"}
    fields = spec.model_dump(by_alias=True, include=included, exclude_none=True, exclude_defaults=True)
    if spec.used_cache is not None:
        # That there is a cache makes a difference, even if all of it is default.
        fields["cache"] = {"claimName": spec.used_cache.claim_name}
    fields["resources"] = {
        group: {name: quantity.canonical(amount) for name, amount in amounts.items()}
        for group, amounts in fields.get("resources", {}).items()
        if amounts
    }
    fields["generation"] = {
        name: quantity.canonical(value) if isinstance(value, str) else value
        for name, value in fields.get("generation", {}).items()
    }
    return {**{key: value for key, value in fields.items() if value not in ({}, [])}, "mode": spec.canonical_mode}


def hash_of(fields: Manifest, revisions: Iterable[Revision]) -> str:
    """The name of the revision with these fields; another one where a different revision already has it."""
    taken = {one.hash: one.fields for one in revisions}
    salt = 0
    while True:
        text = json.dumps([fields, salt] if salt else fields, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]
        # Of a revision whose record was lost and made anew the fields are not known.
        if taken.get(digest) in (None, {}, fields):
            return digest
        salt += 1


def new_revision(
    parent: Parent, spec: LLMDeploymentSpec, settings: Settings, *, name: str, number: int, verdict: Verdict
) -> Revision:
    """Render the pod template and put it into a ControllerRevision that is still to be created."""
    template = build_pod_template(parent.name, spec, settings, revision=name)
    return recorded(parent, revisioned_fields(spec), template, name=name, number=number, verdict=verdict)


def recorded(
    parent: Parent, fields: Manifest, template: Manifest, *, name: str, number: int, verdict: Verdict
) -> Revision:
    """A ControllerRevision with this template, still to be created."""
    manifest: Manifest = {
        "apiVersion": "apps/v1",
        "kind": "ControllerRevision",
        "metadata": {
            **metadata(parent, f"{parent.name}-{name}"),
            "annotations": {names.REVISION: name, names.VERDICT: encode(verdict)},
        },
        "revision": number,
        "data": {"fields": fields, "template": template},
    }
    return Revision(name, number, fields, template, verdict, manifest)


def parse_revision(live: Manifest) -> Revision | None:
    """A ControllerRevision as a value; None for one that was never ours or cannot be read.

    A verdict that cannot be read counts as an attempt that begins when the revision was made.
    """
    name = names.revision_of(live)
    data = live.get("data")
    if name is None or not isinstance(data, dict) or not isinstance(data.get("template"), dict):
        return None
    fields = data.get("fields")
    annotation = live["metadata"]["annotations"].get(names.VERDICT)
    model = decode_model(live["metadata"]["annotations"].get(names.MODEL))
    return Revision(
        hash=name,
        number=live.get("revision", 0),
        fields=fields if isinstance(fields, dict) else {},
        template=data["template"] if model is None else pinned(data["template"], model),
        model=model,
        verdict=decode(annotation)
        or Verdict(State.CANDIDATE, started_at=_time(live["metadata"].get("creationTimestamp"))),
        live=live,
    )


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
    }
    return json.dumps({key: value for key, value in fields.items() if value})


@lru_cache(maxsize=4096)
def decode(annotation: str | None) -> Verdict | None:
    """The verdict that an annotation holds, or None when it cannot be read: anybody may have edited it."""
    try:
        fields = json.loads(annotation or "")
        state = State(fields["state"])
        reason = Reason(fields["reason"]) if state is State.REJECTED else ""
        return Verdict(
            state=state,
            attempt=max(1, _count(fields.get("attempt", 1))),
            started_at=_time(fields.get("startedAt")),
            progress=_count(fields.get("progress", 0)),
            progress_at=_time(fields.get("progressAt")),
            decided_at=_time(fields.get("decidedAt")),
            extended=fields.get("extended") is True,
            reason=str(reason),
            message=str(fields.get("message", "")),
            retry_token=None if fields.get("retryToken") is None else str(fields["retryToken"]),
            rollbacks=tuple(_moment(one) for one in fields.get("rollbacks", [])),
        )
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
        return None


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with seconds, as metav1.Time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else timestamp(moment)


def _time(text: str | None) -> datetime | None:
    return None if text is None else _moment(text)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    moment = (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).astimezone(UTC)
    if not 1970 <= moment.year < 9000:  # Sums with it must not overflow.
        raise ValueError(text)
    return moment


def _count(value: Any) -> int:
    number = int(value)
    if not 0 <= number < 2**31:
        raise ValueError(value)
    return number
