"""Changes that fail, on real nodes under traffic: the good pods serve on, and the change is taken back."""

from typing import Any

import pytest

from tests.e2e import client
from tests.e2e.registry import Registry
from tests.e2e.steps import (
    OPERATOR,
    edit,
    example,
    of_the_operator,
    reason,
    servers,
    triage,
    wait_ready,
    wait_rolled_back,
)
from tests.kubectl import Kubectl, Manifest, condition, eventually

ROLLOUT = {"soakSeconds": 2, "progressDeadlineSeconds": 60}
# A mode that needs no fetch and that the image cannot run.
QWEN = {"mode": "qwen", "model": {"source": "image"}}
TINY = {"requests": {"memory": "16Mi"}, "limits": {"memory": "24Mi"}}


def start_good(kubectl: Kubectl, **spec: Any) -> dict[str, int]:
    """A good revision; its pods."""
    kubectl.apply(example(rollout=ROLLOUT, **spec))
    wait_ready(kubectl)
    return servers(kubectl)


def edit_back(kubectl: Kubectl, broken: Manifest, pods: dict[str, int]) -> None:
    """Take the fields of an edit back: then what serves already is what is declared."""
    original = example(rollout=ROLLOUT)["spec"]
    edit(kubectl, {field: original.get(field) for field in broken})
    wait_ready(kubectl, seconds=10)
    assert servers(kubectl) == pods, "nothing was restarted"


def check_rolled_back(kubectl: Kubectl, broken: Manifest, why: str, *words: str) -> None:
    """Break a good revision under traffic, see it rolled back, and take the edit back."""
    pods = start_good(kubectl)
    with client.nothing_lost(kubectl):
        edit(kubectl, broken)
        found = wait_rolled_back(kubectl, why)
        assert servers(kubectl) == pods, "the good pod was there all the time"
        for told in (condition(found, "Ready")["message"], condition(found, "RolledBack")["message"]):
            assert [word for word in words if word not in told] == [], told
        edit_back(kubectl, broken, pods)


@pytest.mark.parametrize(("status", "why"), [(404, "ImageNotFound"), (401, "ImagePullDenied")])
def test_an_image_that_the_registry_refuses(kubectl: Kubectl, registry: Registry, status: int, why: str) -> None:
    image = registry.image(status)
    check_rolled_back(kubectl, {"image": image}, why, image)


def test_an_image_that_wants_to_run_as_root(kubectl: Kubectl, registry: Registry) -> None:
    check_rolled_back(kubectl, {"image": registry.image("root")}, "ContainerConfigError", "root")


def test_a_mode_that_the_image_cannot_run(kubectl: Kubectl) -> None:
    check_rolled_back(kubectl, QWEN, "CrashLoop", "ModeNotSupported", "Allowed: mock")


def test_too_little_memory(kubectl: Kubectl) -> None:
    check_rolled_back(kubectl, {"resources": TINY}, "OOMKilled", "24Mi")


def test_a_server_that_never_answers(kubectl: Kubectl) -> None:
    broken = {"image": pause_image(kubectl), "rollout": {"soakSeconds": 2, "progressDeadlineSeconds": 10}}
    check_rolled_back(kubectl, broken, "ProbeTimeout", "/startupz")


def test_a_node_that_is_not_there(kubectl: Kubectl) -> None:
    broken = {"nodeSelector": {"no": "such-node"}, "rollout": {"soakSeconds": 2, "progressDeadlineSeconds": 10}}
    check_rolled_back(kubectl, broken, "Unschedulable", "node")


def pause_image(kubectl: Kubectl) -> str:
    """An image that is on every node and does nothing."""
    nodes = kubectl.list("nodes")
    names = [name for node in nodes for image in node["status"]["images"] for name in image["names"]]
    return next(name for name in names if "/pause:" in name)


def test_a_registry_that_is_down_is_no_fault_of_the_revision(kubectl: Kubectl, registry: Registry) -> None:
    pods = start_good(kubectl)
    with client.nothing_lost(kubectl):
        edit(kubectl, {"image": registry.image("late")})
        eventually(lambda: reason(kubectl) == "RegistryUnavailable", seconds=60)
        assert condition(triage(kubectl), "Available")["status"] == "True"
        assert servers(kubectl).keys() > pods.keys()
        registry.repair()
        found = wait_ready(kubectl)
        assert found["status"]["rejected"] == []
        assert not servers(kubectl).keys() & pods.keys(), "the pulled image serves"


def test_an_image_from_a_registry_that_nobody_runs_can_be_taken_back(kubectl: Kubectl) -> None:
    pods = start_good(kubectl)
    with client.nothing_lost(kubectl):
        edit(kubectl, {"image": "localhost:1/not/there:1"})
        eventually(lambda: reason(kubectl) == "RegistryUnavailable", seconds=60)
        assert "localhost:1/not/there:1" in condition(triage(kubectl), "Ready")["message"]
        edit_back(kubectl, {"image": None}, pods)
        assert triage(kubectl)["status"]["rejected"] == []


def reached(moment: str, kubectl: Kubectl, before: dict[str, int]) -> bool:
    """Whether a change, made to a deployment with these pods, has come that far."""
    match moment:
        case "a pod starts":
            return len(servers(kubectl)) > len(before)
        case "it answers":
            deployment = kubectl.get("deployment", "triage") or {}
            return bool(deployment["status"].get("readyReplicas", 0) > len(before))
        case "the old pod ends":
            return not servers(kubectl).keys() & before.keys()
        case _:
            return True


OTHER = {"resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "300Mi"}}}


@pytest.mark.parametrize("moment", ["at once", "it answers", "the old pod ends"])
@pytest.mark.parametrize("to", ["A", "C"])
def test_a_good_change_that_is_edited_again_meanwhile(kubectl: Kubectl, moment: str, to: str) -> None:
    pods = start_good(kubectl)
    with client.nothing_lost(kubectl):
        edit(kubectl, OTHER)
        eventually(lambda: reached(moment, kubectl, pods), seconds=60, every=0.1)
        limits = {"A": example()["spec"]["resources"]["limits"], "C": {"memory": "320Mi"}}[to]
        edit(kubectl, {"resources": {"requests": {"cpu": "100m"}, "limits": limits}})
        found = wait_ready(kubectl)
        assert found["status"]["rejected"] == []
        declared = example()["spec"]["resources"] | {"limits": limits}
        deployment = kubectl.get("deployment", "triage")
        assert deployment is not None
        assert deployment["spec"]["template"]["spec"]["containers"][0]["resources"] == declared
        if to == "A" and moment != "the old pod ends":
            assert servers(kubectl) == pods, "the first pod served all the time"


@pytest.mark.parametrize("moment", ["at once", "a pod starts"])
def test_a_change_that_fails_replaced_by_one_that_works(kubectl: Kubectl, moment: str) -> None:
    pods = start_good(kubectl)
    with client.nothing_lost(kubectl):
        edit(kubectl, QWEN)
        eventually(lambda: reached(moment, kubectl, pods), seconds=60, every=0.1)
        edit(kubectl, {"mode": "mock", **OTHER})
        found = wait_ready(kubectl)
        assert found["status"]["rejected"] == []
        assert found["status"]["lastKnownGoodRevision"] == found["status"]["desiredRevision"]


def test_recreate_brings_the_good_revision_back_by_itself(kubectl: Kubectl) -> None:
    start_good(kubectl)
    # Ends the good pod before it starts another: nothing answers meanwhile, as documented.
    edit(kubectl, {**QWEN, "rollout": {"strategy": "Recreate"}})
    eventually(lambda: condition(triage(kubectl), "Available").get("status") == "False", seconds=60)
    wait_rolled_back(kubectl, "CrashLoop", seconds=120)
    assert client.ask_once(kubectl)["failures"] == []
    pods = servers(kubectl)
    edit(kubectl, {"mode": "mock"})
    wait_ready(kubectl, seconds=10)
    assert servers(kubectl) == pods


def leader(kubectl: Kubectl) -> str:
    """The pod of the operator that works."""
    lease = of_the_operator(kubectl).get("lease", "llm-operator")
    assert lease is not None
    return str(lease["spec"]["holderIdentity"])


def test_another_operator_finishes_when_the_one_that_works_is_ended(kubectl: Kubectl) -> None:
    operator = of_the_operator(kubectl)
    pods = start_good(kubectl)
    broken = {"resources": TINY}
    with client.nothing_lost(kubectl):
        first = leader(kubectl)
        edit(kubectl, broken)
        eventually(lambda: reason(kubectl) == "OOMKilled", seconds=60)
        operator("delete", "pod", first, "--wait=false")
        wait_rolled_back(kubectl, "OOMKilled", seconds=120)
        assert leader(kubectl) != first
        assert servers(kubectl) == pods
        edit_back(kubectl, broken, pods)
    operator("rollout", "status", "deployment/llm-operator", "--timeout=120s", timeout=130)


def test_a_rollback_is_finished_after_all_operators_went_in_its_middle(kubectl: Kubectl) -> None:
    operator = of_the_operator(kubectl)
    start_good(kubectl)
    edit(kubectl, {**QWEN, "rollout": {"strategy": "Recreate"}})
    eventually(lambda: reason(kubectl) == "RollingBack", seconds=120, every=0.05)
    operator("delete", "pod", "-l", OPERATOR, "--wait=false")
    wait_rolled_back(kubectl, "CrashLoop", seconds=120)
    assert client.ask_once(kubectl)["failures"] == []
    operator("rollout", "status", "deployment/llm-operator", "--timeout=120s", timeout=130)
