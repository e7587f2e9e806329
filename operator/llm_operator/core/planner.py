"""The decision: which revision is to run, and what to write for it. Pure; called by reconcile.py.

Every pass derives the answer anew from what is recorded and observed, so it does not matter where the last
one ended. Order: record the declared revision, judge it, choose the target, apply the children, forget what
nothing needs. A verdict is written before anything acts on it, and nothing of a revision is applied before its model
is there.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from llm_operator.api.conditions import Cause, Reason
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core import names
from llm_operator.core.actions import (
    Action,
    Apply,
    Create,
    CreateRevision,
    DeleteRevision,
    Patch,
    Plan,
    SetAdmitted,
    SetVerdict,
)
from llm_operator.core.cached_model import CachedModel
from llm_operator.core.children import admission
from llm_operator.core.children.deployment import build_deployment
from llm_operator.core.children.drift import change, compare
from llm_operator.core.children.rollout import is_rolled_out
from llm_operator.core.children.service import build_service
from llm_operator.core.model_cache.claim import build_claim, claim_patch
from llm_operator.core.model_cache.fetch_actions import cancel_unneeded_fetches, fetch_actions, held_open_for
from llm_operator.core.model_cache.fetch_job import current_fetch
from llm_operator.core.model_cache.fetch_verdict import judge_fetch
from llm_operator.core.model_cache.known_models import find_cached_model, is_in_replaced_claim, pin_to_recorded_commit
from llm_operator.core.model_cache.memory import too_small
from llm_operator.core.model_cache.prune import prune_actions
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Accepted, InvalidSpec, Observation, Settings, Suspicion
from llm_operator.core.ownership import adoption, is_orphan, name_taken
from llm_operator.core.revisions.declaration import Declaration, declaration
from llm_operator.core.revisions.history import recent
from llm_operator.core.revisions.restarts import with_restarts, without_restart
from llm_operator.core.revisions.revision import (
    Revision,
    asks_again,
    hash_in,
    is_fresh,
    is_rendered_so,
    name_of,
    new_revision,
    next_name,
    recorded,
)
from llm_operator.core.revisions.state import State, Verdict
from llm_operator.core.revisions.target import RevisionTarget, course, fallback_spec, own_deployment
from llm_operator.core.revisions.verdict import judge, suffices

# Foreign objects carry no label of ours, so no event tells that one went away.
LOOK_FOR_CONFLICT_SECONDS = 30.0
# A candidate that was recorded this long before it is applied was left aside meanwhile: its time begins anew.
LEFT_ASIDE = timedelta(seconds=10)
# Usually an event comes first.
NEXT_LOOK_SECONDS = 5.0
# A claim that waits for its first pod makes no further event, and the fetch needs its uid.
AFTER_CLAIM_SECONDS = 0.2
AFTER_ADOPTION_SECONDS = 0.2
# What of a plan no other object may hold up, and what it depends on: the rest is done after that.
SAFETY_FIRST = (CreateRevision, SetVerdict, SetAdmitted)


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
    return _Planner(observation, parent.spec, settings).plan()


def _orphans(observation: Observation) -> list[Manifest]:
    """What an earlier LLMDeployment of the name left behind; the Deployment last, so that its records are known."""
    found = (*observation.revisions, observation.service, observation.deployment)
    return [one for one in found if one is not None and is_orphan(observation.parent, one)]


class _Planner:
    """One planning pass: each step may add actions, and sees the history as it will be after them."""

    def __init__(self, observation: Observation, spec: LLMDeploymentSpec, settings: Settings) -> None:
        self.observation, self.spec, self.settings = observation, spec, settings
        self.parent, self.now = observation.parent, observation.now
        self.actions: list[Action] = []
        self.waits: list[float] = []
        self.suspicion: Suspicion | None = None
        self._known: RevisionTarget | None = None

    def plan(self) -> Plan:
        steps: tuple[Callable[[], None], ...] = (
            self._adopt_what_runs,
            self._make_the_claim,
            self._record_what_is_declared,
            self._see_to_the_model,
            self._refill_the_claim,
            self._judge_what_runs,
            self._record_what_admission_does,
            self._record_the_fallback,
            self._apply_children,
            self._forget_the_old,
            self._let_go_of_fetches,
            self._amend_the_claim,
            self._prune_the_claim,
        )
        for step in steps:
            step()
        goes = self._course()
        if goes.budget_hold_seconds is not None:
            self.waits.append(goes.budget_hold_seconds)
        return Plan(
            actions=tuple(sorted(self.actions, key=_turn)),
            obstacle=goes.budget_hold,
            look_again_after=min(self.waits, default=None),
            suspicion=self.suspicion,
        )

    def _course(self) -> RevisionTarget:
        if self._known is None:
            self._known = course(self.observation, self.spec)
        return self._known

    def _adopt_what_runs(self) -> None:
        """Record what the Deployment runs if its record is gone, so that nothing restarts for the loss of it."""
        deployment, goes = own_deployment(self.observation), self._course()
        if deployment is None or goes.active is None or goes.history.get(goes.active) is not None:
            return
        runs = names.revision_of(deployment["spec"]["template"]) == goes.active and deployment["spec"].get(
            "replicas", 1
        )
        if not runs or not is_rolled_out(deployment):
            return
        said = declaration(self.spec) if hash_in(goes.active) == goes.desired else None
        verdict = Verdict(State.GOOD, decided_at=self.now)
        template = without_restart(deployment["spec"]["template"])
        self._record(said, template, goes, name=goes.active, verdict=verdict)

    def _record_what_is_declared(self) -> None:
        goes = self._course()
        revision = goes.history.get(goes.desired)
        if goes.budget_hold is not None:
            return
        if revision is None:
            self._record_new(self.spec, goes, name=goes.desired, verdict=self._attempt(1))
            self.waits.append(NEXT_LOOK_SECONDS)
        elif self._is_to_be_rendered_anew(revision):
            self._record_new(self.spec, goes, name=next_name(revision.hash), verdict=self._another_attempt(revision))
            self.waits.append(NEXT_LOOK_SECONDS)
        elif self._must_prove_itself(revision, goes):
            self._judge(revision, self._another_attempt(revision))
            self.waits.append(NEXT_LOOK_SECONDS)
        elif revision.state is State.CANDIDATE and is_fresh(self.spec.rollback.retry_token, revision.verdict):
            # It is being tried: what asks for that need not be asked again once it is rejected.
            self._judge(revision, replace(revision.verdict, retry_token=self.spec.rollback.retry_token))
            self.waits.append(NEXT_LOOK_SECONDS)

    def _is_to_be_rendered_anew(self, revision: Revision) -> bool:
        """Whether a retry is asked for, and the operator would render the pods otherwise today.

        What is wrong may be the operator's: the image that it was installed with. What was never rejected stays as it
        was proved, or is being tried.
        """
        token = self.spec.rollback.retry_token
        tried = revision.state is State.CANDIDATE and is_fresh(token, revision.verdict)
        asked = tried or (revision.state is State.REJECTED and asks_again(self.spec, revision))
        return asked and not is_rendered_so(self.parent, self.spec, self.settings, revision)

    def _must_prove_itself(self, revision: Revision, goes: RevisionTarget) -> bool:
        """Whether an attempt begins: one is asked for, or something else runs now."""
        if revision.state is State.REJECTED:
            return asks_again(self.spec, revision)
        if goes.active == revision.hash and revision.state is not State.FALLBACK:
            return False
        if (
            revision.waits
            and revision.state is State.CANDIDATE
            and self.parent.status.get("desiredRevision") in (None, revision.hash)
        ):
            # It is not left aside, its model is being fetched. On other terms that is tried anew.
            begins = revision.verdict.started_at is None or declaration(self.spec).terms != revision.terms
            return begins and self.spec.replicas > 0
        if revision.state is State.CANDIDATE:
            started = revision.verdict.started_at
            return self.spec.replicas > 0 and (started is None or self.now - started > LEFT_ASIDE)
        return revision is not goes.last_good

    def _attempt(self, number: int) -> Verdict:
        since = self.now if self.spec.replicas else None
        return Verdict(
            State.CANDIDATE,
            attempt=number,
            started_at=since,
            progress_at=since,
            retry_token=self.spec.rollback.retry_token,
            terms=declaration(self.spec).terms,
            suffices=suffices(self.observation, self.spec) if since else None,
        )

    def _another_attempt(self, revision: Revision) -> Verdict:
        again = 0 if revision.state in (State.CANDIDATE, State.FALLBACK) else 1
        verdict = self._attempt(revision.verdict.attempt + again)
        return replace(verdict, rollbacks=recent(revision.verdict.rollbacks, self.now))

    def _make_the_claim(self) -> None:
        cache = self.spec.used_cache
        if cache is not None and self.observation.claim is None:
            kept = self.observation.others_keep_claim
            self.actions.append(Create(build_claim(self.parent, cache, kept_for_others=kept)))
            self.waits.append(AFTER_CLAIM_SECONDS)

    def _amend_the_claim(self) -> None:
        """Last: what is refused must not keep anything else from being done."""
        cache, live = self.spec.used_cache, self.observation.claim
        if cache is not None and live is not None:
            change = claim_patch(self.parent, cache, live, kept_for_others=self.observation.others_keep_claim)
            self.actions += [] if change is None else [change]

    def _prune_the_claim(self) -> None:
        """Only where nothing else is to be done, but for what may be refused for ever."""
        if all(isinstance(one, Patch) and one.optional for one in self.actions):
            self.actions += prune_actions(self.observation, self.spec, self._course(), self.settings)

    def _let_go_of_fetches(self) -> None:
        goes = self._course()
        declared = goes.history.get(goes.desired)
        given_up = declared is not None and declared.state is State.REJECTED and goes.fetches is None
        pinned = declared is not None and declared.model is not None and goes.fetches is None
        is_recorded = pinned or (declared is not None and declared.state is State.REJECTED)
        self.actions += cancel_unneeded_fetches(self.observation, given_up=given_up, is_recorded=is_recorded)
        wait = held_open_for(self.observation) if is_recorded else None
        self.waits += [] if wait is None else [wait]

    def _see_to_the_model(self) -> None:
        """Nothing of a revision is applied before its model is there."""
        goes, cache = self._course(), self.spec.used_cache
        revision = goes.fetches
        if revision is None or cache is None:
            return
        if any(isinstance(one, (SetVerdict, CreateRevision)) for one in self.actions):
            # What was just written is judged in the next pass.
            self.actions += fetch_actions(self.observation, self.spec, cache, revision, goes.history, self.settings)
            return
        found = judge_fetch(self.observation, self.spec, revision, goes.history, self.settings)
        self.suspicion = found.suspicion
        if found.look_again_after is not None:
            self.waits.append(found.look_again_after)
        if found.model is None and (found.verdict is None or found.verdict.state is not State.REJECTED):
            self.actions += fetch_actions(self.observation, self.spec, cache, revision, goes.history, self.settings)
            if self.observation.claim is None or not names.is_managed(self.observation.claim):
                # Somebody else's claim carries no label of ours, so no event tells of it.
                self.waits.append(LOOK_FOR_CONFLICT_SECONDS)
        if found.verdict is not None:
            self._judge(revision, found.verdict, found.outcome, found.model)

    def _refill_the_claim(self) -> None:
        """A claim that was lost and made anew gets the same files again, for whoever runs or starts."""
        goes, cache = self._course(), self.spec.used_cache
        revision = goes.history.get(goes.desired)
        if cache is None or revision is None or revision.model is None or revision.state is State.REJECTED:
            return
        if not is_in_replaced_claim(revision, self.observation.claim) or any(
            isinstance(one, SetVerdict) for one in self.actions
        ):
            return
        fetch = current_fetch(self.observation)
        if fetch is not None and fetch.model is not None and fetch.model.commit == revision.model.commit:
            self._judge(revision, revision.verdict, model=fetch.model)
            return
        spec = pin_to_recorded_commit(self.spec, goes.history, self.observation.claim)
        self.actions += fetch_actions(self.observation, spec, cache, revision, goes.history, self.settings)

    def _judge_what_runs(self) -> None:
        goes, deployment = self._course(), own_deployment(self.observation)
        revision = goes.history.get(goes.desired)
        if revision is None or revision is not goes.target or revision.state in (State.GOOD, State.FALLBACK):
            return
        if deployment is None or any(isinstance(one, (SetVerdict, CreateRevision)) for one in self.actions):
            return
        if goes.active != revision.hash or names.revision_of(deployment["spec"]["template"]) != revision.hash:
            return
        drift = compare(self._deployment(revision), deployment, self._accepted("Deployment", revision)).path
        found = judge(self.observation, self.spec, revision, goes.last_good, self.settings, drift=drift)
        self.suspicion = found.suspicion
        if found.look_again_after is not None:
            self.waits.append(found.look_again_after)
        if found.verdict is not None:
            self._judge(revision, found.verdict, found.outcome)

    def _record_what_admission_does(self) -> None:
        """So that another process neither writes what is accepted nor fights over it."""
        seen = self.observation.admitted.get("Deployment")
        revision = None if seen is None else self._course().history.get(seen.revision)
        if seen is None or revision is None or revision.admitted == seen.accepted:
            return
        self.actions.append(SetAdmitted(revision.live, admission.encode(seen.accepted)))

    def _accepted(self, kind: str, revision: Revision | None) -> Accepted:
        """What admission is known to make of a child: as this process saw it last, or as it is recorded."""
        seen = self.observation.admitted.get(kind)
        if seen is not None and seen.revision == (None if revision is None else revision.hash):
            return seen.accepted
        return {} if revision is None else revision.admitted

    def _deployment(self, revision: Revision) -> Manifest:
        return build_deployment(
            self.parent,
            replicas=self.spec.replicas,
            rollout=self.spec.rollout,
            revision=revision.hash,
            template=revision.template,
        )

    def _record_the_fallback(self) -> None:
        goes, rollback = self._course(), self.spec.rollback
        declared = goes.history.get(goes.desired)
        wanted = rollback.enabled and rollback.fallback == "Mock" and goes.last_good is None
        if not wanted or declared is None or declared.state is not State.REJECTED:
            return
        spec = fallback_spec(self.spec)
        name = name_of(declaration(spec), goes.history.revisions)
        known = goes.history.get(name)
        if known is None:
            self._record_new(spec, goes, name=name, verdict=Verdict(State.FALLBACK))
            return
        # Nothing of one that does not run restarts when it is rendered anew.
        stands_by = known.state is State.FALLBACK and known.hash != goes.active
        if stands_by and not is_rendered_so(self.parent, spec, self.settings, known):
            self._record_new(spec, goes, name=next_name(name), verdict=Verdict(State.FALLBACK))

    def _apply_children(self) -> None:
        goes, live = self._course(), self.observation.deployment
        wanted = []
        if goes.target is not None:
            known = {one.hash: one.state for one in goes.history.revisions}
            deployment = with_restarts(self._deployment(goes.target), live, goes.target, known)
            wanted.append(_needed(deployment, live, self._accepted("Deployment", goes.target)))
        service = build_service(self.parent)
        wanted.append(_needed(service, self.observation.service, self._accepted("Service", None)))
        self.actions += [action for action in wanted if action is not None]

    def _forget_the_old(self) -> None:
        goes = self._course()
        needed = [goes.desired, goes.active, *(one.hash for one in (goes.target, goes.last_good) if one is not None)]
        self.actions += [DeleteRevision(one.live) for one in goes.history.superfluous(needed, self.now)]

    def _record_new(self, spec: LLMDeploymentSpec, goes: RevisionTarget, *, name: str, verdict: Verdict) -> None:
        number = goes.history.next_number()
        revision = new_revision(self.parent, spec, self.settings, name=name, number=number, verdict=verdict)
        model = find_cached_model(goes.history, spec, self.observation.claim) if revision.waits else None
        fits = model is not None and too_small(spec, model) is None
        self._add(revision.judged(verdict, model) if fits else revision)

    def _record(
        self, said: Declaration | None, template: Manifest, goes: RevisionTarget, *, name: str, verdict: Verdict
    ) -> None:
        number = goes.history.next_number()
        self._add(recorded(self.parent, said, template, name=name, number=number, verdict=verdict))

    def _add(self, revision: Revision) -> None:
        self.actions.append(CreateRevision(revision.live))
        self._remember(revision)

    def _judge(
        self,
        revision: Revision,
        verdict: Verdict,
        outcome: Cause | None = None,
        model: CachedModel | None = None,
    ) -> None:
        judged = revision.judged(verdict, model)
        annotation = judged.live["metadata"]["annotations"][names.VERDICT]
        pin = None if model is None else judged.live["metadata"]["annotations"][names.MODEL]
        rejects = verdict.state is State.REJECTED and revision.state is not State.REJECTED
        rolls_back = rejects and len(verdict.rollbacks) > len(revision.verdict.rollbacks)
        self.actions.append(SetVerdict(revision.live, annotation, outcome, rejects, rolls_back, pin))
        self._remember(judged)

    def _remember(self, revision: Revision) -> None:
        name = revision.live["metadata"]["name"]
        others = tuple(one for one in self.observation.revisions if one["metadata"]["name"] != name)
        self.observation = replace(self.observation, revisions=(*others, revision.live))
        self._known = None


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


def _turn(action: Action) -> int:
    """When an action is due: verdicts, then the Deployment, then all that safety does not depend on."""
    if isinstance(action, SAFETY_FIRST):
        return 0
    return 1 if isinstance(action, Apply) and action.manifest["kind"] == "Deployment" else 2
