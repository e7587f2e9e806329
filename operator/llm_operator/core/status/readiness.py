"""The condition Ready as an ordered list of checks: the first hit wins. Pure; called by conditions.py.

The order is at the end (READINESS_CHECKS): why nothing can be done, then whether the model is there, what was rejected
and what serves instead, whether the change has arrived, what the pods lack, how far the roll-out is; else it is Ready.
"""

from collections.abc import Callable

from llm_operator.api.conditions import FINE, Cause, Reason
from llm_operator.core import names
from llm_operator.core.children.rollout import has_timed_out, is_observed, of_the_newest
from llm_operator.core.diagnosis.fault import Proof
from llm_operator.core.diagnosis.messages import with_note
from llm_operator.core.diagnosis.revision_pods import fault_of, ready_pods
from llm_operator.core.revisions.state import State
from llm_operator.core.revisions.verdict import deadline_of, serves_enough
from llm_operator.core.status.view import View
from llm_operator.core.times import timestamp

# An edit makes another revision, or easier terms; a token tells that something else has changed.
TRY_AGAIN = "to try it again edit the spec, or set another spec.rollback.retryToken once a cause outside is mended"


def readiness(view: View) -> Cause:
    """Why it is ready, or why not: the first check that finds something."""
    return next(cause for cause in (check(view) for check in READINESS_CHECKS) if cause is not None)


def _obstacle(view: View) -> Cause | None:
    if view.obstacle is None or view.obstacle.reason is not Reason.DRIFT_NOT_REPAIRED:
        return view.obstacle
    # A fight over a field keeps nobody from being judged, and hides no fault of the pods.
    fault = _faulty(view)
    return view.obstacle if fault is None else Cause(fault.reason, with_note(fault.message, view.obstacle.message))


def _fetching(view: View) -> Cause | None:
    """The declared revision waits for its model. One that was given up is told as rejected."""
    if view.target is None or view.target.fetches is None or view.rejected is not None:
        return None
    found = view.why_not_cached or Cause(Reason.MODEL_FETCHING, "The fetch of the model is being started.")
    return found if found.reason in FINE else _with_its_end(view, found)


def _not_there(view: View) -> Cause | None:
    if view.rejected is not None and view.replaced_by is None:
        return None
    return None if view.deployment is not None else Cause(Reason.ROLLING_OUT, "The Deployment is being created.")


def _rejected_and_replaced(view: View) -> Cause | None:
    rejected, replacement = view.rejected, view.replaced_by
    if rejected is None or replacement is None:
        return None
    serves = (
        f"the mock of revision {replacement.hash}"
        if replacement.state is State.FALLBACK
        else f"revision {replacement.hash}"
    )
    why = f"Revision {rejected.hash} was rejected: {rejected.verdict.reason}."
    because = f"{TRY_AGAIN}. {rejected.verdict.message}"
    if view.replacement_is_there:
        return Cause(Reason.ROLLED_BACK, f"{why} Now {serves} serves; {because}")
    if view.deployment is not None and has_timed_out(view.deployment):
        fault = fault_of(view.observation, replacement.hash)
        own_words = "" if fault is None else f" {fault.told.message}"
        return Cause(Reason.ROLLBACK_FAILED, f"{why} But {serves} does not come back either.{own_words}")
    return Cause(Reason.ROLLING_BACK, f"{why} Bringing back {serves}. {rejected.verdict.message}")


def _rejected_and_kept(view: View) -> Cause | None:
    rejected = view.rejected
    return None if rejected is None else Cause(rejected.verdict.reason, rejected.verdict.message)


def _not_applied(view: View) -> Cause | None:
    if view.target is None or view.spec is None:
        return None
    if view.target.active == view.target.desired and view.replicas == view.spec.replicas:
        return None
    return Cause(Reason.ROLLING_OUT, "The change is being applied.")


def _not_observed(view: View) -> Cause | None:
    if view.deployment is None or is_observed(view.deployment):
        return None
    return Cause(Reason.ROLLING_OUT, "The change has been applied; pods have not started yet.")


def _scaled_to_zero(view: View) -> Cause | None:
    if view.replicas or view.counts.get("replicas", 0):
        return None
    return Cause(Reason.SCALED_TO_ZERO, "spec.replicas is 0: nothing runs. Raise it to serve requests.")


def _faulty(view: View) -> Cause | None:
    if view.target is None or view.is_up:
        return None
    fault = fault_of(view.observation, view.target.desired)
    if fault is None:
        return None
    serve = ready_pods(view.observation, view.target.desired)
    if fault.is_capacity and serve:
        found = Cause(fault.told.reason, f"{serve} of {view.replicas} replicas serve. {fault.told.message}")
        if view.declared is None or serves_enough(view.observation, view.declared):
            return found
        return _with_its_end(view, found)
    return _with_its_end(view, fault.told) if fault.proof is Proof.DOUBT else fault.told


def _with_its_end(view: View, cause: Cause) -> Cause:
    """The cause with when it is given up, a moment that stays the same, and what serves meanwhile."""
    verdict = None if view.declared is None else view.declared.verdict
    if verdict is None or view.spec is None or verdict.state is not State.CANDIDATE or verdict.progress_at is None:
        return cause
    end = timestamp(deadline_of(view.observation, view.spec, verdict))
    serving = view.answering
    serve = f"Revision{'s' if len(serving) > 1 else ''} {' and '.join(serving)} serve{'' if len(serving) > 1 else 's'}"
    note = f"{serve if serving else 'Nothing serves'}; given up at {end}."
    return Cause(cause.reason, with_note(cause.message, note))


def _soaking(view: View) -> Cause | None:
    answering, available = (of_the_newest(count, view.deployment) for count in ("readyReplicas", "availableReplicas"))
    if view.spec is None or view.is_up or answering < view.replicas or available >= view.replicas:
        return None
    return Cause(
        Reason.SOAKING,
        f"The replicas answer and must do so for {view.spec.rollout.soak_seconds} s without a break "
        "(rollout.soakSeconds).",
    )


def _rolling_out(view: View) -> Cause | None:
    if view.is_up and view.declared is not None and view.declared.state is State.GOOD:
        return None
    updated, existing = view.counts.get("updatedReplicas", 0), view.counts.get("replicas", 0)
    available = of_the_newest("availableReplicas", view.deployment)
    old = f"; {existing - updated} of an earlier revision still run" if existing > updated else ""
    return Cause(
        Reason.ROLLING_OUT,
        f"{updated} of {view.replicas} replicas run the declared revision, {available} of these are available{old}.",
    )


def _ready(view: View) -> Cause | None:
    declared = view.replicas
    active = names.revision_of(view.deployment)
    return Cause(Reason.ALL_REPLICAS_READY, f"{declared} of {declared} replicas are ready; revision {active} is good.")


READINESS_CHECKS: tuple[Callable[[View], Cause | None], ...] = (
    _obstacle,
    _fetching,
    _not_there,
    _rejected_and_replaced,
    _rejected_and_kept,
    _not_applied,
    _not_observed,
    _scaled_to_zero,
    _faulty,
    _soaking,
    _rolling_out,
    _ready,
)
