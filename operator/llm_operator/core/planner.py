"""The decision of a pass: what to write, in which order, or why nothing. Pure; called by reconcile.py.

    observation ─► [ step ─► step ─► … ] ─► plan: actions in order, obstacle, when to look again
                     │ each sees the records as they will be once the steps before it are carried out

Every pass derives the answer anew from what is recorded and observed, so it does not matter where the last one ended.
What the steps decide is written below each of them; which revision is to run is decided in revisions/target.py, whether
it is good in revisions/verdict.py, whether its model is there in model_cache/fetch_verdict.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from llm_operator.api.conditions import Cause, Reason
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.actions import (
    Action,
    Adopt,
    Apply,
    Create,
    CreateRevision,
    Delete,
    DeleteRevision,
    Patch,
    SetAdmitted,
    SetVerdict,
)
from llm_operator.core.cached_model import CachedModel
from llm_operator.core.children import admission
from llm_operator.core.children.deployment import build_deployment
from llm_operator.core.children.drift import change, compare
from llm_operator.core.children.rollout import is_rolled_out
from llm_operator.core.children.service import build_service
from llm_operator.core.derived import Derived, derive
from llm_operator.core.model_cache.claim import build_claim, claim_patch
from llm_operator.core.model_cache.fetch_actions import cancel_unneeded_fetches, fetch_actions, held_open_for
from llm_operator.core.model_cache.fetch_job import Fetch
from llm_operator.core.model_cache.fetch_verdict import judge_fetch
from llm_operator.core.model_cache.known_models import (
    find_cached_model,
    is_in_replaced_claim,
    pin_to_recorded_commit,
)
from llm_operator.core.model_cache.memory import too_small
from llm_operator.core.model_cache.prune import prune_actions
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Accepted, InvalidSpec, Observation, Parent, Settings, Suspicion
from llm_operator.core.ownership import adoption, is_orphan, name_taken
from llm_operator.core.revisions.attempts import (
    another_attempt,
    first_attempt,
    is_to_be_rendered_anew,
    must_prove_itself,
)
from llm_operator.core.revisions.declaration import declaration
from llm_operator.core.revisions.history import History
from llm_operator.core.revisions.restarts import with_restarts, without_restart
from llm_operator.core.revisions.revision import (
    Revision,
    hash_in,
    is_fresh,
    is_rendered_so,
    name_of,
    new_revision,
    next_name,
    recorded,
)
from llm_operator.core.revisions.state import State, Verdict
from llm_operator.core.revisions.target import RevisionTarget, choose_target, fallback_spec, own_deployment
from llm_operator.core.revisions.verdict import judge

# Foreign objects carry no label of ours, so no event tells that one went away.
LOOK_FOR_CONFLICT_SECONDS = 30.0
# Usually an event comes first.
NEXT_LOOK_SECONDS = 5.0
# A claim that waits for its first pod makes no further event, and the fetch needs its uid.
AFTER_CLAIM_SECONDS = 0.2
AFTER_ADOPTION_SECONDS = 0.2
# What of a plan no other object may hold up, and what it depends on: the rest is done after that.
SAFETY_FIRST = (CreateRevision, SetVerdict, SetAdmitted)


@dataclass(frozen=True, slots=True)
class Situation:
    """What every step looks at; `target` as it will be once the steps before it have been carried out."""

    observation: Observation
    spec: LLMDeploymentSpec
    settings: Settings
    target: RevisionTarget
    fetch: Fetch | None

    def after(self, step: "Step") -> "Situation":
        """The situation once a step has been carried out."""
        if step.history is None:
            return self
        return replace(self, target=choose_target(self.observation, self.spec, step.history))


@dataclass(frozen=True, slots=True)
class Step:
    """What one step decided, or several together.

    `history` is what the records will say, if that changes. `sets_verdict`: a record that was read is changed, so what
    follows from it is for the next pass; `records`: one is made.
    """

    actions: tuple[Action, ...] = ()
    history: History | None = None
    sets_verdict: bool = False
    records: bool = False
    waits: tuple[float, ...] = ()
    suspicion: Suspicion | None = None

    @property
    def writes_records(self) -> bool:
        """Whether a revision's record is made or changed."""
        return self.records or self.sets_verdict

    def __add__(self, other: "Step") -> "Step":
        return Step(
            actions=self.actions + other.actions,
            history=other.history or self.history,
            sets_verdict=self.sets_verdict or other.sets_verdict,
            records=self.records or other.records,
            waits=self.waits + other.waits,
            suspicion=other.suspicion or self.suspicion,
        )


NOTHING = Step()


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


# The steps. Each is given the situation, and what the steps before it decided.


def _adopt_what_runs(at: Situation, _: Step) -> Step:
    """Record what the Deployment runs if its record is gone, so that nothing restarts for the loss of it."""
    deployment, target = own_deployment(at.observation), at.target
    if deployment is None or target.active is None or target.history.get(target.active) is not None:
        return NOTHING
    template = deployment["spec"]["template"]
    runs = names.revision_of(template) == target.active and deployment["spec"].get("replicas", 1)
    if not runs or not is_rolled_out(deployment):
        return NOTHING
    said = declaration(at.spec) if hash_in(target.active) == target.desired else None
    verdict = Verdict(State.GOOD, decided_at=at.observation.now)
    number = target.history.next_number()
    parent, template = at.observation.parent, without_restart(template)
    return _create(at, recorded(parent, said, template, name=target.active, number=number, verdict=verdict))


def _create_the_claim(at: Situation, _: Step) -> Step:
    cache = at.spec.used_cache
    if cache is None or at.observation.claim is not None:
        return NOTHING
    claim = build_claim(at.observation.parent, cache, kept_for_others=at.observation.others_keep_claim)
    return Step((Create(claim),), waits=(AFTER_CLAIM_SECONDS,))


def _record_what_is_declared(at: Situation, _: Step) -> Step:
    """A revision that is new gets a record, one that must prove itself (again) a verdict that says so."""
    observation, spec, target = at.observation, at.spec, at.target
    revision = target.declared
    if target.budget_hold is not None:
        return NOTHING
    soon = Step(waits=(NEXT_LOOK_SECONDS,))
    if revision is None:
        return soon + _record(at, spec, name=target.desired, verdict=first_attempt(observation, spec))
    if is_to_be_rendered_anew(observation, spec, at.settings, revision):
        again = another_attempt(observation, spec, revision)
        return soon + _record(at, spec, name=next_name(revision.hash), verdict=again)
    if must_prove_itself(observation, spec, revision, target):
        return soon + _judge(at, revision, another_attempt(observation, spec, revision))
    if revision.state is State.CANDIDATE and is_fresh(spec.rollback.retry_token, revision.verdict):
        # It is being tried: what asks for that need not be asked again once it is rejected.
        return soon + _judge(at, revision, replace(revision.verdict, retry_token=spec.rollback.retry_token))
    return NOTHING


def _see_to_the_model(at: Situation, before: Step) -> Step:
    """Nothing of a revision is applied before its model is there: fetch it, and judge the fetch."""
    observation, target, cache = at.observation, at.target, at.spec.used_cache
    revision = target.fetches
    if revision is None or cache is None:
        return NOTHING
    fetch = Step(tuple(fetch_actions(observation, at.fetch, at.spec, cache, revision, target.history, at.settings)))
    if before.writes_records:
        # What was just written is judged in the next pass.
        return fetch
    found = judge_fetch(observation, at.fetch, at.spec, revision, target.history, at.settings)
    waits = () if found.look_again_after is None else (found.look_again_after,)
    step = Step(waits=waits, suspicion=found.suspicion)
    if found.model is None and (found.verdict is None or found.verdict.state is not State.REJECTED):
        step += fetch
        if observation.claim is None or not names.is_managed(observation.claim):
            # Somebody else's claim carries no label of ours, so no event tells of it.
            step += Step(waits=(LOOK_FOR_CONFLICT_SECONDS,))
    if found.verdict is None:
        return step
    return step + _judge(at, revision, found.verdict, found.outcome, found.model)


def _refill_the_claim(at: Situation, before: Step) -> Step:
    """A claim that was lost and made anew gets the same files again, for whoever runs or starts."""
    observation, cache, revision = at.observation, at.spec.used_cache, at.target.declared
    if cache is None or revision is None or revision.model is None or revision.state is State.REJECTED:
        return NOTHING
    if not is_in_replaced_claim(revision, observation.claim) or before.sets_verdict:
        return NOTHING
    fetch, history = at.fetch, at.target.history
    if fetch is not None and fetch.model is not None and fetch.model.commit == revision.model.commit:
        return _judge(at, revision, revision.verdict, model=fetch.model)
    spec = pin_to_recorded_commit(at.spec, history, observation.claim)
    return Step(tuple(fetch_actions(observation, fetch, spec, cache, revision, history, at.settings)))


def _judge_what_runs(at: Situation, before: Step) -> Step:
    """Is the declared revision good, or at fault? Only while the Deployment runs it, and by what was read."""
    observation, target, deployment = at.observation, at.target, own_deployment(at.observation)
    revision = target.declared
    if revision is None or revision is not target.revision or revision.state in (State.GOOD, State.FALLBACK):
        return NOTHING
    if deployment is None or before.writes_records:
        return NOTHING
    if target.active != revision.hash or names.revision_of(deployment["spec"]["template"]) != revision.hash:
        return NOTHING
    drift = compare(_deployment(at, revision), deployment, _accepted(at, "Deployment", revision)).path
    found = judge(observation, at.spec, revision, target.last_good, at.settings, drift=drift)
    waits = () if found.look_again_after is None else (found.look_again_after,)
    step = Step(waits=waits, suspicion=found.suspicion)
    return step if found.verdict is None else step + _judge(at, revision, found.verdict, found.outcome)


def _record_what_admission_does(at: Situation, _: Step) -> Step:
    """So that another process neither writes what is accepted nor fights over it."""
    seen = at.observation.admitted.get("Deployment")
    revision = None if seen is None else at.target.history.get(seen.revision)
    if seen is None or revision is None or revision.admitted == seen.accepted:
        return NOTHING
    return Step((SetAdmitted(revision.live, admission.encode(seen.accepted)),))


def _record_the_fallback(at: Situation, _: Step) -> Step:
    """The mock that serves in place of a rejected revision when none was ever good (rollback.fallback: Mock)."""
    target, rollback, declared = at.target, at.spec.rollback, at.target.declared
    wanted = rollback.enabled and rollback.fallback == "Mock" and target.last_good is None
    if not wanted or declared is None or declared.state is not State.REJECTED:
        return NOTHING
    spec = fallback_spec(at.spec)
    name = name_of(declaration(spec), target.history.revisions)
    known = target.history.get(name)
    if known is None:
        return _record(at, spec, name=name, verdict=Verdict(State.FALLBACK))
    # Nothing of one that does not run restarts when it is rendered anew.
    stands_by = known.state is State.FALLBACK and known.hash != target.active
    if stands_by and not is_rendered_so(at.observation.parent, spec, at.settings, known):
        return _record(at, spec, name=next_name(name), verdict=Verdict(State.FALLBACK))
    return NOTHING


def _apply_children(at: Situation, _: Step) -> Step:
    """The Deployment as the target's record says, and the Service; nothing where they already are so."""
    observation, target, live = at.observation, at.target, at.observation.deployment
    wanted = []
    if target.revision is not None:
        known = {one.hash: one.state for one in target.history.revisions}
        deployment = with_restarts(_deployment(at, target.revision), live, target.revision, known)
        wanted.append(_needed(deployment, live, _accepted(at, "Deployment", target.revision)))
    service = build_service(observation.parent)
    wanted.append(_needed(service, observation.service, _accepted(at, "Service", None)))
    return Step(tuple(action for action in wanted if action is not None))


def _delete_old_revisions(at: Situation, _: Step) -> Step:
    target = at.target
    used = [one.hash for one in (target.revision, target.last_good) if one is not None]
    old = target.history.superfluous([target.desired, target.active, *used], at.observation.now)
    return Step(tuple(DeleteRevision(one.live) for one in old))


def _cancel_fetches(at: Situation, _: Step) -> Step:
    """Models that are not declared any more, or were given up, are not fetched to their end."""
    declared, fetches = at.target.declared, at.target.fetches
    given_up = declared is not None and declared.state is State.REJECTED and fetches is None
    pinned = declared is not None and declared.model is not None and fetches is None
    is_recorded = pinned or (declared is not None and declared.state is State.REJECTED)
    actions = cancel_unneeded_fetches(at.observation, at.fetch, given_up=given_up, is_recorded=is_recorded)
    wait = held_open_for(at.observation, at.fetch) if is_recorded else None
    return Step(tuple(actions), waits=() if wait is None else (wait,))


def _patch_the_claim(at: Situation, _: Step) -> Step:
    """Late: what is refused must not keep anything else from being done."""
    cache, live = at.spec.used_cache, at.observation.claim
    if cache is None or live is None:
        return NOTHING
    patch = claim_patch(at.observation.parent, cache, live, kept_for_others=at.observation.others_keep_claim)
    return NOTHING if patch is None else Step((patch,))


def _prune_the_claim(at: Situation, before: Step) -> Step:
    """Only where nothing else is to be done, but for what may be refused for ever."""
    if not all(isinstance(one, Patch) and one.optional for one in before.actions):
        return NOTHING
    return Step(tuple(prune_actions(at.observation, at.spec, at.target, at.settings)))


STEPS: tuple[Callable[[Situation, Step], Step], ...] = (
    _adopt_what_runs,
    _create_the_claim,
    _record_what_is_declared,
    _see_to_the_model,
    _refill_the_claim,
    _judge_what_runs,
    _record_what_admission_does,
    _record_the_fallback,
    _apply_children,
    _delete_old_revisions,
    _cancel_fetches,
    _patch_the_claim,
    _prune_the_claim,
)


# What the steps share.


def _record(at: Situation, spec: LLMDeploymentSpec, *, name: str, verdict: Verdict) -> Step:
    """A record of what is declared, rendered today; with its model, if that is known to be in the claim."""
    number, parent = at.target.history.next_number(), at.observation.parent
    revision = new_revision(parent, spec, at.settings, name=name, number=number, verdict=verdict)
    model = find_cached_model(at.target.history, spec, at.observation.claim) if revision.needs_model else None
    fits = model is not None and too_small(spec, model) is None
    return _create(at, revision.judged(verdict, model) if fits else revision)


def _create(at: Situation, revision: Revision) -> Step:
    history = at.target.history.with_record(revision.live)
    return Step((CreateRevision(revision.live),), history=history, records=True)


def _judge(
    at: Situation,
    revision: Revision,
    verdict: Verdict,
    outcome: Cause | None = None,
    model: CachedModel | None = None,
) -> Step:
    """Another verdict on a revision that is recorded; with its model, once that is there."""
    judged = revision.judged(verdict, model)
    annotations = judged.live["metadata"]["annotations"]
    pin = None if model is None else annotations[names.MODEL]
    rejects = verdict.state is State.REJECTED and revision.state is not State.REJECTED
    rolls_back = rejects and len(verdict.rollbacks) > len(revision.verdict.rollbacks)
    action = SetVerdict(revision.live, annotations[names.VERDICT], outcome, rejects, rolls_back, pin)
    return Step((action,), history=at.target.history.with_record(judged.live), sets_verdict=True)


def _accepted(at: Situation, kind: str, revision: Revision | None) -> Accepted:
    """What admission is known to make of a child: as this process saw it last, or as it is recorded."""
    seen = at.observation.admitted.get(kind)
    if seen is not None and seen.revision == (None if revision is None else revision.hash):
        return seen.accepted
    return {} if revision is None else revision.admitted


def _deployment(at: Situation, revision: Revision) -> Manifest:
    return build_deployment(
        at.observation.parent,
        replicas=at.spec.replicas,
        rollout=at.spec.rollout,
        revision=revision.hash,
        template=revision.template,
    )


def _needed(desired: Manifest, live: Manifest | None, accepted: Accepted) -> Apply | None:
    """The write that is needed, if any. An object that is being deleted is left to go first."""
    if live is None:
        return Apply(desired, None, accepted=accepted)
    if "deletionTimestamp" in live["metadata"]:
        return None
    compared = compare(desired, live, accepted)
    if compared.path is None:
        return None
    is_change = names.revision_of(desired) != names.revision_of(live)
    operations = change(live, compared.put_right)
    return Apply(desired, live, compared.path, operations, accepted, is_change=is_change)
