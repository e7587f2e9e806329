"""Where it goes after a rejection: back to the good one, nowhere, or to the mock; and how often."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from llm_operator.api.conditions import Reason
from llm_operator.core import names
from llm_operator.core.actions import Apply, CreateRevision, SetVerdict
from llm_operator.core.observation import InvalidSpec, Observation
from llm_operator.core.planner import plan
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import State, decode
from llm_operator.core.revisions.target import choose_target, fallback_spec
from tests.unit.operator.builders import (
    NOW,
    SETTINGS,
    a_parent,
    a_pod,
    a_revision,
    a_spec,
    after,
    ago,
    an_observation,
    read,
    rolled_out,
    running,
    waiting,
)

BAD = {"image": "bad:1"}
GOOD = a_revision(State.GOOD)
NEVER_UP = {"replicas": 1, "updatedReplicas": 1}
SURGED = {"replicas": 2, "updatedReplicas": 1, "readyReplicas": 1, "availableReplicas": 1}


def candidate(**over: Any) -> Revision:
    return a_revision(number=2, spec=a_spec(**BAD), **over)


def rejected(**over: Any) -> Revision:
    return a_revision(State.REJECTED, number=2, spec=a_spec(**BAD), **over)


def given(observation: Observation) -> str | None:
    """The revision that the plan gives to the Deployment, if it writes that."""
    actions = [one for one in plan(observation, SETTINGS).actions if isinstance(one, Apply)]
    return next((names.revision_of(one.manifest) for one in actions if one.manifest["kind"] == "Deployment"), None)


def failing(spec: Any, *revisions: Revision) -> Observation:
    """The first of the revisions runs, and its image does not exist: proved a while ago."""
    observation = running(spec, *revisions, counts=SURGED)
    pod = a_pod(of=revisions[0], containerStatuses=waiting("InvalidImageName"))
    first = replace(observation, pods=(pod,), now=ago(60))
    return replace(first, now=NOW, suspicion=plan(first, SETTINGS).suspicion)


def test_the_rejection_is_written_before_the_good_revision_is_applied() -> None:
    observation = failing(a_spec(**BAD), candidate(), GOOD)
    judge, back = plan(observation, SETTINGS).actions
    assert isinstance(judge, SetVerdict)
    verdict = decode(judge.annotation)
    assert verdict is not None
    assert (verdict.state, verdict.decided_at, verdict.rollbacks) == (State.REJECTED, NOW, (NOW,))
    assert judge.rejects
    assert judge.rolls_back
    assert judge.outcome is not None
    assert judge.outcome.reason is Reason.INVALID_IMAGE_NAME
    assert isinstance(back, Apply)
    assert back.manifest["spec"]["template"] == GOOD.template
    assert back.is_change
    then = after(observation, plan(observation, SETTINGS))
    assert plan(then, SETTINGS).actions == ()


def test_the_way_back_goes_on_after_a_crash_between_the_verdict_and_the_apply() -> None:
    assert given(running(a_spec(**BAD), rejected(), GOOD, counts=SURGED)) == GOOD.hash


def test_a_rejected_revision_that_comes_up_too_late_is_replaced_all_the_same() -> None:
    observation = running(a_spec(**BAD), rejected(), GOOD)
    (back,) = plan(observation, SETTINGS).actions
    assert isinstance(back, Apply)
    assert names.revision_of(back.manifest) == GOOD.hash


def test_the_good_revision_is_brought_back_with_the_replicas_that_are_declared_now() -> None:
    observation = running(a_spec(**BAD), rejected(), GOOD, counts=SURGED)
    observation = replace(observation, parent=a_parent(spec=a_spec(**BAD, replicas=3)))
    (change,) = plan(observation, SETTINGS).actions
    assert isinstance(change, Apply)
    assert change.manifest["spec"]["replicas"] == 3
    assert change.manifest["spec"]["template"] == GOOD.template


def test_an_edit_on_the_way_back_is_tried_at_once() -> None:
    observation = running(a_spec(image="new:1"), rejected(), GOOD, counts=SURGED)
    assert given(observation) == a_revision(spec=a_spec(image="new:1")).hash


def test_the_last_good_revision_is_the_one_that_was_proved_last() -> None:
    older = a_revision(State.GOOD, number=9, spec=a_spec(image="older:1"), decided_at=ago(9999))
    assert given(running(a_spec(**BAD), rejected(), GOOD, older, counts=SURGED)) == GOOD.hash


# Nothing to go back to, or not wanted.


def test_without_a_good_revision_the_rejected_one_stays() -> None:
    decided = plan(failing(a_spec(**BAD), candidate()), SETTINGS)
    (judge,) = decided.actions
    assert isinstance(judge, SetVerdict)
    verdict = decode(judge.annotation)
    assert verdict is not None
    assert (verdict.state, verdict.rollbacks) == (State.REJECTED, ())
    assert (judge.rejects, judge.rolls_back) == (True, False)


def test_with_rollback_disabled_the_verdict_is_the_same_and_nothing_is_taken_back() -> None:
    spec = a_spec(**BAD, rollback={"enabled": False})
    decided = plan(failing(spec, candidate(), GOOD), SETTINGS)
    (judge,) = decided.actions
    assert isinstance(judge, SetVerdict)
    verdict = decode(judge.annotation)
    assert verdict is not None
    assert (verdict.state, verdict.rollbacks) == (State.REJECTED, ()), "it counts in no budget"


def test_enabling_rollback_later_takes_it_back() -> None:
    assert given(running(a_spec(**BAD), rejected(), GOOD, counts=SURGED)) == GOOD.hash


def test_disabling_rollback_brings_the_rejected_one_again() -> None:
    assert given(running(a_spec(**BAD, rollback={"enabled": False}), GOOD, rejected())) == rejected().hash


# The mock.

MOCK = {**BAD, "rollback": {"fallback": "Mock"}}


def fallback(spec: Any) -> Revision:
    return a_revision(State.FALLBACK, number=3, spec=fallback_spec(spec))


def test_the_mock_is_recorded_and_applied_when_nothing_was_ever_good() -> None:
    spec = a_spec(**MOCK)
    observation = failing(spec, candidate())
    judge, record, apply = plan(observation, SETTINGS).actions
    assert isinstance(judge, SetVerdict)
    assert isinstance(record, CreateRevision)
    assert isinstance(apply, Apply)
    revision = read(record.manifest)
    assert (revision.state, revision.hash) == (State.FALLBACK, fallback(spec).hash)
    assert names.revision_of(apply.manifest) == revision.hash
    assert apply.manifest["spec"]["template"]["spec"]["containers"][0]["image"] == SETTINGS.server_image
    then = after(observation, plan(observation, SETTINGS))
    assert plan(then, SETTINGS).actions == ()


def test_the_mock_may_run_where_the_declared_one_may() -> None:
    spec = a_spec(
        **MOCK, tolerations=[{"operator": "Exists"}], imagePullSecrets=[{"name": "registry"}], nodeSelector={"gpu": "1"}
    )
    pod = fallback(spec).template["spec"]
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert "nodeSelector" not in pod


def test_the_mock_is_never_judged() -> None:
    spec = a_spec(**MOCK)
    for counts in (NEVER_UP, rolled_out(1)):
        assert plan(running(spec, fallback(spec), rejected(), counts=counts), SETTINGS).actions == ()


@pytest.mark.parametrize(
    ("rollback", "others"),
    [
        ({"fallback": "None"}, ()),
        ({"fallback": "Mock", "enabled": False}, ()),
        ({"fallback": "Mock"}, (GOOD,)),
    ],
    ids=["it is not wanted", "rollback is disabled", "there is a good revision"],
)
def test_no_mock_is_recorded_when(rollback: dict[str, Any], others: tuple[Revision, ...]) -> None:
    spec = a_spec(**BAD, rollback=rollback)
    actions = plan(running(spec, rejected(), *others, counts=NEVER_UP), SETTINGS).actions
    assert not any(isinstance(action, CreateRevision) for action in actions)


def test_a_mock_that_is_not_wanted_any_more_makes_room() -> None:
    spec = a_spec(**BAD)
    assert given(running(spec, fallback(a_spec(**MOCK)), rejected())) == rejected().hash


def test_a_declared_mock_that_fails_is_no_fallback_of_itself() -> None:
    spec = a_spec(
        **fallback_spec(a_spec()).model_dump(by_alias=True, exclude_unset=True), rollback={"fallback": "Mock"}
    )
    bad = a_revision(State.REJECTED, spec=spec)
    assert plan(running(spec, bad, counts=NEVER_UP), SETTINGS).actions == ()


def test_a_mock_that_was_declared_and_rejected_before_is_no_fallback() -> None:
    spec = a_spec(**MOCK)
    failed = a_revision(State.REJECTED, number=3, spec=fallback_spec(spec))
    assert plan(running(spec, rejected(), failed, counts=NEVER_UP), SETTINGS).actions == ()


def test_an_edit_is_tried_in_place_of_the_mock() -> None:
    spec = a_spec(image="new:1", rollback={"fallback": "Mock"})
    observation = running(spec, fallback(spec), rejected())
    assert given(observation) == a_revision(spec=spec).hash


# The budget.

NEW = {"image": "new:1"}


def rolled_back(times: int, *, every: float = 600.0) -> list[Revision]:
    """So many other revisions were rolled back, the last one just now."""
    return [
        a_revision(State.REJECTED, number=10 + n, spec=a_spec(image=f"bad:{n}"), rollbacks=(ago(every * n),))
        for n in range(times)
    ]


def test_a_change_waits_when_there_were_too_many_rollbacks_and_the_good_one_serves() -> None:
    decided = plan(running(a_spec(**NEW), GOOD, *rolled_back(3)), SETTINGS)
    assert decided.actions == (), "nothing is even recorded"
    assert decided.obstacle is not None
    assert decided.obstacle.reason is Reason.ROLLBACK_BUDGET_EXCEEDED
    assert "maxPerHour" in decided.obstacle.message
    assert decided.look_again_after == 3600 - 1200


def test_the_change_is_made_once_the_hour_is_over() -> None:
    observation = running(a_spec(**NEW), GOOD, *rolled_back(3))
    later = replace(observation, now=NOW + timedelta(seconds=3600 - 1200))
    assert given(later) == a_revision(spec=a_spec(**NEW)).hash
    earlier = replace(observation, now=NOW + timedelta(seconds=3600 - 1201))
    assert given(earlier) is None


def test_a_lower_limit_counts_all_that_happened_within_the_hour() -> None:
    spec = a_spec(**NEW, rollback={"maxPerHour": 2})
    decided = plan(running(spec, GOOD, *rolled_back(4)), SETTINGS)
    assert decided.look_again_after == 3600 - 600


def test_fewer_rollbacks_leave_room_for_a_change() -> None:
    assert given(running(a_spec(**NEW), GOOD, *rolled_back(2))) == a_revision(spec=a_spec(**NEW)).hash


def test_a_higher_limit_makes_room_at_once() -> None:
    spec = a_spec(**NEW, rollback={"maxPerHour": 4})
    assert given(running(spec, GOOD, *rolled_back(3))) == a_revision(spec=spec).hash


def test_nothing_is_held_back_where_nothing_is_rolled_back() -> None:
    spec = a_spec(**NEW, rollback={"enabled": False})
    assert given(running(spec, GOOD, *rolled_back(3))) == a_revision(spec=spec).hash


@pytest.mark.parametrize("counts", [{}, {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}])
def test_nothing_is_held_back_while_nothing_good_serves(counts: dict[str, int]) -> None:
    observation = running(a_spec(**NEW), GOOD, *rolled_back(3), counts=counts)
    assert given(observation) == a_revision(spec=a_spec(**NEW)).hash
    assert given(replace(observation, deployment=None)) == a_revision(spec=a_spec(**NEW)).hash


def test_nothing_is_held_back_while_nothing_was_ever_good() -> None:
    spec = a_spec(**NEW)
    first, *others = rolled_back(3)
    assert given(running(spec, first, *others)) == a_revision(spec=spec).hash


def test_the_good_revision_itself_is_never_held_back() -> None:
    first, *others = rolled_back(3)
    assert given(running(a_spec(), first, GOOD, *others)) == GOOD.hash


def test_what_runs_already_goes_on() -> None:
    assert plan(running(a_spec(**BAD), candidate(), GOOD, *rolled_back(3), counts=SURGED), SETTINGS).obstacle is None


def test_a_rejected_revision_is_told_as_rejected_and_not_as_held_back() -> None:
    assert plan(running(a_spec(**BAD), GOOD, rejected(), *rolled_back(3)), SETTINGS).obstacle is None


@pytest.mark.parametrize(
    "revision",
    [rejected(), candidate(), a_revision(State.GOOD, number=2, spec=a_spec(**BAD), decided_at=ago(9999))],
    ids=["tried again by a fresh token", "left aside before", "good before the last good one"],
)
def test_every_new_attempt_of_a_known_revision_is_held_back_too(revision: Revision) -> None:
    spec = a_spec(**BAD, rollback={"retryToken": "fresh"})
    decided = plan(running(spec, GOOD, revision, *rolled_back(3)), SETTINGS)
    assert decided.actions == ()
    assert decided.obstacle is not None
    assert decided.obstacle.reason is Reason.ROLLBACK_BUDGET_EXCEEDED


def test_the_budget_survives_the_last_good_one_being_drifted_meanwhile() -> None:
    observation = running(a_spec(**NEW), GOOD, *rolled_back(3))
    assert observation.deployment is not None
    observation.deployment["spec"]["template"]["spec"]["containers"][0]["image"] = "edited:1"
    assert given(observation) == GOOD.hash


def test_the_course_is_the_same_whoever_looks() -> None:
    observation = running(a_spec(**BAD), GOOD, rejected())
    spec = observation.parent.spec
    assert not isinstance(spec, InvalidSpec)
    backwards = replace(observation, revisions=tuple(reversed(observation.revisions)))
    assert choose_target(observation, spec) == choose_target(backwards, spec)


def test_an_observation_without_anything_goes_nowhere() -> None:
    target = choose_target(an_observation(), a_spec())
    assert (target.active, target.revision, target.last_good, target.budget_hold) == (None, None, None, None)
