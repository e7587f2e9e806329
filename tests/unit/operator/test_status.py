import dataclasses
from typing import Any

import pytest

from llm_operator.api.conditions import Finding, Reason
from llm_operator.api.types import LLMDeploymentStatus
from llm_operator.core.model import Observation
from llm_operator.core.plan import plan
from llm_operator.core.status import build_status
from tests.unit.operator.builders import (
    SETTINGS,
    a_container_status,
    a_parent,
    a_pod,
    a_spec,
    after,
    an_observation,
    rolled_out,
)


def applied(declared: int = 2, **status: Any) -> Observation:
    observation = an_observation(parent=a_parent(spec=a_spec(replicas=declared)))
    return after(observation, plan(observation, SETTINGS), **status)


def conditions(observation: Observation, obstacle: Finding | None = None) -> dict[str, tuple[str, str]]:
    status = build_status(observation, obstacle)
    return {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}


def test_all_replicas_ready() -> None:
    assert conditions(applied(**rolled_out(2))) == {
        "Ready": ("True", "AllReplicasReady"),
        "Available": ("True", "ReplicasAvailable"),
    }


def test_a_change_the_deployment_controller_has_not_seen_is_not_ready_although_old_counts_look_fine() -> None:
    assert conditions(applied(**rolled_out(2, generation=0))) == {
        "Ready": ("False", "RollingOut"),
        "Available": ("True", "ReplicasAvailable"),
        "Reconciling": ("True", "RollingOut"),
    }


def test_old_pods_still_running_is_not_ready() -> None:
    counts = {**rolled_out(2), "replicas": 3}
    observation = applied(**counts)
    assert conditions(observation)["Ready"] == ("False", "RollingOut")
    messages = {one["type"]: one["message"] for one in build_status(observation, None)["conditions"]}
    assert "1 of the previous spec" in messages["Ready"]


def test_a_failing_new_pod_is_named_while_the_old_ones_serve() -> None:
    counts = {"observedGeneration": 1, "replicas": 2, "updatedReplicas": 1, "availableReplicas": 1, "readyReplicas": 1}
    observation = dataclasses.replace(
        applied(declared=1, **counts),
        pods=(
            a_pod("old", ready=True),
            a_pod("new", containerStatuses=a_container_status(state={"waiting": {"reason": "ErrImagePull"}})),
        ),
    )
    assert conditions(observation) == {
        "Ready": ("False", "ImagePullFailed"),
        "Available": ("True", "ReplicasAvailable"),
        "Reconciling": ("True", "ImagePullFailed"),
    }


def test_scaled_to_zero_is_ready_but_not_available() -> None:
    assert conditions(applied(declared=0, observedGeneration=1)) == {
        "Ready": ("True", "ScaledToZero"),
        "Available": ("False", "ScaledToZero"),
    }


@pytest.mark.parametrize(
    "reason", [Reason.NAME_CONFLICT, Reason.INVALID_SPEC, Reason.APPLY_REFUSED, Reason.DRIFT_NOT_REPAIRED]
)
def test_what_only_somebody_else_can_change_is_stalled_and_what_serves_is_still_told(reason: Reason) -> None:
    assert conditions(applied(**rolled_out(2)), Finding(reason, "why")) == {
        "Ready": ("False", reason),
        "Available": ("True", "ReplicasAvailable"),
        "Stalled": ("True", reason),
    }


def test_a_foreign_deployment_gives_neither_replicas_nor_availability() -> None:
    observation = applied(**rolled_out(2))
    assert observation.deployment is not None
    observation.deployment["metadata"]["ownerReferences"] = []
    status = build_status(observation, Finding(Reason.NAME_CONFLICT, "why"))
    assert status["replicas"] == 0
    assert "mode" not in status
    assert "url" in status, "the Service is our own"
    assert conditions(observation, Finding(Reason.NAME_CONFLICT, "why"))["Available"][0] == "False"


def test_before_anything_is_made_it_says_so() -> None:
    status = build_status(an_observation(), None)
    assert {"mode", "url"} & status.keys() == set()
    assert conditions(an_observation())["Ready"] == ("False", "RollingOut")


@pytest.mark.parametrize("env", [[], [{"name": "OTHER", "value": "mock"}], [{"name": "LLM_MODE", "value": "by hand"}]])
def test_a_mode_that_is_none_is_not_told(env: list[dict[str, str]]) -> None:
    observation = applied(**rolled_out(2))
    assert observation.deployment is not None
    assert build_status(observation, None)["mode"] == "mock"
    observation.deployment["spec"]["template"]["spec"]["containers"][0]["env"] = env
    assert "mode" not in build_status(observation, None)
    observation.deployment["spec"]["template"]["spec"]["containers"] = []
    assert "mode" not in build_status(observation, None)


def test_every_condition_speaks_about_the_generation_that_was_read() -> None:
    observation = dataclasses.replace(applied(**rolled_out(2)), parent=a_parent(generation=5))
    status = build_status(observation, None)
    assert status["observedGeneration"] == 5
    assert {one["observedGeneration"] for one in status["conditions"]} == {5}


def test_the_status_is_a_fixed_point_so_nothing_is_written_at_rest() -> None:
    observation = applied(**rolled_out(2))
    first = build_status(observation, None)
    later = dataclasses.replace(
        observation,
        parent=dataclasses.replace(observation.parent, status=first),
        now=observation.now.replace(year=2030),
    )
    assert build_status(later, None) == first


def test_the_transition_time_moves_only_with_the_status() -> None:
    before = build_status(applied(**rolled_out(2)), None)
    later = dataclasses.replace(
        applied(observedGeneration=1, replicas=2, updatedReplicas=2, availableReplicas=1),
        parent=a_parent(spec=a_spec(replicas=2), status=before),
        now=an_observation().now.replace(year=2030),
    )
    times = {one["type"]: one["lastTransitionTime"][:4] for one in build_status(later, None)["conditions"]}
    assert times == {"Ready": "2030", "Reconciling": "2030", "Available": "2026"}


def test_words_of_the_runtime_do_not_come_and_go() -> None:
    def failing(words: str) -> Observation:
        waiting = {"reason": "ErrImagePull" if words else "ImagePullBackOff", "message": words}
        return dataclasses.replace(
            applied(observedGeneration=1, replicas=2),
            pods=(a_pod(containerStatuses=a_container_status(state={"waiting": waiting})),),
        )

    first = build_status(failing("not found"), None)
    then = dataclasses.replace(failing(""), parent=a_parent(spec=a_spec(replicas=2), status=first))
    assert build_status(then, None) == first
    later = a_parent(spec=a_spec(replicas=2), status=first, generation=2)
    assert build_status(dataclasses.replace(failing(""), parent=later), None)["conditions"][1]["message"].endswith(".")
    changed = dataclasses.replace(failing("denied"), parent=a_parent(spec=a_spec(replicas=2), status=first))
    assert build_status(changed, None) != first


def test_the_status_is_what_the_crd_declares() -> None:
    LLMDeploymentStatus.model_validate(build_status(applied(**rolled_out(2)), None), extra="forbid")
