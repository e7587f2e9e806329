"""The decision of a pass: what to write, in which order, or why nothing. Pure; called by reconcile.py.

    observation ─► [ step ─► step ─► … ] ─► plan: actions in order, obstacle, when to look again
                     │ each sees the records as they will be once the steps before it are carried out

Every pass derives the answer anew from what is recorded and observed, so it does not matter where the last one ended.
The steps are in steps/, a function each; which revision is to run is decided in revisions/target.py, whether it is good
in revisions/verdict.py, whether its model is there in model_cache/fetch_verdict.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from llm_operator.api.conditions import Cause, Reason
from llm_operator.core.actions import (
    Action,
    Adopt,
    Apply,
    Create,
    CreateRevision,
    Delete,
    Patch,
    SetAdmitted,
    SetVerdict,
)
from llm_operator.core.derived import Derived, derive
from llm_operator.core.names import Manifest
from llm_operator.core.observation import InvalidSpec, Observation, Parent, Settings, Suspicion
from llm_operator.core.ownership import adoption, is_orphan, name_taken
from llm_operator.core.steps.children import apply_children, record_what_admission_does
from llm_operator.core.steps.model_cache import (
    cancel_fetches,
    create_the_claim,
    patch_the_claim,
    prune_the_claim,
    refill_the_claim,
    see_to_the_model,
)
from llm_operator.core.steps.revisions import (
    adopt_what_runs,
    delete_old_revisions,
    judge_what_runs,
    record_the_fallback,
    record_what_is_declared,
)
from llm_operator.core.steps.situation import LOOK_FOR_CONFLICT_SECONDS, NOTHING, Situation, Step

AFTER_ADOPTION_SECONDS = 0.2
# What of a plan no other object may hold up, and what it depends on: the rest is done after that.
SAFETY_FIRST = (CreateRevision, SetVerdict, SetAdmitted)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: actions, in order, and why nothing more can be done (`obstacle`)."""

    actions: tuple[Action, ...] = ()
    obstacle: Cause | None = None
    look_again_after: float | None = None
    suspicion: Suspicion | None = None
    # What was derived from the observation as it was before the actions.
    derived: Derived | None = field(default=None, compare=False)

    def is_delicate(self, parent: Parent) -> bool:
        """Whether it must be made from live reads: it condemns a revision, undoes somebody's edit, or makes anew what
        was there before, and the LLMDeployment may be gone as well.
        """
        is_new = "conditions" not in parent.status
        return any(
            (isinstance(one, SetVerdict) and one.rejects)
            or (isinstance(one, Apply) and not (one.live is None and is_new))
            or (isinstance(one, Create) and not is_new)
            or isinstance(one, (Adopt, Patch, Delete))
            for one in self.actions
        )


def plan(observation: Observation, settings: Settings) -> Plan:
    """What to write, in order. Carrying it out and planning again gives an empty plan."""
    parent = observation.parent
    if parent.deleting:
        return Plan()
    if isinstance(parent.spec, InvalidSpec):
        return Plan(obstacle=Cause(Reason.INVALID_SPEC, " ".join(parent.spec.problems)))
    orphans = _orphans(observation)
    if parent.adopts and orphans:
        # What it is and does is decided once it is ours.
        return Plan(tuple(adoption(parent, one) for one in orphans), look_again_after=AFTER_ADOPTION_SECONDS)
    obstacle = name_taken(parent, observation.service) or name_taken(parent, observation.deployment)
    if obstacle is not None:
        return Plan(obstacle=obstacle, look_again_after=LOOK_FOR_CONFLICT_SECONDS)
    derived = derive(observation, parent.spec)
    at = Situation(observation, parent.spec, settings, derived.target, derived.fetch)
    return replace(_carry_through(at), derived=derived)


def _orphans(observation: Observation) -> list[Manifest]:
    """What an earlier LLMDeployment of the name left behind; the Deployment last, so that its records are known."""
    found = (*observation.revisions, observation.service, observation.deployment)
    return [one for one in found if one is not None and is_orphan(observation.parent, one)]


def _carry_through(at: Situation) -> Plan:
    """All steps, one after the other."""
    before = NOTHING
    for step in STEPS:
        found = step(at, before)
        at, before = at.after(found), before + found
    hold, seconds = at.target.budget_hold, at.target.budget_hold_seconds
    waits = before.waits if seconds is None else (*before.waits, seconds)
    return Plan(
        actions=tuple(sorted(before.actions, key=_turn)),
        obstacle=hold,
        look_again_after=min(waits, default=None),
        suspicion=before.suspicion,
    )


def _turn(action: Action) -> int:
    """When an action is due: verdicts, then the Deployment, then all that safety does not depend on."""
    if isinstance(action, SAFETY_FIRST):
        return 0
    return 1 if isinstance(action, Apply) and action.manifest["kind"] == "Deployment" else 2


STEPS: tuple[Callable[[Situation, Step], Step], ...] = (
    adopt_what_runs,
    create_the_claim,
    record_what_is_declared,
    see_to_the_model,
    refill_the_claim,
    judge_what_runs,
    record_what_admission_does,
    record_the_fallback,
    apply_children,
    delete_old_revisions,
    cancel_fetches,
    patch_the_claim,
    prune_the_claim,
)
