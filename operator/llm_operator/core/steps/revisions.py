"""The steps that record and judge revisions. By the rules of core/revisions/. Pure."""

from dataclasses import replace

from llm_operator.core import names
from llm_operator.core.actions import DeleteRevision
from llm_operator.core.children.drift import compare
from llm_operator.core.children.rollout import is_rolled_out
from llm_operator.core.revisions.attempts import (
    another_attempt,
    first_attempt,
    is_to_be_rendered_anew,
    must_prove_itself,
)
from llm_operator.core.revisions.declaration import declaration
from llm_operator.core.revisions.restarts import without_restart
from llm_operator.core.revisions.revision import hash_in, is_fresh, is_rendered_so, name_of, next_name, recorded
from llm_operator.core.revisions.state import State, Verdict
from llm_operator.core.revisions.target import fallback_spec, own_deployment
from llm_operator.core.revisions.verdict import judge
from llm_operator.core.steps.situation import (
    NOTHING,
    Situation,
    Step,
    accepted,
    create_record,
    declared_deployment,
    record,
    set_verdict,
)

# Usually an event comes first.
NEXT_LOOK_SECONDS = 5.0


def adopt_what_runs(at: Situation, _: Step) -> Step:
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
    return create_record(at, recorded(parent, said, template, name=target.active, number=number, verdict=verdict))


def record_what_is_declared(at: Situation, _: Step) -> Step:
    """A revision that is new gets a record, one that must prove itself (again) a verdict that says so."""
    observation, spec, target = at.observation, at.spec, at.target
    revision = target.declared
    if target.budget_hold is not None:
        return NOTHING
    soon = Step(waits=(NEXT_LOOK_SECONDS,))
    if revision is None:
        return soon + record(at, spec, name=target.desired, verdict=first_attempt(observation, spec))
    if is_to_be_rendered_anew(observation, spec, at.settings, revision):
        again = another_attempt(observation, spec, revision)
        return soon + record(at, spec, name=next_name(revision.hash), verdict=again)
    if must_prove_itself(observation, spec, revision, target):
        return soon + set_verdict(at, revision, another_attempt(observation, spec, revision))
    if revision.state is State.CANDIDATE and is_fresh(spec.rollback.retry_token, revision.verdict):
        # It is being tried: what asks for that need not be asked again once it is rejected.
        return soon + set_verdict(at, revision, replace(revision.verdict, retry_token=spec.rollback.retry_token))
    return NOTHING


def judge_what_runs(at: Situation, before: Step) -> Step:
    """Is the declared revision good, or at fault? Only while the Deployment runs it, and by what was read."""
    observation, target, deployment = at.observation, at.target, own_deployment(at.observation)
    revision = target.declared
    if revision is None or revision is not target.revision or revision.state in (State.GOOD, State.FALLBACK):
        return NOTHING
    if deployment is None or before.writes_records:
        return NOTHING
    if target.active != revision.hash or names.revision_of(deployment["spec"]["template"]) != revision.hash:
        return NOTHING
    drift = compare(declared_deployment(at, revision), deployment, accepted(at, "Deployment", revision)).path
    found = judge(observation, at.spec, revision, target.last_good, at.settings, drift=drift)
    waits = () if found.look_again_after is None else (found.look_again_after,)
    step = Step(waits=waits, suspicion=found.suspicion)
    return step if found.verdict is None else step + set_verdict(at, revision, found.verdict, found.outcome)


def record_the_fallback(at: Situation, _: Step) -> Step:
    """The mock that serves in place of a rejected revision when none was ever good (rollback.fallback: Mock)."""
    target, rollback, declared = at.target, at.spec.rollback, at.target.declared
    wanted = rollback.enabled and rollback.fallback == "Mock" and target.last_good is None
    if not wanted or declared is None or declared.state is not State.REJECTED:
        return NOTHING
    spec = fallback_spec(at.spec)
    name = name_of(declaration(spec), target.history.revisions)
    known = target.history.get(name)
    if known is None:
        return record(at, spec, name=name, verdict=Verdict(State.FALLBACK))
    # Nothing of one that does not run restarts when it is rendered anew.
    stands_by = known.state is State.FALLBACK and known.hash != target.active
    if stands_by and not is_rendered_so(at.observation.parent, spec, at.settings, known):
        return record(at, spec, name=next_name(name), verdict=Verdict(State.FALLBACK))
    return NOTHING


def delete_old_revisions(at: Situation, _: Step) -> Step:
    """Records that nothing needs, but for the few kept for people."""
    target = at.target
    used = [one.hash for one in (target.revision, target.last_good) if one is not None]
    old = target.history.superfluous([target.desired, target.active, *used], at.observation.now)
    return Step(tuple(DeleteRevision(one.live) for one in old))
