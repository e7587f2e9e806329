"""Children, foreign objects, and that a plan carried out leaves nothing to plan."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_operator.api.conditions import Reason
from llm_operator.core.actions import Apply
from llm_operator.core.children.service import build_service
from llm_operator.core.observation import InvalidSpec, Observation
from llm_operator.core.planner import Plan, plan
from llm_operator.core.revisions.state import State
from llm_operator.core.revisions.target import choose_target
from llm_operator.observe import parse_spec
from tests.unit.operator.builders import (
    SETTINGS,
    a_manifest,
    a_parent,
    a_pod,
    a_revision,
    a_spec,
    after,
    an_observation,
    as_stored,
    died,
    going,
    rolled_out,
    running,
    waiting,
)


def planned(observation: Observation) -> Plan:
    return plan(observation, SETTINGS)


def applied(observation: Observation) -> list[str]:
    return [action.manifest["kind"] for action in planned(observation).actions if isinstance(action, Apply)]


def at_rest() -> Observation:
    return running(a_spec(), a_revision(State.GOOD))


def test_a_new_object_gets_a_service_and_a_deployment() -> None:
    actions = [action for action in planned(an_observation()).actions if isinstance(action, Apply)]
    assert [action.manifest["kind"] for action in actions] == ["Deployment", "Service"], "what safety depends on first"
    assert all(action.live is None for action in actions)


def test_at_rest_there_is_nothing_to_do_and_nothing_to_wait_for() -> None:
    assert planned(at_rest()) == Plan()


@pytest.mark.parametrize("child", ["deployment", "service"])
def test_a_deleted_child_comes_back(child: str) -> None:
    gone: dict[str, Any] = {child: None}
    assert applied(replace(at_rest(), **gone)) == [child.capitalize()]


def test_an_edited_child_is_repaired_and_only_that_one() -> None:
    observation = at_rest()
    assert observation.service is not None
    observation.service["spec"]["ports"][0]["port"] = 80
    (action,) = planned(observation).actions
    assert isinstance(action, Apply)
    assert (action.live, action.path) == (observation.service, "spec.ports")
    assert not action.is_change, "it is a repair"


def test_another_revision_is_a_change_and_no_repair() -> None:
    old = a_revision(State.GOOD)
    (change,) = [one for one in planned(running(a_spec(image="b:1"), old)).actions if isinstance(one, Apply)]
    assert change.is_change


def test_other_replicas_are_applied_at_once() -> None:
    observation = replace(at_rest(), parent=a_parent(spec=a_spec(replicas=3)))
    (action,) = planned(observation).actions
    assert isinstance(action, Apply)
    assert action.manifest["spec"]["replicas"] == 3


def test_a_child_that_is_being_deleted_is_left_to_go_first() -> None:
    observation = at_rest()
    assert observation.deployment is not None
    observation.deployment["spec"]["replicas"] = 9
    assert applied(replace(observation, deployment=going(observation.deployment))) == []


def test_nothing_is_written_for_an_object_that_is_being_deleted() -> None:
    assert planned(an_observation(parent=a_parent(deleting=True))) == Plan()


def test_an_operator_that_renders_otherwise_restarts_nothing() -> None:
    newer = replace(SETTINGS, server_image="registry.example.com/server:2")
    assert plan(at_rest(), newer).actions == ()


@pytest.mark.parametrize("child", ["deployment", "service"])
@pytest.mark.parametrize(
    ("owner", "reason"),
    [
        (None, Reason.NAME_CONFLICT),
        ({"apiVersion": "apps/v1", "kind": "Other", "name": "triage", "uid": "u"}, Reason.NAME_CONFLICT),
        (
            {"apiVersion": "llm.carepath.ai/v1alpha1", "kind": "LLMDeployment", "name": "triage", "uid": "old"},
            Reason.WAITING_FOR_DELETION,
        ),
    ],
    ids=["nobody's", "another controller's", "an earlier namesake's"],
)
def test_what_is_not_ours_is_never_touched(child: str, owner: dict[str, Any] | None, reason: Reason) -> None:
    stored = as_stored(a_manifest() if child == "deployment" else build_service(a_parent()))
    stored["metadata"]["ownerReferences"] = [] if owner is None else [{**owner, "controller": True}]
    decided = planned(an_observation(**{child: stored}))
    assert decided.actions == ()
    assert decided.obstacle is not None
    assert decided.obstacle.reason is reason
    assert decided.look_again_after


def test_an_invalid_spec_is_told_and_nothing_is_written() -> None:
    parsed = parse_spec({"mode": "gpt", "replicas": -1})
    assert isinstance(parsed, InvalidSpec)
    decided = planned(an_observation(parent=a_parent(spec=parsed)))
    assert decided.actions == ()
    assert decided.obstacle is not None
    assert "spec.mode" in decided.obstacle.message
    assert "'mock', 'qwen'" in decided.obstacle.message
    assert "spec.replicas" in decided.obstacle.message


def test_only_what_condemns_or_undoes_or_is_made_anew_must_be_planned_from_live_reads() -> None:
    new, known = an_observation(), at_rest()
    assert not planned(new).is_delicate(new.parent), "a create touches nothing that exists"
    known = replace(known, parent=replace(known.parent, status={"conditions": []}))
    assert not planned(known).is_delicate(known.parent)
    gone = replace(known, service=None)
    assert planned(gone).is_delicate(gone.parent), "the LLMDeployment may have gone with it"
    edited = at_rest()
    assert edited.service is not None
    edited.service["spec"]["ports"][0]["port"] = 80
    assert planned(edited).is_delicate(edited.parent)
    promoted = running(a_spec(), a_revision(State.CANDIDATE))
    assert not planned(promoted).is_delicate(promoted.parent)
    late = replace(promoted, now=promoted.now + timedelta(days=1))
    assert late.deployment is not None
    del late.deployment["status"]
    assert planned(late).is_delicate(late.parent)


SPECS = st.builds(
    a_spec,
    mode=st.sampled_from(["mock", "qwen", "Qwen3-4B-Thinking-2507"]),
    replicas=st.sampled_from([0, 1, 2, 100]),
    image=st.sampled_from(["a/b:1", "c:2", None]),
    resources=st.sampled_from([None, {"limits": {"memory": "1Gi"}}, {"requests": {"cpu": "0.1"}}]),
    nodeSelector=st.sampled_from([None, {}, {"disk": "ssd"}]),
    tolerations=st.sampled_from([None, [], [{"operator": "Exists"}]]),
    rollback=st.fixed_dictionaries(
        {},
        optional={
            "enabled": st.booleans(),
            "fallback": st.sampled_from(["None", "Mock"]),
            "maxPerHour": st.sampled_from([1, 3]),
            "retryToken": st.sampled_from(["1", "2"]),
        },
    ),
)
COUNTS = st.sampled_from(
    [
        {},
        {"observedGeneration": 1},
        {"observedGeneration": 99, "replicas": 1, "updatedReplicas": 1},
        {"observedGeneration": 99, "replicas": 2, "updatedReplicas": 1, "availableReplicas": 1, "readyReplicas": 1},
        rolled_out(1, generation=99),
        rolled_out(2, generation=99),
    ]
)
PODS = st.sampled_from([(), waiting("InvalidImageName"), died(1, crashes=5)])
STEPS = st.lists(st.tuples(SPECS, COUNTS, PODS, st.sampled_from([0, 5, 20, 3000])), min_size=1, max_size=6)


@settings(deadline=None)
@given(STEPS)
def test_applying_a_plan_leaves_nothing_to_plan_whatever_happened(steps: list[Any]) -> None:
    observation = an_observation()
    for generation, (spec, counts, containers, seconds) in enumerate(steps, start=1):
        deployment = observation.deployment
        observation = replace(
            observation,
            parent=a_parent(spec=spec, generation=generation),
            deployment=deployment and {**deployment, "status": counts},
            now=observation.now + timedelta(seconds=seconds),
        )
        active = choose_target(observation, spec).history.get(choose_target(observation, spec).active)
        pods = (a_pod(of=active, containerStatuses=containers),) if active is not None and containers else ()
        observation = replace(observation, pods=pods)
        # A verdict may open the next one (an attempt that begins is judged in the pass after), but not for ever.
        for _ in range(4):
            decided = planned(observation)
            if not decided.actions:
                break
            observation = after(observation, decided)
        assert planned(observation).actions == ()
