"""What the user is told: the status of an LLMDeployment from what was observed. Pure.

Each condition tells one fact and is found by its own ordered list of checks. Ready and Available are always
present, the others only while true, so that kstatus (Flux, Argo CD, Helm) reads them rightly: a change that
was rolled back is Stalled, not in progress for ever.
"""

from datetime import datetime, timedelta
from typing import get_args

from llm_operator.api.conditions import Cause, ConditionType, Reason
from llm_operator.api.types import Mode, Model
from llm_operator.core import names
from llm_operator.core.derived import Derived
from llm_operator.core.diagnosis.messages import brief, says_the_same
from llm_operator.core.diagnosis.revision_pods import fault_of
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Observation
from llm_operator.core.ownership import controls
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import State
from llm_operator.core.revisions.verdict import good_pods_fail
from llm_operator.core.status.hand_edits import HandEdit
from llm_operator.core.status.model_cached import cache_status, model_cached, with_the_size
from llm_operator.core.status.readiness import TRY_AGAIN, readiness
from llm_operator.core.status.view import View, view_of
from llm_operator.core.times import timestamp

# Nothing but a change by somebody makes these go away.
STALLED = frozenset(
    {
        Reason.INVALID_SPEC,
        Reason.NAME_CONFLICT,
        Reason.APPLY_REFUSED,
        Reason.DRIFT_NOT_REPAIRED,
        Reason.ROLLED_BACK,
        Reason.ROLLBACK_FAILED,
        Reason.ROLLBACK_BUDGET_EXCEEDED,
    }
)
COMING_UP = frozenset({Reason.ROLLING_OUT, Reason.SOAKING, Reason.MODEL_FETCHING, Reason.CLAIM_PENDING})
READY = frozenset({Reason.ALL_REPLICAS_READY, Reason.SCALED_TO_ZERO})
REJECTED_SHOWN = 5
MESSAGE_SHOWN = 4096
# Of a pipeline gone wild more revisions than these may answer at once.
SERVING_SHOWN = 4
REVERTED_TOLD = timedelta(hours=1)


def build_status(
    observation: Observation, obstacle: Cause | None, edit: HandEdit | None = None, derived: Derived | None = None
) -> Manifest:
    """The whole status; equal to the stored one when nothing worth telling changed.

    `edit` is what was put back in this pass; `derived` what the planner found, if the observation is still the same.
    """
    parent = observation.parent
    view = view_of(observation, obstacle, derived)
    counts = view.counts
    status: Manifest = {
        "observedGeneration": parent.generation,
        "replicas": counts.get("replicas", 0),
        "readyReplicas": counts.get("readyReplicas", 0),
        "selector": names.selector_string(parent.name),
        "conditions": _conditions(view),
        **_revisions(view),
    }
    others = (("model", _model(view)), ("cache", cache_status(view)), ("reverted", _reverted(observation, edit)))
    status |= {key: told for key, told in others if told is not None}
    status |= _serving(view)
    if observation.service is not None and controls(parent, observation.service):
        status["url"] = names.url(parent.name, parent.namespace)
    return status


def is_news(old: Manifest, new: Manifest) -> bool:
    """Whether a status tells more than other counts and words: a condition, its reason, a revision, a generation.

    That a new object is being brought up is none.
    """

    def told(status: Manifest) -> Manifest:
        facts = {key: value for key, value in status.items() if key not in ("replicas", "readyReplicas", "cache")}
        facts["cache"] = status.get("cache", {}).get("phase")
        seen = [{key: one.get(key) for key in ("type", "status", "reason")} for one in status.get("conditions", [])]
        return {**facts, "conditions": seen}

    if "conditions" not in old:
        return not any(one["reason"] in COMING_UP for one in new["conditions"] if one["type"] == ConditionType.READY)
    return told(old) != told(new)


def _reverted(observation: Observation, edit: HandEdit | None) -> Manifest | None:
    """What was put back; told for an hour, or until the LLMDeployment is edited."""
    parent, now = observation.parent, observation.now
    if edit is not None:
        return {
            "field": edit.field,
            "object": f"{edit.kind} {edit.name}",
            "manager": edit.manager[:128],
            "time": timestamp(now),
            "observedGeneration": parent.generation,
            "message": edit.message,
        }
    told: Manifest | None = parent.status.get("reverted")
    if told is None or told["observedGeneration"] != parent.generation:
        return None
    return told if now - datetime.fromisoformat(told["time"]) < REVERTED_TOLD else None


def _model(view: View) -> Manifest | None:
    """The model of what runs; until something does, of what is declared."""
    if view.target is None:
        return None
    revision = view.target.history.get(view.target.active) or view.declared
    if revision is None or revision.values.get("mode") != "qwen":
        return None
    model = Model.model_validate(revision.values.get("model", {}))
    commit = {} if revision.model is None else {"commit": revision.model.commit}
    return {"repository": model.repository, "revision": model.revision, **commit}


def _revisions(view: View) -> Manifest:
    if view.target is None:
        return {}
    target = view.target
    last_good = None if target.last_good is None else target.last_good.hash
    found = {"desiredRevision": target.desired, "activeRevision": target.active, "lastKnownGoodRevision": last_good}
    rejected = [_rejected(one) for one in target.history.rejected()[:REJECTED_SHOWN]]
    return {**{key: value for key, value in found.items() if value is not None}, "rejected": rejected}


def _rejected(revision: Revision) -> Manifest:
    verdict = revision.verdict
    return {
        "revision": revision.hash,
        "reason": verdict.reason,
        "message": verdict.message[:MESSAGE_SHOWN],
        "attempts": verdict.attempt,
        "rejectedAt": timestamp(verdict.decided_at) if verdict.decided_at is not None else "1970-01-01T00:00:00Z",
    }


def _availability(view: View) -> Cause:
    answering = view.counts.get("readyReplicas", 0)
    if answering:
        of = view.answering
        which = f" of revision {' and '.join(of)}" if of else ""
        return Cause(Reason.SOME_REPLICAS_AVAILABLE, f"{answering} replicas{which} answer requests.")
    if view.deployment is not None and view.replicas == 0:
        return Cause(Reason.SCALED_TO_ZERO, "spec.replicas is 0: nothing answers requests.")
    return Cause(Reason.NO_REPLICAS_AVAILABLE, "No replica answers requests.")


def _stalled(view: View, ready: Cause) -> Cause | None:
    rejected = view.rejected
    if ready.reason in STALLED:
        if rejected is None:
            return ready
        return Cause(ready.reason, brief(ready.message.removesuffix(rejected.verdict.message).rstrip()))
    if rejected is None or view.replaced_by is not None or view.spec is None:
        return None
    if not view.spec.rollback.enabled:
        stays = f"Revision {rejected.hash} stays although it was rejected"
        return Cause(Reason.ROLLBACK_DISABLED, f"{stays}; {TRY_AGAIN}.")
    after = "" if rejected.needs_model else " It stays applied, and is good once its replicas are available."
    return Cause(
        Reason.NO_KNOWN_GOOD_REVISION,
        f"Revision {rejected.hash} was rejected, and there is none to go back to; {TRY_AGAIN}.{after}",
    )


def _rolled_back(view: View) -> Cause | None:
    rejected, revision = view.rejected, view.replaced_by
    if rejected is None or revision is None or not view.replacement_is_there:
        return None
    return Cause(
        rejected.verdict.reason,
        f"Revision {revision.hash} runs in place of {rejected.hash}. {brief(rejected.verdict.message)}",
    )


def _degraded(view: View, ready: Cause) -> Cause | None:
    revision = None if view.target is None else view.target.revision
    if ready.reason is Reason.ROLLBACK_FAILED:
        return ready
    if revision is None or view.target is None:
        return None
    if revision.state is State.FALLBACK and view.replacement_is_there:
        return Cause(
            Reason.FALLBACK_SERVES,
            f"Revision {revision.hash} answers every request with fixed text (rollback.fallback).",
        )
    if revision.state is State.CANDIDATE:
        return _infrastructure(view)
    return _good_one_fails(view, revision) if revision.state is State.GOOD else None


def _infrastructure(view: View) -> Cause | None:
    last_good = None if view.target is None else view.target.last_good
    if last_good is None or view.is_up or not good_pods_fail(view.observation, last_good):
        return None
    fault = fault_of(view.observation, last_good.hash)
    own_words = "" if fault is None else f" {fault.told.message}"
    return Cause(
        Reason.INFRASTRUCTURE_SUSPECTED,
        f"Pods of the good revision {last_good.hash} fail too: see to nodes, storage and network.{own_words}",
    )


def _good_one_fails(view: View, revision: Revision) -> Cause | None:
    if view.is_up or not view.replicas:
        return None
    fault = fault_of(view.observation, revision.hash)
    if fault is not None:
        return fault.told
    was = {one.get("type"): one.get("status") for one in view.observation.parent.status.get("conditions", [])}
    if view.counts.get("readyReplicas", 0) or "True" not in (was.get("Available"), was.get("Degraded")):
        return None
    return Cause(Reason.REPLICAS_UNAVAILABLE, f"Revision {revision.hash} was good; now none of its replicas answers.")


def _conditions(view: View) -> list[Manifest]:
    ready, available = readiness(view), _availability(view)
    told: dict[ConditionType, tuple[bool, Cause]] = {
        ConditionType.READY: (ready.reason in READY, ready),
        ConditionType.AVAILABLE: (available.reason is Reason.SOME_REPLICAS_AVAILABLE, available),
    }
    cached = model_cached(view)
    if cached is not None:
        told[ConditionType.MODEL_CACHED] = (cached.reason is Reason.MODEL_READY, with_the_size(view, cached))
    stalled = _stalled(view, ready)
    others = {
        ConditionType.STALLED: stalled,
        ConditionType.RECONCILING: None if stalled is not None or ready.reason in READY else ready,
        ConditionType.ROLLED_BACK: _rolled_back(view),
        ConditionType.DEGRADED: _degraded(view, ready),
    }
    told |= {kind: (True, cause) for kind, cause in others.items() if cause is not None}
    old = {one.get("type"): one for one in view.observation.parent.status.get("conditions", [])}
    return [
        _condition(view.observation, kind, holds, _told_once(kind, cause, ready), old.get(kind))
        for kind, (holds, cause) in sorted(told.items())
    ]


def _told_once(kind: ConditionType, cause: Cause, ready: Cause) -> Cause:
    """Somebody else's words, which may be long, stand in Ready; and in Stalled, which is all that kstatus shows."""
    if kind in (ConditionType.READY, ConditionType.STALLED) or cause.message != ready.message:
        return cause
    return Cause(cause.reason, brief(cause.message))


def _condition(
    observation: Observation, kind: ConditionType, holds: bool, cause: Cause, old: Manifest | None
) -> Manifest:
    status = "True" if holds else "False"
    since, message = timestamp(observation.now), cause.message
    if old is not None and old.get("status") == status:
        since = old.get("lastTransitionTime", since)
        same = (old.get("reason"), old.get("observedGeneration")) == (cause.reason, observation.parent.generation)
        if same and says_the_same(old.get("message", ""), message):
            message = old["message"]
    return {
        "type": str(kind),
        "status": status,
        "observedGeneration": observation.parent.generation,
        "lastTransitionTime": since,
        "reason": str(cause.reason),
        "message": message,
    }


def _serving(view: View) -> Manifest:
    """What answers requests, which during a roll-out is not yet what is declared; nothing where no replica does."""
    revisions = view.answering[:SERVING_SHOWN]
    if not revisions:
        return {}
    modes = [mode for revision in revisions if (mode := _mode(view, revision)) is not None]
    told = {"servingRevision": ",".join(revisions), "mode": ",".join(dict.fromkeys(modes))}
    return {key: value for key, value in told.items() if value}


def _mode(view: View, revision: str) -> str | None:
    """The mode that the pods of a revision were given: by its record, or by the Deployment if that is lost."""
    recorded = None if view.target is None else view.target.history.get(revision)
    if recorded is not None:
        return _mode_of(recorded.template)
    if view.deployment is not None and names.revision_of(view.deployment) == revision:
        return _mode_of(view.deployment["spec"]["template"])
    return None


def _mode_of(template: Manifest) -> str | None:
    for container in template["spec"]["containers"]:
        for variable in container.get("env", []):
            if variable["name"] == "LLM_MODE" and variable.get("value") in get_args(Mode):
                return str(variable["value"])
    return None
