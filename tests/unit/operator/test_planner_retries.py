"""What a retry tries: what the operator would render today, never less than once and never twice."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from llm_operator.core import names
from llm_operator.core.actions import Apply, CreateRevision, SetVerdict
from llm_operator.core.observation import InvalidSpec, Observation, Settings
from llm_operator.core.planner import Plan, plan
from llm_operator.core.revisions.history import BUDGET_WINDOW, read_history
from llm_operator.core.revisions.revision import Revision, next_name
from llm_operator.core.revisions.state import State, Verdict, decode
from llm_operator.core.revisions.target import choose_target, fallback_spec
from llm_operator.core.steps.revisions import NEXT_LOOK_SECONDS
from tests.unit.operator.builders import (
    NOW,
    SETTINGS,
    a_cached_spec,
    a_claim,
    a_parent,
    a_revision,
    a_spec,
    after,
    ago,
    read,
    rolled_out,
    running,
)

CORRECTED = Settings(server_image="registry.example.com/server:corrected")
GOOD = a_revision(State.GOOD, spec=a_spec(image="good:1"))
NEVER_UP = {"replicas": 1, "updatedReplicas": 1}
RETRIED = a_spec(rollback={"retryToken": "monday"})


def rejected(**over: Any) -> Revision:
    """What has the operator's image, and was rejected."""
    return a_revision(State.REJECTED, number=2, **over)


def declared(observation: Observation) -> Revision:
    spec = observation.parent.spec
    assert not isinstance(spec, InvalidSpec)
    target = choose_target(observation, spec)
    revision = target.history.get(target.desired)
    assert revision is not None
    return revision


def image_of(revision: Revision) -> str:
    return str(revision.template["spec"]["containers"][0]["image"])


def applied(decided: Plan) -> list[str]:
    deployments = [one.manifest for one in decided.actions if isinstance(one, Apply)]
    templates = [one["spec"]["template"] for one in deployments if one["kind"] == "Deployment"]
    return [template["spec"]["containers"][0]["image"] for template in templates]


def verdicts(decided: Plan) -> list[Verdict | None]:
    return [decode(one.annotation) for one in decided.actions if isinstance(one, SetVerdict)]


def test_a_retry_after_the_operators_image_was_corrected_tries_the_corrected_one() -> None:
    old = rejected(rollbacks=(ago(60),), attempt=2)
    observation = running(RETRIED, GOOD, old)
    decided = plan(observation, CORRECTED)
    assert applied(decided) == [CORRECTED.server_image]
    assert decided.look_again_after == NEXT_LOOK_SECONDS
    new = declared(after(observation, decided))
    assert new.hash == names.revision_of(new.template) == f"{old.hash}-2"
    assert new.live["metadata"]["name"] == f"triage-{old.hash}-2"
    verdict = new.verdict
    assert (verdict.state, verdict.attempt, verdict.started_at, verdict.reason) == (State.CANDIDATE, 3, NOW, "")
    assert (verdict.retry_token, verdict.rollbacks) == ("monday", (ago(60),))


def test_without_a_fresh_token_a_corrected_image_changes_nothing() -> None:
    for revision in (rejected(), a_revision(State.GOOD, number=2)):
        assert applied(plan(running(a_spec(), GOOD, revision), CORRECTED)) in ([], [SETTINGS.server_image])
    assert plan(running(a_spec(), GOOD, rejected()), CORRECTED).actions == ()


def test_the_one_that_was_rejected_in_place_is_replaced_by_the_corrected_one() -> None:
    observation = running(RETRIED, rejected(), counts=NEVER_UP)
    decided = plan(observation, CORRECTED)
    assert applied(decided) == [CORRECTED.server_image]
    then = after(observation, decided, **rolled_out(1, generation=2))
    good = declared(after(then, plan(then, CORRECTED)))
    assert (good.state, good.hash) == (State.GOOD, f"{rejected().hash}-2")


def test_a_retry_of_what_would_be_rendered_the_same_keeps_its_name() -> None:
    observation = running(RETRIED, GOOD, rejected())
    decided = plan(observation, SETTINGS)
    assert not any(isinstance(one, CreateRevision) for one in decided.actions)
    assert declared(after(observation, decided)).hash == rejected().hash


def test_an_operator_that_dies_after_any_write_of_a_retry_loses_no_verdict_and_no_budget() -> None:
    observation = running(RETRIED, GOOD, rejected(rollbacks=(ago(60), ago(90)), attempt=4))
    decided = plan(observation, CORRECTED)
    assert len(decided.actions) > 1
    for written in range(len(decided.actions) + 1):
        there = after(observation, replace(decided, actions=decided.actions[:written]))
        for _ in range(3):
            there = after(there, plan(there, CORRECTED), observedGeneration=1)
        new = declared(there)
        assert (new.hash, new.verdict.attempt, new.verdict.retry_token) == (f"{rejected().hash}-2", 5, "monday")
        assert image_of(new) == CORRECTED.server_image
        history = read_history(there.parent, there.revisions)
        assert history.rollbacks(NOW) == [ago(90), ago(60)], "each counts once"
        assert plan(there, CORRECTED).actions == (), "once"


def test_a_corrected_revision_that_is_rejected_is_rendered_anew_again_only_if_that_differs() -> None:
    old, observation = rejected(), running(RETRIED, GOOD, rejected())
    second = declared(after(observation, plan(observation, CORRECTED)))
    bad = read(second.judged(replace(second.verdict, state=State.REJECTED, decided_at=NOW, reason="CrashLoop")).live)
    tuesday = a_spec(rollback={"retryToken": "tuesday"})
    for settings, name in ((CORRECTED, second.hash), (Settings(server_image="third:1"), f"{old.hash}-3")):
        there = running(tuesday, GOOD, old, bad)
        again = declared(after(there, plan(there, settings)))
        assert (again.hash, again.state, again.verdict.attempt) == (name, State.CANDIDATE, 3)


def test_an_edit_away_and_back_finds_the_corrected_one() -> None:
    old, observation = rejected(), running(RETRIED, GOOD, rejected())
    second = declared(after(observation, plan(observation, CORRECTED)))
    good = read(second.judged(Verdict(State.GOOD, decided_at=ago(30))).live)
    for order in ((old, good), (good, old)):
        assert declared(running(a_spec(), GOOD, *order)).hash == good.hash


def test_a_deadline_raised_for_a_retry_is_known_to_the_kubelet() -> None:
    spec = a_spec(rollback={"retryToken": "monday"}, rollout={"progressDeadlineSeconds": 7200})
    observation = running(spec, GOOD, rejected())
    new = declared(after(observation, plan(observation, SETTINGS)))
    probe = new.template["spec"]["containers"][0]["startupProbe"]
    assert probe["failureThreshold"] * probe["periodSeconds"] >= 2 * 7200


def test_names_count_how_often_something_was_rendered() -> None:
    assert [next_name(one) for one in ("abc", "abc-2", "abc-9", "a-b")] == ["abc-2", "abc-3", "abc-10", "a-b-2"]


def test_what_runs_under_a_second_name_is_known_again_when_its_record_is_lost() -> None:
    observation = running(RETRIED, rejected(), counts=NEVER_UP)
    then = after(observation, plan(observation, CORRECTED), **rolled_out(1, generation=2))
    lost = replace(then, revisions=())
    (record,) = [one for one in plan(lost, CORRECTED).actions if isinstance(one, CreateRevision)]
    assert read(record.manifest).hash == f"{rejected().hash}-2"
    assert read(record.manifest).state is State.GOOD
    found = after(lost, plan(lost, CORRECTED))
    assert found.deployment is not None
    assert lost.deployment is not None
    assert found.deployment["spec"]["template"] == lost.deployment["spec"]["template"], "nothing restarts"


# While it is being tried.


def trying(**over: Any) -> Observation:
    candidate = a_revision(number=2, started_at=ago(60), progress_at=ago(60), **over)
    return running(RETRIED, candidate, GOOD, counts=NEVER_UP)


def test_a_token_given_during_an_attempt_is_that_attempts_and_asks_for_no_other() -> None:
    observation = trying()
    decided = plan(observation, SETTINGS)
    (verdict,) = verdicts(decided)
    assert verdict == Verdict(
        State.CANDIDATE, attempt=1, started_at=ago(60), progress_at=ago(60), retry_token="monday"
    ), "the attempt goes on"
    then = after(observation, decided)
    assert verdicts(plan(then, SETTINGS)) == []
    late = replace(then, now=NOW + timedelta(hours=1))
    (verdict,) = verdicts(plan(late, SETTINGS))
    assert verdict is not None
    assert verdict.state is State.REJECTED
    over = after(late, plan(late, SETTINGS), **rolled_out(1, generation=3))
    assert verdicts(plan(over, SETTINGS)) == []


def test_a_token_taken_away_during_an_attempt_changes_nothing() -> None:
    observation = replace(trying(retry_token="monday"), parent=a_parent(spec=a_spec()))
    assert verdicts(plan(observation, SETTINGS)) == []


def test_a_token_given_during_an_attempt_with_an_image_that_was_corrected_begins_with_that_one() -> None:
    observation = trying()
    decided = plan(observation, CORRECTED)
    assert applied(decided) == [CORRECTED.server_image]
    new = declared(after(observation, decided))
    assert (new.verdict.attempt, new.verdict.started_at, new.verdict.retry_token) == (1, NOW, "monday")


def test_an_operator_of_another_image_leaves_an_attempt_alone() -> None:
    observation = replace(trying(), parent=a_parent(spec=a_spec()))
    assert [one for one in plan(observation, CORRECTED).actions if not isinstance(one, SetVerdict)] == []


# The terms of a fetch.


def without_a_model(state: State, **over: Any) -> Observation:
    """The model could not be fetched on the default terms; other terms are declared now."""
    waits = a_revision(state, spec=a_cached_spec(), number=2, **over)
    spec = a_cached_spec(model={"tokenSecretRef": {"name": "team"}})
    return replace(running(spec, GOOD, waits), claim=a_claim(), parent=a_parent(spec=spec))


def test_other_terms_have_a_revision_without_its_model_tried_once_more() -> None:
    observation = without_a_model(State.REJECTED, reason="TokenInvalid")
    decided = plan(observation, SETTINGS)
    (verdict,) = verdicts(decided)
    assert verdict is not None
    assert (verdict.state, verdict.attempt, verdict.started_at) == (State.CANDIDATE, 2, NOW)
    then = after(observation, decided)
    assert verdicts(plan(then, SETTINGS)) == [], "once"


def test_other_terms_begin_the_time_of_a_fetch_anew() -> None:
    observation = without_a_model(State.CANDIDATE, started_at=ago(800), progress_at=ago(800))
    (verdict,) = verdicts(plan(observation, SETTINGS))
    assert verdict is not None
    assert (verdict.state, verdict.attempt, verdict.started_at) == (State.CANDIDATE, 1, NOW)
    then = after(observation, plan(observation, SETTINGS))
    assert verdicts(plan(then, SETTINGS)) == [], "once"


def test_the_same_terms_ask_for_nothing() -> None:
    observation = without_a_model(State.REJECTED)
    back = replace(observation, parent=a_parent(spec=a_cached_spec()))
    assert verdicts(plan(back, SETTINGS)) == []


def test_terms_that_were_tried_and_failed_are_not_tried_again() -> None:
    observation = without_a_model(State.REJECTED)
    then = after(observation, plan(observation, SETTINGS))
    tried = declared(then)
    failed = read(tried.judged(replace(tried.verdict, state=State.REJECTED, reason="TokenInvalid")).live)
    assert verdicts(plan(replace(then, revisions=(GOOD.live, failed.live)), SETTINGS)) == []


# The fallback.


@pytest.mark.parametrize("is_active", [False, True])
def test_a_fallback_is_rendered_anew_unless_it_runs(is_active: bool) -> None:
    spec = a_spec(image="bad:1", rollback={"fallback": "Mock"})
    bad = a_revision(State.REJECTED, number=2, spec=spec)
    mock = a_revision(State.FALLBACK, number=3, spec=fallback_spec(spec))
    observation = running(spec, mock, bad) if is_active else running(spec, bad, mock, counts=NEVER_UP)
    decided = plan(observation, CORRECTED)
    assert applied(decided) == ([] if is_active else [CORRECTED.server_image])
    then = after(observation, decided, **rolled_out(1, generation=2))
    assert plan(then, CORRECTED).actions == ()


# The budget.


def test_rollbacks_that_no_budget_counts_are_not_kept() -> None:
    long_ago = tuple(NOW - BUDGET_WINDOW - timedelta(minutes=one) for one in range(50))
    observation = running(RETRIED, GOOD, rejected(rollbacks=(*long_ago, ago(60))))
    (verdict,) = verdicts(plan(observation, SETTINGS))
    assert verdict is not None
    assert verdict.rollbacks == (ago(60),)


def test_a_rejection_keeps_only_the_rollbacks_that_a_budget_counts() -> None:
    candidate = a_revision(
        number=2, started_at=ago(7000), progress_at=ago(7000), rollbacks=(NOW - BUDGET_WINDOW, ago(60))
    )
    (verdict,) = verdicts(plan(running(a_spec(), candidate, GOOD, counts=NEVER_UP), SETTINGS))
    assert verdict is not None
    assert (verdict.state, verdict.rollbacks) == (State.REJECTED, (ago(60), NOW))
