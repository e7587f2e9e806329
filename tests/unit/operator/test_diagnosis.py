import json
from typing import Any

import pytest

from llm_operator.api.conditions import Reason
from llm_operator.core.diagnosis import diagnose, says_the_same
from tests.unit.operator.builders import a_container_status, a_pod


def waiting(reason: str, message: str = "") -> list[dict[str, Any]]:
    return a_container_status(state={"waiting": {"reason": reason, "message": message}})


def died(exit_code: int, reason: str = "Error", message: str = "", *, running: bool = False) -> list[dict[str, Any]]:
    terminated = {"exitCode": exit_code, "reason": reason, "message": message}
    state = {"running": {}} if running else {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}}
    return a_container_status(state=state, lastState={"terminated": terminated})


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: no cpu"}
LAST_WORDS = json.dumps({"reason": "ModeNotSupported", "message": "no qwen here.", "remedy": "Set LLM_MODE=mock."})

CASES: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "the image name is not a name": (
        {"containerStatuses": waiting("InvalidImageName")},
        Reason.INVALID_IMAGE_NAME,
        "x:1",
    ),
    "the image is not there": (
        {"containerStatuses": waiting("ErrImagePull", "x:1: not found")},
        Reason.IMAGE_PULL_FAILED,
        "not found",
    ),
    "the runtime waits before it pulls again": (
        {
            "containerStatuses": waiting(
                "ImagePullBackOff", 'Back-off pulling image "x:1": ErrImagePull: x:1: not found'
            )
        },
        Reason.IMAGE_PULL_FAILED,
        "It says: x:1: not found",
    ),
    "a Secret is missing": (
        {"containerStatuses": waiting("CreateContainerConfigError", 'secret "token" not found')},
        Reason.CONTAINER_CONFIG_ERROR,
        'secret "token" not found',
    ),
    "too little memory": ({"containerStatuses": died(137, "OOMKilled")}, Reason.OOM_KILLED, "64Mi"),
    "too little memory, running again for a moment": (
        {"containerStatuses": died(137, "OOMKilled", running=True)},
        Reason.OOM_KILLED,
        "limits.memory",
    ),
    "the server exits": ({"containerStatuses": died(3)}, Reason.CRASH_LOOP, "code 3"),
    "the server exits and says why": (
        {"containerStatuses": died(78, message=LAST_WORDS)},
        Reason.CRASH_LOOP,
        "ModeNotSupported: no qwen here. Set LLM_MODE=mock.",
    ),
    "an init container fails": ({"initContainerStatuses": died(1)}, Reason.CRASH_LOOP, "code 1"),
    "no node fits": ({"conditions": [UNSCHEDULABLE]}, Reason.UNSCHEDULABLE, "0/3 nodes"),
}


@pytest.mark.parametrize(("status", "reason", "words"), CASES.values(), ids=CASES)
def test_the_fault_is_found_and_named(status: dict[str, Any], reason: Reason, words: str) -> None:
    finding = diagnose(None, [a_pod(**status)])
    assert finding is not None
    assert finding.reason is reason
    assert words in finding.message


HEALTHY: dict[str, dict[str, Any]] = {
    "a pod that starts": {"containerStatuses": a_container_status(state={"waiting": {"reason": "ContainerCreating"}})},
    "a pod that warms up": {"containerStatuses": a_container_status(state={"running": {}}, restartCount=0)},
    "an init container that is done": {
        "initContainerStatuses": a_container_status(ready=True, state={"terminated": {"exitCode": 0}})
    },
}


@pytest.mark.parametrize("status", HEALTHY.values(), ids=HEALTHY)
def test_what_only_takes_time_is_no_fault(status: dict[str, Any]) -> None:
    assert diagnose(None, [a_pod(**status)]) is None


def test_a_ready_pod_that_crashed_long_ago_is_no_fault() -> None:
    assert diagnose(None, [a_pod(ready=True, containerStatuses=died(1, running=True))]) is None


def test_memory_without_a_limit_is_that_of_the_node() -> None:
    pod = a_pod(containerStatuses=died(137, "OOMKilled"))
    pod["spec"]["containers"] = [{"name": "other"}]
    finding = diagnose(None, [pod])
    assert finding is not None
    assert "the memory of the node" in finding.message
    pod["spec"]["containers"] = [{"name": "server"}]
    assert diagnose(None, [pod]) == finding


@pytest.mark.parametrize(
    ("words", "told"),
    [("[1]", "[1]"), ("{}", None), ('{"message": "alone"}', "It says: alone"), ("plain words", "It says: plain words")],
)
def test_last_words_of_any_form_are_told(words: str, told: str | None) -> None:
    finding = diagnose(None, [a_pod(containerStatuses=died(1, message=words))])
    assert finding is not None
    assert (told in finding.message) if told else ("It says" not in finding.message)


def test_other_conditions_of_pod_and_deployment_are_no_fault() -> None:
    conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Initialized", "status": "False"}]
    progressing = {"status": {"conditions": [{"type": "Progressing", "status": "True"}]}}
    assert diagnose(progressing, [a_pod(conditions=conditions)]) is None


def test_a_pod_that_is_going_away_is_no_fault() -> None:
    pod = a_pod(containerStatuses=died(1))
    pod["metadata"]["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    assert diagnose(None, [pod]) is None


def test_the_newest_pod_speaks_first() -> None:
    old, new = a_pod("old", containerStatuses=died(1)), a_pod("new", containerStatuses=died(137, "OOMKilled"))
    new["metadata"]["creationTimestamp"] = "2026-01-02T04:00:00Z"
    finding = diagnose(None, [old, new])
    assert finding is not None
    assert finding.reason is Reason.OOM_KILLED


def test_pods_refused_by_admission_are_told_without_their_random_names() -> None:
    def deployment(pod: str) -> dict[str, Any]:
        words = f'pods "{pod}" is forbidden: exceeded quota: compute'
        return {"status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": words}]}}

    finding = diagnose(deployment("triage-abcde"), [])
    assert finding is not None
    assert finding.reason is Reason.POD_CREATION_REFUSED
    assert "exceeded quota: compute" in finding.message
    assert finding == diagnose(deployment("triage-fghij"), [])


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("Refused. It says: request 1f2e3d4c at 10:05", "Refused. It says: request a1b2c3d4 at 10:06", True),
        ("Refused. It says: not found", "Refused.", True),
        ("Refused.", "Refused. It says: not found", False),
        ("Refused. It says: not found", "Refused. It says: denied", False),
        ("Refused by a. It says: no", "Refused by b. It says: no", False),
        ("`spec.a`: bad. `spec.b`: bad.", "`spec.a`: bad.", False),
    ],
)
def test_messages_that_say_the_same_are_told_apart_from_others(old: str, new: str, same: bool) -> None:
    assert says_the_same(old, new) is same


def test_very_long_words_are_cut() -> None:
    finding = diagnose(None, [a_pod(containerStatuses=died(1, message="x" * 100_000))])
    assert finding is not None
    assert len(finding.message) < 2000
