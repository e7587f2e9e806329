"""What is recorded before anything is applied, recorded anew when it is gone, and forgotten when nothing needs it."""

from dataclasses import replace
from typing import Any

import pytest

from llm_operator.core import names
from llm_operator.core.actions import Apply, CreateRevision, DeleteRevision, SetVerdict
from llm_operator.core.children.service import build_service
from llm_operator.core.names import Manifest
from llm_operator.core.observation import Observation
from llm_operator.core.planner import plan
from llm_operator.core.revisions.history import KEPT, read_history
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import State, Verdict
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
    going,
    read,
    rolled_out,
    running,
)


def actions(observation: Observation, kind: type) -> list[Any]:
    return [action for action in plan(observation, SETTINGS).actions if isinstance(action, kind)]


def recorded(observation: Observation) -> list[Revision]:
    return [read(action.manifest) for action in actions(observation, CreateRevision)]


def test_the_declared_revision_is_recorded_before_it_is_applied() -> None:
    first, *rest = plan(an_observation(), SETTINGS).actions
    assert isinstance(first, CreateRevision)
    assert all(isinstance(action, Apply) for action in rest)
    revision = read(first.manifest)
    assert (revision.state, revision.verdict.attempt, revision.verdict.started_at) == (State.CANDIDATE, 1, NOW)
    assert first.manifest["metadata"]["name"] == f"triage-{revision.hash}"


def test_what_is_applied_is_the_recorded_template_word_for_word() -> None:
    record, deployment, _ = plan(an_observation(), SETTINGS).actions
    assert isinstance(record, CreateRevision)
    assert isinstance(deployment, Apply)
    assert deployment.manifest["spec"]["template"] == record.manifest["data"]["template"]


def test_an_edit_is_recorded_with_the_next_number() -> None:
    (new,) = recorded(running(a_spec(image="b:1"), a_revision(State.GOOD, number=7)))
    assert (new.number, new.fields["image"]) == (8, "b:1")


@pytest.mark.parametrize(
    "spec",
    [
        {"replicas": 3},
        {"rollout": {"soakSeconds": 1, "strategy": "Recreate"}},
        {"rollback": {"enabled": False, "retryToken": "2"}},
    ],
    ids=["replicas", "rollout", "rollback"],
)
def test_what_does_not_shape_the_pods_makes_no_revision(spec: dict[str, Any]) -> None:
    observation = running(a_spec(), a_revision(State.GOOD))
    assert recorded(replace(observation, parent=a_parent(spec=a_spec(**spec)))) == []


@pytest.mark.parametrize("how", ["another parent's", "on its way out", "unreadable"])
def test_a_record_that_does_not_count_is_as_good_as_none(how: str) -> None:
    live = a_revision(State.GOOD).live
    match how:
        case "another parent's":
            owner = {**live["metadata"]["ownerReferences"][0], "uid": "another"}
            live = {**live, "metadata": {**live["metadata"], "ownerReferences": [owner]}}
        case "on its way out":
            live = going(live)
        case "unreadable":
            live = {**live, "data": None}
    assert [one.hash for one in recorded(an_observation(revisions=(live,)))] == [a_revision().hash]


# Adoption.


def without_records(spec: Any, runs: Revision, **over: Any) -> Observation:
    return replace(running(spec, runs, **over), revisions=())


def test_what_runs_is_recorded_as_good_when_its_record_is_gone_and_restarts_nothing() -> None:
    observation = without_records(a_spec(), a_revision())
    assert observation.deployment is not None
    template = observation.deployment["spec"]["template"]
    (adopted,) = recorded(observation)
    assert (adopted.hash, adopted.state, adopted.fields) == (a_revision().hash, State.GOOD, {"mode": "mock"})
    assert adopted.template == template, "as it runs, defaults and all"
    then = after(observation, plan(observation, SETTINGS))
    assert then.deployment is not None
    assert then.deployment["spec"]["template"] == template
    assert plan(then, SETTINGS).actions == ()


def test_what_runs_is_adopted_before_an_edit_replaces_it_so_that_there_is_a_way_back() -> None:
    adopted, new = recorded(without_records(a_spec(image="b:1"), a_revision()))
    assert (adopted.hash, adopted.state, adopted.fields) == (a_revision().hash, State.GOOD, {})
    assert (new.fields["image"], new.state, new.number) == ("b:1", State.CANDIDATE, 2)


def test_a_revision_that_was_adopted_without_its_fields_is_known_by_its_name() -> None:
    observation = without_records(a_spec(image="b:1"), a_revision())
    observation = after(observation, plan(observation, SETTINGS), **rolled_out(1, generation=2))
    reverted = replace(observation, parent=a_parent(spec=a_spec()))
    assert recorded(reverted) == []
    (change,) = actions(reverted, Apply)
    assert change.manifest["metadata"]["annotations"]["llm.carepath.ai/revision"] == a_revision().hash


def test_what_has_not_come_up_is_not_taken_for_good() -> None:
    (new,) = recorded(without_records(a_spec(), a_revision(), counts={"replicas": 1, "updatedReplicas": 1}))
    assert new.state is State.CANDIDATE


def test_where_nothing_runs_nothing_is_taken_for_good() -> None:
    (new,) = recorded(without_records(a_spec(replicas=0), a_revision()))
    assert new.verdict == Verdict(State.CANDIDATE)


def test_pods_are_not_taken_for_a_revision_that_somebody_wrote_onto_the_deployment() -> None:
    observation = without_records(a_spec(image="b:1"), a_revision())
    assert observation.deployment is not None
    observation.deployment["metadata"]["annotations"][names.REVISION] = "another"
    assert [one.fields.get("image") for one in recorded(observation)] == ["b:1"]


def test_what_is_recorded_anew_is_judged_in_the_next_pass_for_it_is_not_stored_yet() -> None:
    counts = {"replicas": 2, "updatedReplicas": 2, "availableReplicas": 1}
    observation = without_records(a_spec(replicas=2), a_revision(), counts=counts)
    assert not actions(observation, SetVerdict)
    then = after(observation, plan(observation, SETTINGS))
    assert [judge.live for judge in actions(then, SetVerdict)] == [then.revisions[0]]


def test_a_deployment_of_nobody_is_not_adopted() -> None:
    observation = without_records(a_spec(), a_revision())
    assert observation.deployment is not None
    observation.deployment["metadata"]["ownerReferences"] = []
    assert plan(observation, SETTINGS).actions == ()


def test_a_deployment_that_names_no_revision_is_given_the_declared_one() -> None:
    observation = without_records(a_spec(), a_revision())
    assert observation.deployment is not None
    del observation.deployment["metadata"]["annotations"]
    (new,) = recorded(observation)
    assert new.state is State.CANDIDATE


# Pruning.


def many(count: int, *, first: int = 1, **verdict: Any) -> list[Revision]:
    return [
        a_revision(State.REJECTED, number=number, spec=a_spec(image=f"old:{number}"), **verdict)
        for number in range(first, first + count)
    ]


def forgotten(*revisions: Revision, declared: Revision, runs: Revision, spec: Any) -> list[int]:
    observation = an_observation(
        parent=a_parent(spec=spec),
        deployment=as_stored(a_manifest(spec, runs), **rolled_out(spec.replicas)),
        service=as_stored(build_service(a_parent())),
        revisions=tuple(one.live for one in (*revisions, declared, runs)),
    )
    found = [read(action.live) for action in actions(observation, DeleteRevision)]
    assert declared.hash not in {one.hash for one in found}
    assert runs.hash not in {one.hash for one in found}
    return [one.number for one in found]


GOOD = a_revision(State.GOOD, number=50)


def test_a_few_old_revisions_are_kept_for_people() -> None:
    assert forgotten(*many(KEPT), declared=GOOD, runs=GOOD, spec=a_spec()) == []


def test_the_oldest_of_more_are_forgotten() -> None:
    assert forgotten(*many(KEPT + 2), declared=GOOD, runs=GOOD, spec=a_spec()) == [1, 2]


def test_the_oldest_stays_while_it_is_the_good_one() -> None:
    good = a_revision(State.GOOD, number=1)
    bad = a_revision(State.REJECTED, number=99, spec=a_spec(image="bad:1"))
    spec = a_spec(image="bad:1")
    assert forgotten(*many(KEPT + 1, first=2), declared=bad, runs=good, spec=spec) == [2]


def test_the_declared_one_stays_however_old_it_is() -> None:
    bad = a_revision(State.REJECTED, number=1, spec=a_spec(image="bad:1"))
    assert forgotten(*many(KEPT + 1, first=2), declared=bad, runs=GOOD, spec=a_spec(image="bad:1")) == [2]


def test_what_was_good_before_the_last_good_one_may_go() -> None:
    older = a_revision(State.GOOD, number=1, spec=a_spec(image="older:1"), decided_at=ago(9999))
    assert forgotten(older, *many(KEPT, first=2), declared=GOOD, runs=GOOD, spec=a_spec()) == [1]


def test_what_still_counts_in_the_budget_stays() -> None:
    lately = many(KEPT + 2, rollbacks=(ago(3599),))
    assert forgotten(*lately, declared=GOOD, runs=GOOD, spec=a_spec()) == []
    long_ago = many(KEPT + 2, rollbacks=(ago(3600),))
    assert forgotten(*long_ago, declared=GOOD, runs=GOOD, spec=a_spec()) == [1, 2]


def test_the_way_back_is_not_forgotten_while_the_new_one_is_on_its_way() -> None:
    good = a_revision(State.GOOD, number=1)
    observation = running(a_spec(image="new:1"), good, *many(KEPT, first=2))
    then = after(observation, plan(observation, SETTINGS))
    assert good.hash in {one.hash for one in read_history(a_parent(), then.revisions).revisions}
    assert not actions(then, DeleteRevision)
    assert not actions(then, SetVerdict)


def test_a_record_that_is_forgotten_is_deleted_as_it_was_read() -> None:
    old: Manifest = many(1)[0].live
    observation = running(a_spec(), GOOD, *many(KEPT + 1))
    (forget,) = actions(observation, DeleteRevision)
    assert forget.live == old
