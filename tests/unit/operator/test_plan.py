from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_operator.api.conditions import Reason
from llm_operator.core.children import build_deployment, build_service
from llm_operator.core.model import InvalidSpec
from llm_operator.core.plan import plan
from llm_operator.observe import parse_spec
from tests.unit.operator.builders import SETTINGS, a_parent, a_spec, after, an_observation, as_stored


def kinds(observation: Any) -> list[str]:
    return [action.manifest["kind"] for action in plan(observation, SETTINGS).actions]


def test_a_new_object_gets_a_service_and_a_deployment() -> None:
    observation = an_observation()
    assert kinds(observation) == ["Service", "Deployment"]
    assert all(action.live is None for action in plan(observation, SETTINGS).actions)


def test_a_deleted_child_comes_back() -> None:
    observation = after(an_observation(), plan(an_observation(), SETTINGS))
    assert kinds(an_observation(service=observation.service)) == ["Deployment"]
    assert kinds(an_observation(deployment=observation.deployment)) == ["Service"]


def test_an_edited_child_is_repaired_and_only_that_one() -> None:
    observation = after(an_observation(), plan(an_observation(), SETTINGS))
    assert observation.service is not None
    observation.service["spec"]["ports"][0]["port"] = 80
    (action,) = plan(observation, SETTINGS).actions
    assert action.manifest["kind"] == "Service"
    assert action.live is observation.service


def test_a_child_that_is_being_deleted_is_left_to_go_first() -> None:
    observation = after(an_observation(), plan(an_observation(), SETTINGS))
    assert observation.deployment is not None
    observation.deployment["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    observation.deployment["spec"]["replicas"] = 9
    assert kinds(observation) == []


def test_nothing_is_written_for_an_object_that_is_being_deleted() -> None:
    assert plan(an_observation(parent=a_parent(deleting=True)), SETTINGS).actions == ()


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
    spec = a_spec()
    stored = as_stored(
        build_deployment(a_parent(), spec, SETTINGS) if child == "deployment" else build_service(a_parent())
    )
    stored["metadata"]["ownerReferences"] = [] if owner is None else [{**owner, "controller": True}]
    decided = plan(an_observation(**{child: stored}), SETTINGS)
    assert decided.actions == ()
    assert decided.obstacle is not None
    assert decided.obstacle.reason is reason
    assert decided.look_again_after


def test_an_invalid_spec_is_told_and_nothing_is_written() -> None:
    parsed = parse_spec({"mode": "gpt", "replicas": -1})
    assert isinstance(parsed, InvalidSpec)
    decided = plan(an_observation(parent=a_parent(spec=parsed)), SETTINGS)
    assert decided.actions == ()
    assert decided.obstacle is not None
    assert "spec.mode" in decided.obstacle.message
    assert "'mock', 'qwen'" in decided.obstacle.message
    assert "spec.replicas" in decided.obstacle.message


SPECS = st.builds(
    a_spec,
    mode=st.sampled_from(["mock", "qwen", "Qwen3-4B-Thinking-2507"]),
    replicas=st.integers(0, 100),
    image=st.sampled_from(["a/b:1", "c:2", None]),
    resources=st.sampled_from([None, {"limits": {"memory": "1Gi"}}, {"requests": {"cpu": "0.1"}}]),
    nodeSelector=st.sampled_from([None, {}, {"disk": "ssd"}]),
    tolerations=st.sampled_from([None, [], [{"operator": "Exists"}]]),
)


@given(st.lists(SPECS, min_size=1, max_size=4))
def test_applying_a_plan_leaves_nothing_to_plan_whatever_the_edits_were(specs: list[Any]) -> None:
    observation = an_observation()
    for generation, spec in enumerate(specs, start=1):
        parent = a_parent(spec=spec, generation=generation)
        observation = an_observation(parent=parent, deployment=observation.deployment, service=observation.service)
        observation = after(observation, plan(observation, SETTINGS))
        assert plan(observation, SETTINGS).actions == ()
