"""When an attempt begins, and when it does not."""

from dataclasses import replace
from typing import Any

import pytest

from llm_operator.core import names
from llm_operator.core.actions import Apply, CreateRevision, SetVerdict
from llm_operator.core.observation import Observation
from llm_operator.core.planner import plan
from llm_operator.core.revisions.attempts import LEFT_ASIDE
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import RolloutTerms, State, Verdict, decode
from llm_operator.core.steps.revisions import NEXT_LOOK_SECONDS
from tests.unit.operator.builders import (
    NOW,
    SETTINGS,
    a_manifest,
    a_parent,
    a_revision,
    a_spec,
    after,
    ago,
    an_observation,
    as_stored,
    read,
    rolled_out,
    running,
)

GOOD = a_revision(State.GOOD)
BAD_SPEC = a_spec(image="bad:1")
NEVER_UP = {"replicas": 1, "updatedReplicas": 1}


def verdicts(observation: Observation) -> list[Verdict | None]:
    return [decode(one.annotation) for one in plan(observation, SETTINGS).actions if isinstance(one, SetVerdict)]


def made(observation: Observation) -> list[Revision]:
    """The revisions that are recorded."""
    return [read(one.manifest) for one in plan(observation, SETTINGS).actions if isinstance(one, CreateRevision)]


def given(observation: Observation) -> str | None:
    """The revision that the plan gives to the Deployment, if it changes that."""
    actions = [one for one in plan(observation, SETTINGS).actions if isinstance(one, Apply)]
    return next((names.revision_of(one.manifest) for one in actions if one.manifest["kind"] == "Deployment"), None)


def rejected(**over: Any) -> Revision:
    return a_revision(State.REJECTED, number=2, spec=BAD_SPEC, **over)


def test_the_first_attempt_begins_when_it_is_recorded() -> None:
    decided = plan(an_observation(), SETTINGS)
    assert decided.look_again_after == NEXT_LOOK_SECONDS
    revision = read(after(an_observation(), decided).revisions[0])
    assert revision.verdict == Verdict(State.CANDIDATE, attempt=1, started_at=NOW, progress_at=NOW, suffices=1)


def test_the_token_that_is_there_at_the_first_attempt_does_not_ask_for_a_second() -> None:
    spec = a_spec(rollback={"retryToken": "1"})
    observation = an_observation(parent=a_parent(spec=spec))
    revision = read(after(observation, plan(observation, SETTINGS)).revisions[0])
    assert revision.verdict.retry_token == "1"
    bad = a_revision(State.REJECTED, spec=spec, retry_token="1")
    assert verdicts(running(spec, bad, counts=NEVER_UP)) == []


def test_a_rejected_revision_is_not_tried_again_however_often_it_is_declared() -> None:
    assert plan(running(BAD_SPEC, GOOD, rejected()), SETTINGS).actions == ()


def test_a_fresh_token_has_a_rejected_revision_tried_once_more() -> None:
    spec = a_spec(image="bad:1", rollback={"retryToken": "monday"})
    observation = running(spec, GOOD, rejected(attempt=2, rollbacks=(ago(60),)))
    (verdict,) = verdicts(observation)
    assert verdict == Verdict(
        State.CANDIDATE,
        attempt=3,
        started_at=NOW,
        progress_at=NOW,
        suffices=1,
        retry_token="monday",
        rollbacks=(ago(60),),
    ), "the rollback still counts in the budget"
    assert given(observation) == rejected().hash
    assert plan(observation, SETTINGS).look_again_after == NEXT_LOOK_SECONDS
    then = after(observation, plan(observation, SETTINGS), observedGeneration=1)
    assert verdicts(then) == [], "once"


def test_taking_the_token_away_asks_for_nothing() -> None:
    assert verdicts(running(BAD_SPEC, GOOD, rejected(retry_token="monday"))) == []


def test_a_token_means_nothing_to_a_good_revision() -> None:
    assert plan(running(a_spec(rollback={"retryToken": "1"}), GOOD), SETTINGS).actions == ()


def test_a_rejected_revision_that_was_kept_is_tried_anew_in_place() -> None:
    spec = a_spec(image="bad:1", rollback={"retryToken": "1"})
    observation = running(spec, rejected(), counts=NEVER_UP)
    (verdict,) = verdicts(observation)
    assert verdict is not None
    assert (verdict.state, verdict.attempt) == (State.CANDIDATE, 2)
    assert given(observation) is None


@pytest.mark.parametrize(
    ("replicas", "serve", "suffices"),
    [(3, 3, 3), (20, 19, 19), (3, 8, 3), (8, 0, 1)],
    ids=["all", "all but one", "more than are asked for now", "none"],
)
def test_an_attempt_remembers_how_many_replicas_are_no_fewer_than_before(
    replicas: int, serve: int, suffices: int
) -> None:
    spec = a_spec(image="new:1", replicas=replicas)
    observation = running(spec, GOOD, counts={"replicas": serve, "availableReplicas": serve})
    (new,) = made(observation)
    assert new.verdict.suffices == suffices


TERMS = RolloutTerms("RollingUpdate", 900, 10)


@pytest.mark.parametrize(
    ("rollout", "again"),
    [
        ({}, False),
        ({"strategy": "Recreate"}, True),
        ({"progressDeadlineSeconds": 901}, True),
        ({"progressDeadlineSeconds": 899}, False),
        ({"soakSeconds": 9}, True),
        ({"soakSeconds": 11}, False),
    ],
    ids=["the same", "another strategy", "more time", "less time", "a shorter soak", "a longer soak"],
)
def test_a_rejected_revision_is_tried_again_on_easier_terms(rollout: dict[str, Any], again: bool) -> None:
    observation = running(a_spec(image="bad:1", rollout=rollout), GOOD, rejected(rollout=TERMS))
    tried = [verdict.attempt for verdict in verdicts(observation) if verdict is not None]
    # With more time the probes wait longer: it is rendered anew.
    tried += [one.verdict.attempt for one in made(observation)]
    assert tried == ([2] if again else [])


def test_terms_that_nobody_noted_are_no_reason_to_try_again() -> None:
    assert verdicts(running(a_spec(image="bad:1", rollout={"strategy": "Recreate"}), GOOD, rejected())) == []


def test_a_rejection_notes_the_terms_of_the_end_not_of_the_beginning() -> None:
    spec = a_spec(image="bad:1", rollout={"progressDeadlineSeconds": 30})
    late = a_revision(number=2, spec=spec)
    (verdict,) = verdicts(running(spec, late, GOOD, counts=NEVER_UP))
    assert verdict is not None
    assert (verdict.state, verdict.rollout) == (State.REJECTED, RolloutTerms("RollingUpdate", 30, 10))


def test_what_was_left_aside_begins_anew_as_the_same_attempt() -> None:
    started = NOW - LEFT_ASIDE * 2
    candidate = a_revision(number=2, spec=BAD_SPEC, attempt=2, started_at=started, progress_at=started, progress=1)
    (verdict,) = verdicts(running(BAD_SPEC, GOOD, candidate))
    assert verdict == Verdict(State.CANDIDATE, attempt=2, started_at=NOW, progress_at=NOW, suffices=1)


def test_what_was_recorded_just_now_goes_on_after_a_crash_before_the_apply() -> None:
    candidate = a_revision(number=2, spec=BAD_SPEC, started_at=ago(1), progress_at=ago(1))
    observation = running(BAD_SPEC, GOOD, candidate)
    assert verdicts(observation) == []
    assert given(observation) == candidate.hash


def test_the_good_revision_comes_back_without_a_trial() -> None:
    candidate = a_revision(number=2, spec=BAD_SPEC)
    observation = running(a_spec(), candidate, GOOD, counts=NEVER_UP)
    assert verdicts(observation) == []
    assert given(observation) == GOOD.hash


def test_a_revision_that_was_good_before_the_last_good_one_must_prove_itself_again() -> None:
    older = a_revision(State.GOOD, spec=a_spec(image="older:1"), decided_at=ago(9999))
    observation = running(a_spec(image="older:1"), GOOD, older)
    (verdict,) = verdicts(observation)
    assert verdict is not None
    assert (verdict.state, verdict.attempt) == (State.CANDIDATE, 2)
    assert given(observation) == older.hash


def test_a_fallback_that_is_declared_must_prove_itself() -> None:
    fallback = a_revision(State.FALLBACK)
    (verdict,) = verdicts(running(a_spec(), fallback))
    assert verdict == Verdict(State.CANDIDATE, attempt=1, started_at=NOW, progress_at=NOW, suffices=1)


# Scaled to zero.


def test_nothing_begins_while_nothing_is_to_run() -> None:
    observation = an_observation(parent=a_parent(spec=a_spec(replicas=0)))
    then = after(observation, plan(observation, SETTINGS), observedGeneration=1)
    assert read(then.revisions[0]).verdict == Verdict(State.CANDIDATE)
    assert plan(then, SETTINGS).actions == ()


def test_a_candidate_left_aside_does_not_begin_while_nothing_is_to_run() -> None:
    spec = a_spec(image="bad:1", replicas=0)
    candidate = a_revision(number=2, spec=spec, started_at=None, progress_at=None)
    assert verdicts(running(spec, GOOD, candidate)) == []


def test_scaling_to_zero_stops_the_clock_and_scaling_up_starts_it_anew() -> None:
    spec = a_spec(replicas=0)
    candidate = a_revision(spec=spec, progress=1, attempt=2)
    stopped = running(spec, candidate)
    (verdict,) = verdicts(stopped)
    assert verdict == Verdict(State.CANDIDATE, attempt=2)
    stopped = after(stopped, plan(stopped, SETTINGS))
    assert plan(stopped, SETTINGS).actions == ()
    up = replace(stopped, parent=a_parent(spec=a_spec(replicas=2)))
    up = after(up, plan(up, SETTINGS), observedGeneration=2)
    (verdict,) = verdicts(up)
    assert verdict == Verdict(State.CANDIDATE, attempt=2, started_at=NOW, progress_at=NOW, suffices=1)


def test_a_rejected_revision_stays_rejected_while_nothing_runs() -> None:
    spec = a_spec(image="bad:1", replicas=0)
    assert verdicts(running(spec, rejected())) == []


# What is judged.


def test_success_is_written_as_soon_as_every_replica_is_available() -> None:
    (verdict,) = verdicts(running(a_spec(), a_revision()))
    assert verdict is not None
    assert (verdict.state, verdict.decided_at) == (State.GOOD, NOW)


@pytest.mark.parametrize("difference", ["template", "replicas", "revision"])
def test_a_deployment_that_is_not_as_declared_proves_nothing(difference: str) -> None:
    observation = running(a_spec(), a_revision())
    assert observation.deployment is not None
    match difference:
        case "template":
            observation.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "edited:1"
        case "replicas":
            observation.deployment["spec"]["replicas"] = 0
        case "revision":
            observation.deployment["metadata"]["annotations"][names.REVISION] = "another"
    assert not any(verdict is not None and verdict.state is State.GOOD for verdict in verdicts(observation))


def test_a_deployment_of_somebody_else_proves_nothing() -> None:
    deployment = as_stored(a_manifest(), **rolled_out(1))
    deployment["metadata"]["ownerReferences"] = []
    candidate = a_revision()
    assert verdicts(an_observation(deployment=deployment, revisions=(candidate.live,))) == []


def test_nothing_good_is_judged_again_however_badly_it_does() -> None:
    observation = running(a_spec(), GOOD, counts={"replicas": 1, "updatedReplicas": 1})
    assert plan(observation, SETTINGS).actions == ()


def test_a_rejected_revision_that_was_kept_is_good_once_it_is_up() -> None:
    (verdict,) = verdicts(running(BAD_SPEC, rejected()))
    assert verdict is not None
    assert (verdict.state, verdict.reason, verdict.message) == (State.GOOD, "", "")
