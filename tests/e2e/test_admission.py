"""A cluster whose admission refuses, changes and injects, with a full quota: what serves goes on serving all the time.

One story under traffic; each chapter ends with the same pods as it began with, or with the change in their place.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import admission, client
from tests.e2e.admission import GRACE_SECONDS, SIDECAR, Platform
from tests.e2e.registry import Registry
from tests.e2e.steps import edit, example, reason, server_image, servers, triage, wait_ready, wait_rolled_back
from tests.kubectl import Kubectl, Manifest, condition, eventually

ROLLOUT = {"soakSeconds": 2, "progressDeadlineSeconds": 600}


@pytest.fixture
def platform(admin: Kubectl, kubectl: Kubectl, tmp_path: Path) -> Iterator[Platform]:
    with admission.at_work(admin, server_image(admin), kubectl.namespace, tmp_path) as platform:
        yield platform


def template(kubectl: Kubectl) -> Manifest:
    """The template that the Deployment has."""
    deployment = kubectl.get("deployment", "triage")
    assert deployment is not None
    found: Manifest = deployment["spec"]["template"]
    return found


def told(kubectl: Kubectl, *words: str) -> bool:
    """Whether Ready says all of this."""
    message = condition(triage(kubectl), "Ready").get("message", "")
    return all(word in message for word in words)


def limit(memory: str) -> Manifest:
    """A change that is good."""
    return {"resources": {"limits": {"memory": memory}}}


def rejections(kubectl: Kubectl) -> set[str]:
    """Why revisions were rejected."""
    return {one["reason"] for one in triage(kubectl)["status"]["rejected"]}


def replaced(kubectl: Kubectl, pods: dict[str, int]) -> dict[str, int]:
    """Wait until a good change is there; its pods."""
    wait_ready(kubectl)
    assert rejections(kubectl) <= {"ImageNotFound"}
    new = servers(kubectl)
    assert not new.keys() & pods.keys()
    return new


def test_whatever_admission_does_nothing_that_serves_is_lost(
    kubectl: Kubectl, platform: Platform, registry: Registry
) -> None:
    kubectl.apply(example(rollout=ROLLOUT))
    wait_ready(kubectl)
    assert template(kubectl)["spec"]["terminationGracePeriodSeconds"] == GRACE_SECONDS, "the webhook has its way"
    (pod,) = kubectl.list("pods")
    assert [one["name"] for one in pod["spec"]["containers"]] == ["server", SIDECAR]
    with client.nothing_lost(kubectl):
        pods = a_good_change(kubectl, servers(kubectl))
        a_bad_change_is_taken_back(kubectl, pods, registry)
        a_policy_refuses_a_change(kubectl, pods)
        pods = the_webhook_is_away(kubectl, pods, platform)
        pods = the_sidecar_fails_for_a_while(kubectl, pods, platform)
        pods = the_quota_is_full(kubectl, pods)
    assert servers(kubectl) == pods
    assert rejections(kubectl) == {"ImageNotFound"}, "nothing else was condemned"


def a_good_change(kubectl: Kubectl, pods: dict[str, int]) -> dict[str, int]:
    edit(kubectl, limit("300Mi"))
    return replaced(kubectl, pods)


def a_bad_change_is_taken_back(kubectl: Kubectl, pods: dict[str, int], registry: Registry) -> None:
    """The field that the webhook sets does not keep the operator from judging."""
    edit(kubectl, {"image": registry.image(404)})
    wait_rolled_back(kubectl, "ImageNotFound")
    assert servers(kubectl) == pods, "the good pod was there all the time"
    edit(kubectl, {"image": None})
    wait_ready(kubectl)
    assert servers(kubectl) == pods


def a_policy_refuses_a_change(kubectl: Kubectl, pods: dict[str, int]) -> None:
    """With Recreate as well, which would end the pod before it starts another."""
    before = template(kubectl)
    for strategy in ("RollingUpdate", "Recreate"):
        edit(kubectl, {"image": f"docker.io/library/{strategy.lower()}:1", "rollout": {"strategy": strategy}})
        eventually(lambda: reason(kubectl) == "ApplyRefused")
        assert told(kubectl, "images of Docker Hub are not allowed")
        assert condition(triage(kubectl), "Available")["status"] == "True"
        assert template(kubectl) == before, "a refused change changes nothing"
        assert servers(kubectl) == pods
        edit(kubectl, {"image": None, "rollout": {"strategy": "RollingUpdate"}})
        wait_ready(kubectl)
    assert servers(kubectl) == pods


def the_webhook_is_away(kubectl: Kubectl, pods: dict[str, int], platform: Platform) -> dict[str, int]:
    platform.lose_the_webhook()
    edit(kubectl, limit("310Mi"))
    eventually(lambda: reason(kubectl) == "ApplyFailing")
    assert told(kubectl, "deployments.platform.example.com")
    assert servers(kubectl) == pods
    platform.bring_the_webhook_back()
    return replaced(kubectl, pods)


def the_sidecar_fails_for_a_while(kubectl: Kubectl, pods: dict[str, int], platform: Platform) -> dict[str, int]:
    platform.lose_the_control_plane()
    edit(kubectl, limit("320Mi"))
    eventually(lambda: reason(kubectl) == "InjectedContainerFailing")
    assert told(kubectl, SIDECAR)
    # Ended so often a container of ours would be proof of a bad revision.
    eventually(lambda: max(servers(kubectl).values()) >= 2)
    assert servers(kubectl).keys() > pods.keys()
    platform.bring_the_control_plane_back()
    return replaced(kubectl, pods)


def the_quota_is_full(kubectl: Kubectl, pods: dict[str, int]) -> dict[str, int]:
    # A pod that still ends counts until it has: the quota would have room for one more. The client is a pod, too.
    there = len(pods) + 1
    eventually(lambda: len(kubectl.list("pods")) == there)
    kubectl("create", "quota", "team", f"--hard=pods={there}")
    eventually(lambda: (kubectl.get("quota", "team") or {})["status"].get("hard"))
    edit(kubectl, limit("330Mi"))
    eventually(lambda: reason(kubectl) == "QuotaExceeded")
    assert told(kubectl, "team")
    assert servers(kubectl) == pods
    # What the message advises is enough.
    kubectl.patch("quota", "team", {"spec": {"hard": {"pods": "20"}}})
    return replaced(kubectl, pods)
