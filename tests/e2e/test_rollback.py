"""Changes that fail, on real nodes under traffic: the good pods serve on, and the change is taken back."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e import client
from tests.e2e.registry import Registry
from tests.e2e.steps import (
    ENDS_THE_OPERATOR,
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

ROLLOUT = {"soakSeconds": 2, "progressDeadlineSeconds": 600}
# A mode that needs no fetch and that the image cannot run.
QWEN = {"mode": "qwen", "model": {"source": "image"}}
HELD = "e2e.carepath.ai/held"
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
    wait_ready(kubectl)
    assert servers(kubectl) == pods, "nothing was restarted"


def check_rolled_back(
    kubectl: Kubectl, broken: Manifest, why: str, *words: str, until_late: Callable[[], object] | None = None
) -> None:
    """Break a good revision under traffic, see it rolled back, and take the edit back.

    `until_late`: what is true before the deadline is over, for failures that only the deadline proves.
    """
    pods = start_good(kubectl)
    with client.nothing_lost(kubectl):
        edit(kubectl, broken)
        if until_late is not None:
            eventually(until_late)
            edit(kubectl, {"rollout": {"progressDeadlineSeconds": 3}})
        found = wait_rolled_back(kubectl, why)
        assert servers(kubectl) == pods, "the good pod was there all the time"
        for told in (condition(found, "Ready")["message"], found["status"]["rejected"][0]["message"]):
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
    image = pause_image(kubectl)
    broken = {"image": image, "rollout": ROLLOUT}
    check_rolled_back(kubectl, broken, "ProbeTimeout", "/startupz", until_late=lambda: runs(kubectl, image))


def test_a_node_that_is_not_there(kubectl: Kubectl) -> None:
    broken = {"nodeSelector": {"no": "such-node"}, "rollout": ROLLOUT}
    check_rolled_back(kubectl, broken, "Unschedulable", "node", until_late=lambda: reason(kubectl) == "Unschedulable")


def runs(kubectl: Kubectl, image: str) -> bool:
    """Whether a container of this image runs."""
    statuses = [one for pod in kubectl.list("pods") for one in pod["status"].get("containerStatuses", [])]
    return any(one["image"] == image and "running" in one["state"] for one in statuses)


def pause_image(kubectl: Kubectl) -> str:
    """An image that is on every node and does nothing."""
    nodes = kubectl.list("nodes")
    names = [name for node in nodes for image in node["status"]["images"] for name in image["names"]]
    return next(name for name in names if "/pause:" in name)


def test_a_registry_that_is_down_is_no_fault_of_the_revision(kubectl: Kubectl, registry: Registry) -> None:
    pods = start_good(kubectl)
    with client.nothing_lost(kubectl):
        edit(kubectl, {"image": registry.image("late")})
        eventually(lambda: reason(kubectl) == "RegistryUnavailable")
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
        eventually(lambda: reason(kubectl) == "RegistryUnavailable")
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


# The other moments are in tests/integration/test_edits_meanwhile.py.
@pytest.mark.parametrize(("moment", "to"), [("the old pod ends", "A"), ("it answers", "C")])
def test_a_good_change_that_is_edited_again_meanwhile(kubectl: Kubectl, moment: str, to: str) -> None:
    pods = start_good(kubectl)
    with client.nothing_lost(kubectl):
        # A soak that ends by itself would decide what the second edit meets.
        soak = {"soakSeconds": 2 if moment == "the old pod ends" else 300}
        edit(kubectl, {**OTHER, "rollout": soak})
        eventually(lambda: reached(moment, kubectl, pods), every=0.1)
        limits = {"A": example()["spec"]["resources"]["limits"], "C": {"memory": "320Mi"}}[to]
        edit(kubectl, {"resources": {"requests": {"cpu": "100m"}, "limits": limits}, "rollout": ROLLOUT})
        found = wait_ready(kubectl)
        assert found["status"]["rejected"] == []
        declared = example()["spec"]["resources"] | {"limits": limits}
        deployment = kubectl.get("deployment", "triage")
        assert deployment is not None
        assert deployment["spec"]["template"]["spec"]["containers"][0]["resources"] == declared


@pytest.mark.parametrize("moment", ["at once", "a pod starts"])
def test_a_change_that_fails_replaced_by_one_that_works(kubectl: Kubectl, moment: str) -> None:
    pods = start_good(kubectl)
    with client.nothing_lost(kubectl):
        # It never answers, which nothing but the deadline proves.
        edit(kubectl, {"image": pause_image(kubectl)})
        eventually(lambda: reached(moment, kubectl, pods), every=0.1)
        edit(kubectl, {"image": None, **OTHER})
        found = wait_ready(kubectl)
        assert found["status"]["rejected"] == []
        assert found["status"]["lastKnownGoodRevision"] == found["status"]["desiredRevision"]


def test_recreate_brings_the_good_revision_back_by_itself(kubectl: Kubectl) -> None:
    start_good(kubectl)
    # Ends the good pod before it starts another: nothing answers meanwhile, as documented.
    edit(kubectl, {**QWEN, "rollout": {"strategy": "Recreate"}})
    wait_rolled_back(kubectl, "CrashLoop")
    assert "NoReplicasAvailable" in {one["reason"] for one in kubectl.list("events.events.k8s.io")}
    assert client.ask_once(kubectl)["failures"] == []
    pods = servers(kubectl)
    edit(kubectl, {"mode": "mock"})
    wait_ready(kubectl)
    assert servers(kubectl) == pods


def leader(kubectl: Kubectl) -> str:
    """The pod of the operator that works."""
    lease = of_the_operator(kubectl).get("lease", "llm-operator")
    assert lease is not None
    return str(lease["spec"]["holderIdentity"])


@ENDS_THE_OPERATOR
def test_another_operator_finishes_when_the_one_that_works_is_ended(kubectl: Kubectl) -> None:
    operator = of_the_operator(kubectl)
    pods = start_good(kubectl)
    broken = {"resources": TINY}
    with client.nothing_lost(kubectl):
        first = leader(kubectl)
        edit(kubectl, broken)
        eventually(lambda: reason(kubectl) in ("OOMKilled", "RollingBack", "RolledBack"))
        operator("delete", "pod", first, "--wait=false")
        eventually(lambda: leader(kubectl) != first)
        wait_rolled_back(kubectl, "OOMKilled")
        assert servers(kubectl) == pods
        edit_back(kubectl, broken, pods)
    operator("rollout", "status", "deployment/llm-operator", "--timeout=280s")


@ENDS_THE_OPERATOR
def test_a_rollback_is_finished_after_all_operators_went_in_its_middle(kubectl: Kubectl) -> None:
    operator = of_the_operator(kubectl)
    # What was good has no node to come back to, until it is let.
    kubectl("label", "nodes", "--all", f"{HELD}=no", "--overwrite")
    start_good(kubectl, nodeSelector={HELD: "no"})
    kubectl("label", "nodes", "--all", f"{HELD}=yes", "--overwrite")
    edit(kubectl, {**QWEN, "nodeSelector": None, "rollout": {"strategy": "Recreate"}})
    eventually(lambda: reason(kubectl) == "RollingBack")
    operator("delete", "pod", "-l", OPERATOR, "--wait=false")
    kubectl("label", "nodes", "--all", f"{HELD}=no", "--overwrite")
    wait_rolled_back(kubectl, "CrashLoop")
    assert client.ask_once(kubectl)["failures"] == []
    operator("rollout", "status", "deployment/llm-operator", "--timeout=280s")
