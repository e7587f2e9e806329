"""The cache claim and the gate on a real control plane: Jobs, claims, owners and their garbage collection.

Nodes and the ends of fetches are played by KWOK; what a fetch says is in the model's revision (stages.yaml).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.conftest import ROOT, ControlPlane
from tests.integration.subject import entries, is_rolled_back, new_namespace, written_since
from tests.kubectl import Kubectl, Manifest, Refused, an_llmdeployment, condition, eventually, is_ready

FETCH = "llm.carepath.ai/fetch"
COMMIT = "0123456789" * 4


@pytest.fixture
def kubectl(control_plane: ControlPlane, operator: Path) -> Iterator[Kubectl]:
    """kubectl in a namespace of its own, with a volume for its claim."""
    found = new_namespace(control_plane)
    found.apply(a_volume(found, "model-cache"))
    yield found
    found("delete", "namespace", found.namespace, "--wait=false")
    found("delete", "pv", f"{found.namespace}-model-cache", "--wait=false", "--ignore-not-found")


def a_volume(kubectl: Kubectl, claim: str, **over: Any) -> Manifest:
    """A volume that a claim of the namespace is bound to."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{kubectl.namespace}-{claim}"},
        "spec": {
            "capacity": {"storage": "100Gi"},
            "accessModes": ["ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": "/models"},
            "claimRef": {"namespace": kubectl.namespace, "name": claim},
            **over,
        },
    }


def a_model(name: str = "triage", *, revision: str = "main", **over: Any) -> Manifest:
    return an_llmdeployment(name, **{"mode": "qwen", "cache": {}, "model": {"revision": revision}, **over})


def wait_for(kubectl: Kubectl, check: Any, name: str = "triage") -> Manifest:
    def look() -> Manifest | None:
        found = kubectl.get("llmdep", name)
        assert found is not None
        assert check(found), found.get("status")
        return found

    found = eventually(look)
    assert found is not None
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_becomes_ready(kubectl: Kubectl, path: Path) -> None:
    kubectl("patch", "pv", f"{kubectl.namespace}-model-cache", "-p", '{"spec":{"storageClassName":"efs-sc"}}')
    kubectl("apply", "-f", str(path))
    for example in yaml.safe_load_all(path.read_text()):
        name, mode = example["metadata"]["name"], example["spec"]["mode"]
        wait_for(kubectl, lambda found, mode=mode: is_ready(found) and found["status"].get("mode") == mode, name)
    assert len(jobs(kubectl)) == ("cache:" in path.read_text())


def jobs(kubectl: Kubectl) -> list[Manifest]:
    return kubectl.list("jobs")


def owners(live: Manifest) -> set[str]:
    return {one["name"] for one in live["metadata"].get("ownerReferences", [])}


def test_a_model_is_fetched_first_and_then_served_from_the_claim(kubectl: Kubectl) -> None:
    kubectl.apply(a_model())
    found = wait_for(kubectl, is_ready)
    assert found["status"]["model"] == {
        "repository": "Qwen/Qwen3-4B-Thinking-2507",
        "revision": "main",
        "commit": COMMIT,
    }
    assert found["status"]["cache"] == {"phase": "Ready", "progress": "100%", "percent": 100}
    assert condition(found, "ModelCached")["reason"] == "ModelReady"
    (job,) = jobs(kubectl)
    assert owners(job) == {"triage"}
    deployment: Any = kubectl.get("deployment", "triage")
    pod = deployment["spec"]["template"]["spec"]
    env = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
    assert env["MODEL_PATH"] == f"/models/Qwen--Qwen3-4B-Thinking-2507/{COMMIT}"
    header, line = kubectl("get", "llmdep").splitlines()
    assert line.split()[:7] == [
        "triage", "qwen", "Qwen/Qwen3-4B-Thinking-2507", "True", "AllReplicasReady", "1", "100%",
    ], header  # fmt: skip


@pytest.mark.parametrize(
    ("revision", "reason"),
    [("code-22-RepositoryGated", "RepositoryGated"), ("code-31-NoSpace", "NoSpace"), ("no-record", "FetchFailed")],
)
def test_a_fetch_that_fails_never_touches_the_serving_deployment(
    kubectl: Kubectl, control_plane: ControlPlane, revision: str, reason: str
) -> None:
    kubectl.apply(an_llmdeployment())
    wait_for(kubectl, is_ready)
    start = entries(control_plane)
    kubectl.apply(a_model(revision=revision))
    found = wait_for(kubectl, is_rolled_back)
    assert condition(found, "RolledBack")["reason"] == reason
    assert condition(found, "Available")["status"] == "True"
    assert found["status"]["cache"] == {"phase": "Failed", "progress": "Failed"}
    written = written_since(control_plane, start, kubectl.namespace)
    assert {one["objectRef"]["resource"] for one in written} & {"deployments", "services"} == set()


def test_what_can_pass_is_tried_again_until_the_deadline(kubectl: Kubectl) -> None:
    kubectl.apply(a_model(revision="code-40-RateLimited"))
    eventually(lambda: sum(one["status"]["phase"] == "Failed" for one in kubectl.list("pods", "-l", FETCH)) >= 2)
    # So it is until the next pod, which Kubernetes makes after 20 s or more.
    found = wait_for(kubectl, lambda found: condition(found, "Ready")["reason"] == "RateLimited")
    assert found["status"]["rejected"] == []
    assert not kubectl.get("deployment", "triage")
    kubectl.patch("llmdep", "triage", {"spec": {"rollout": {"progressDeadlineSeconds": 1}}})
    found = wait_for(kubectl, lambda found: found["status"]["rejected"])
    assert found["status"]["rejected"][0]["reason"] == "RateLimited"


def test_a_retry_token_has_it_fetched_once_more(kubectl: Kubectl) -> None:
    kubectl.apply(a_model(revision="code-21-TokenInvalid"))
    wait_for(kubectl, lambda found: found["status"].get("rejected"))
    (job,) = jobs(kubectl)
    kubectl.patch("llmdep", "triage", {"spec": {"rollback": {"retryToken": "again"}}})
    found = wait_for(kubectl, lambda found: [one["attempts"] for one in found["status"]["rejected"]] == [2])
    assert found["status"]["rejected"][0]["reason"] == "TokenInvalid"
    assert job["metadata"]["uid"] not in {one["metadata"]["uid"] for one in jobs(kubectl)}


def test_a_quota_on_cpu_and_memory_lets_a_fetch_run(kubectl: Kubectl) -> None:
    kubectl("create", "quota", "team", "--hard=limits.cpu=10,limits.memory=40Gi,requests.cpu=10,requests.memory=40Gi")
    eventually(lambda: "hard" in (kubectl.get("quota", "team") or {}).get("status", {}))
    kubectl.apply(a_model(resources={"limits": {"cpu": "1", "memory": "16Gi"}}))
    wait_for(kubectl, is_ready)


def test_a_fetch_whose_pods_are_refused_says_why_and_what_to_set(kubectl: Kubectl) -> None:
    limits = [{"type": "Container", "max": {"cpu": "1", "memory": "16Gi"}}]
    kubectl.apply({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"}, "spec": {"limits": limits}})
    spec: Manifest = {"resources": {"limits": {"cpu": "1", "memory": "16Gi"}}}
    kubectl.apply(a_model(**spec))
    found = wait_for(kubectl, lambda found: found["status"].get("rejected"))
    assert found["status"]["rejected"][0]["reason"] == "PodCreationRefused"
    message = condition(found, "Ready")["message"]
    assert "spec.model.fetchResources" in message
    assert "maximum cpu usage per Container is 1, but limit is 2" in message
    kubectl.patch("llmdep", "triage", {"spec": {"model": {"fetchResources": {"limits": {"cpu": "1"}}}}})
    wait_for(kubectl, is_ready)


def test_a_policy_that_refuses_the_job_itself_is_told_in_its_own_words(
    kubectl: Kubectl, control_plane: ControlPlane
) -> None:
    name = f"no-jobs-{kubectl.namespace}"
    rules = [{"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["jobs"]}]
    policy = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy"}
    only_here = {"matchLabels": {"kubernetes.io/metadata.name": kubectl.namespace}}
    validation = {"expression": "false", "message": "batch work runs at night"}
    kubectl.apply(
        {**policy, "metadata": {"name": name}, "spec": {
            "matchConstraints": {"resourceRules": rules}, "validations": [validation],
        }},
        {**policy, "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name}, "spec": {
            "policyName": name, "validationActions": ["Deny"], "matchResources": {"namespaceSelector": only_here},
        }},
    )  # fmt: skip
    job: Manifest = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "probe"}, "spec": {"template": {
        "spec": {"restartPolicy": "Never", "containers": [{"name": "one", "image": "kwok/never:1"}]}}}}  # fmt: skip

    def refuses() -> bool:
        try:
            kubectl.apply(job, dry_run=True)
        except Refused as error:
            return "at night" in str(error)
        return False

    try:
        eventually(refuses)
        kubectl.apply(a_model())
        found = wait_for(kubectl, lambda found: condition(found, "Ready")["reason"] == "ApplyRefused")
        assert "batch work runs at night" in condition(found, "Ready")["message"]
    finally:
        kubectl("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", name)
    wait_for(kubectl, is_ready)


def test_a_container_that_was_injected_into_the_fetch_keeps_nobody_waiting(kubectl: Kubectl) -> None:
    kubectl.apply(a_model(revision="beside-code-24-RepositoryNotFound"))
    found = wait_for(kubectl, lambda found: found["status"].get("rejected"))
    assert found["status"]["rejected"][0]["reason"] == "RepositoryNotFound"
    eventually(lambda: not jobs(kubectl))
    kubectl.patch("llmdep", "triage", {"spec": {"rollback": {"retryToken": "again"}}})
    wait_for(kubectl, lambda found: [one["attempts"] for one in found["status"]["rejected"]] == [2])
    kubectl.patch("llmdep", "triage", {"spec": {"model": {"revision": "beside-code-40-RateLimited"}}})
    wait_for(kubectl, lambda found: condition(found, "Ready")["reason"] == "RateLimited")
    first = {job["metadata"]["uid"] for job in jobs(kubectl)}
    eventually(lambda: {job["metadata"]["uid"] for job in jobs(kubectl)} - first)
    kubectl.patch("llmdep", "triage", {"spec": {"model": {"revision": "beside-main"}}})
    wait_for(kubectl, is_ready)
    eventually(lambda: not jobs(kubectl))


def release(kubectl: Kubectl) -> None:
    """Let fetches of the revision `held` come to their end."""
    eventually(lambda: kubectl("annotate", "pods", "-l", FETCH, "released=yes", "--overwrite"))


def test_two_share_one_fetch_and_it_goes_with_the_last(kubectl: Kubectl) -> None:
    kubectl.apply(a_model("one", revision="held"), a_model("two", revision="held"))
    eventually(lambda: [owners(job) for job in jobs(kubectl)] == [{"one", "two"}])
    release(kubectl)
    for name in ("one", "two"):
        wait_for(kubectl, is_ready, name)
    assert len(jobs(kubectl)) == 1
    kubectl("delete", "llmdep", "one", "--timeout=120s")
    eventually(lambda: [owners(job) for job in jobs(kubectl)] == [{"two"}])
    kubectl("delete", "llmdep", "two", "--timeout=120s")
    eventually(lambda: not jobs(kubectl))
    assert kubectl.get("pvc", "model-cache") is not None, "the claim is kept"


def test_who_made_the_fetch_may_go_before_the_other(kubectl: Kubectl) -> None:
    kubectl.apply(a_model("one", revision="held"))
    eventually(lambda: jobs(kubectl))
    kubectl.apply(a_model("two", revision="held"))
    eventually(lambda: [owners(job) for job in jobs(kubectl)] == [{"one", "two"}])
    kubectl("delete", "llmdep", "one", "--timeout=120s")
    release(kubectl)
    wait_for(kubectl, is_ready, "two")


def test_an_edit_of_something_else_fetches_nothing_even_when_the_job_is_gone(kubectl: Kubectl) -> None:
    kubectl.apply(a_model())
    wait_for(kubectl, is_ready)
    kubectl("delete", "jobs", "--all")
    kubectl.patch("llmdep", "triage", {"spec": {"resources": {"limits": {"memory": "16Gi"}}}})
    wait_for(kubectl, is_ready)
    assert jobs(kubectl) == []
    kubectl.patch("llmdep", "triage", {"spec": {"resources": {"limits": {"memory": "4Gi"}}}})
    found = wait_for(kubectl, is_rolled_back)
    assert condition(found, "RolledBack")["reason"] == "MemoryLimitTooSmall"
    assert jobs(kubectl) == []
    kubectl.patch("llmdep", "triage", {"spec": {"model": {"memoryCheck": "Skip"}}})
    wait_for(kubectl, is_ready)


def test_somebody_elses_claim_is_used_and_not_written_to(kubectl: Kubectl, control_plane: ControlPlane) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "model-cache"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    kubectl.apply(claim)
    start = entries(control_plane)
    kubectl.apply(a_model(cache={"size": "50Gi", "deletionPolicy": "Delete"}))
    wait_for(kubectl, is_ready)
    written = written_since(control_plane, start, kubectl.namespace)
    assert "persistentvolumeclaims" not in {one["objectRef"]["resource"] for one in written}
    kubectl("delete", "llmdep", "triage", "--timeout=120s")
    eventually(lambda: not kubectl.list("deployments,jobs"))
    assert kubectl.get("pvc", "model-cache") is not None


def test_a_claim_grows_with_its_size_and_goes_where_that_is_declared(kubectl: Kubectl) -> None:
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": kubectl.namespace},
        "provisioner": "example.com/none",
        "allowVolumeExpansion": True,
    }
    kubectl.apply(storage_class, a_volume(kubectl, "growing", storageClassName=kubectl.namespace))
    cache = {"claimName": "growing", "storageClassName": kubectl.namespace, "deletionPolicy": "Delete"}
    kubectl.apply(a_model(cache=cache))
    wait_for(kubectl, is_ready)
    kubectl.patch("llmdep", "triage", {"spec": {"cache": {"size": "30Gi"}}})

    def size() -> str:
        claim: Any = kubectl.get("pvc", "growing")
        return str(claim["spec"]["resources"]["requests"]["storage"])

    eventually(lambda: size() == "30Gi")
    kubectl("delete", "llmdep", "triage", "--timeout=120s")
    eventually(lambda: kubectl.get("pvc", "growing") is None)
    kubectl("delete", "storageclass", kubectl.namespace)
    kubectl("delete", "pv", f"{kubectl.namespace}-growing", "--wait=false")


def test_a_claim_that_cannot_grow_is_told_and_grows_once_it_can(kubectl: Kubectl) -> None:
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": kubectl.namespace},
        "provisioner": "example.com/none",
    }
    kubectl.apply(storage_class, a_volume(kubectl, "fixed", storageClassName=kubectl.namespace))
    kubectl.apply(a_model(cache={"claimName": "fixed", "storageClassName": kubectl.namespace}))
    wait_for(kubectl, is_ready)
    kubectl.patch("llmdep", "triage", {"spec": {"cache": {"size": "30Gi"}}})
    words = (
        f"made larger so far, to 30Gi (cache.size): volumes grow only where their StorageClass {kubectl.namespace} says"
    )
    found = wait_for(kubectl, lambda found: is_ready(found) and words in condition(found, "ModelCached")["message"])
    assert condition(found, "Ready")["reason"] == "AllReplicasReady", "what serves is as good as before"
    kubectl("patch", "storageclass", kubectl.namespace, "-p", '{"allowVolumeExpansion": true}')
    # Any look at it will do; it does not wait for the next periodic one.
    kubectl("annotate", "llmdep", "triage", "look=again")
    wait_for(kubectl, lambda found: is_ready(found) and "larger" not in condition(found, "ModelCached")["message"])
    claim: Any = kubectl.get("pvc", "fixed")
    assert claim["spec"]["resources"]["requests"]["storage"] == "30Gi"
    kubectl("delete", "storageclass", kubectl.namespace)
    kubectl("delete", "pv", f"{kubectl.namespace}-fixed", "--wait=false")


def test_a_claim_that_waits_for_a_volume_made_by_hand_grows_when_it_has_it(kubectl: Kubectl) -> None:
    kubectl.apply(a_model(cache={"claimName": "by-hand", "storageClassName": "", "size": "5Gi"}))
    wait_for(kubectl, lambda found: condition(found, "Ready")["reason"] == "ClaimPending")
    claim: Any = kubectl.get("pvc", "by-hand")
    assert claim["spec"]["storageClassName"] == ""
    kubectl.patch("llmdep", "triage", {"spec": {"cache": {"size": "30Gi"}}})
    found = wait_for(
        kubectl, lambda found: found["status"].get("observedGeneration") == found["metadata"]["generation"]
    )
    assert condition(found, "Ready")["reason"] == "ClaimPending", "nobody may change that before there is a volume"
    kubectl.apply(a_volume(kubectl, "by-hand"))
    wait_for(kubectl, is_ready)
    kubectl("delete", "pv", f"{kubectl.namespace}-by-hand", "--wait=false")


def test_other_terms_restart_nothing_whose_model_is_there(kubectl: Kubectl) -> None:
    kubectl.apply(a_model())
    revision = wait_for(kubectl, is_ready)["status"]["activeRevision"]
    before: Any = kubectl.get("deployment", "triage")
    fetched_by = {one["metadata"]["uid"] for one in jobs(kubectl)}
    terms = {"tokenSecretRef": {"name": "team"}, "memoryCheck": "Skip", "endpoint": "https://hub.example.com"}
    kubectl.patch("llmdep", "triage", {"spec": {"model": terms}})
    found = wait_for(kubectl, is_ready)
    assert found["status"]["activeRevision"] == revision
    after: Any = kubectl.get("deployment", "triage")
    assert after["metadata"]["generation"] == before["metadata"]["generation"]
    # Whose pod has told its result goes, if it is not declared any more.
    assert {one["metadata"]["uid"] for one in jobs(kubectl)} <= fetched_by, "nothing is fetched again"


def test_another_token_has_a_refused_fetch_tried_again(kubectl: Kubectl) -> None:
    kubectl.apply(a_model(revision="code-22-RepositoryGated"))
    found = wait_for(kubectl, lambda found: condition(found, "Ready")["reason"] == "RepositoryGated" and stalled(found))
    (rejected,) = found["status"]["rejected"]
    assert rejected["attempts"] == 1
    kubectl.patch("llmdep", "triage", {"spec": {"model": {"tokenSecretRef": {"name": "team"}}}})

    def tried_again(found: Manifest) -> bool:
        return bool(stalled(found) and found["status"]["rejected"][0]["attempts"] == 2)

    assert wait_for(kubectl, tried_again)["status"]["desiredRevision"] == rejected["revision"]


def stalled(found: Manifest) -> bool:
    return any(one["type"] == "Stalled" for one in found["status"]["conditions"])


def test_a_claim_without_a_volume_is_told(kubectl: Kubectl) -> None:
    kubectl.apply(a_model(cache={"claimName": "nothing-for-it"}))
    found = wait_for(kubectl, lambda found: condition(found, "Ready")["reason"] == "ClaimPending")
    assert "nothing-for-it" in condition(found, "Ready")["message"]
    assert found["status"]["cache"]["phase"] == "Pending"
    assert not kubectl.get("deployment", "triage")


def pruned_for(kubectl: Kubectl) -> str | None:
    claim: Any = kubectl.get("pvc", "model-cache")
    found: str | None = claim["metadata"].get("annotations", {}).get("llm.carepath.ai/pruned")
    return found


def prunes(kubectl: Kubectl) -> dict[str, list[str]]:
    """What each Job that prunes keeps, by its name."""
    found = {}
    for job in kubectl.list("jobs", "-l", "llm.carepath.ai/prune"):
        (container,) = job["spec"]["template"]["spec"]["containers"]
        env = {one["name"]: one["value"] for one in container["env"]}
        found[job["metadata"]["name"]] = json.loads(env["KEEP_MODELS"])
    return found


def test_a_claim_is_pruned_once_for_each_set_of_models(kubectl: Kubectl, control_plane: ControlPlane) -> None:
    kubectl.apply(a_model(cache={"prune": "Unused"}))
    wait_for(kubectl, is_ready)
    first = f"Qwen--Qwen3-4B-Thinking-2507/{COMMIT}"
    eventually(lambda: pruned_for(kubectl))
    assert list(prunes(kubectl).values()) == [[first]]
    kubectl("delete", "jobs", "--all")
    start = entries(control_plane)
    kubectl("annotate", "llmdep", "triage", "look=again")
    kubectl.apply(an_llmdeployment("marker"))
    wait_for(kubectl, is_ready, "marker")
    written = written_since(control_plane, start, kubectl.namespace)
    assert "jobs" not in {one["objectRef"]["resource"] for one in written}
    before = pruned_for(kubectl)
    kubectl.patch("llmdep", "triage", {"spec": {"model": {"repository": "tiny/other"}}})
    eventually(lambda: pruned_for(kubectl) != before)
    assert list(prunes(kubectl).values()) == [[first, f"tiny--other/{COMMIT}"]], "the former one is a roll-back away"


def test_a_claim_that_somebody_else_names_is_pruned_when_he_agrees(kubectl: Kubectl) -> None:
    kubectl.apply(a_model("other", model={"repository": "tiny/other"}), a_model(cache={"prune": "Unused"}))
    for name in ("other", "triage"):
        wait_for(kubectl, is_ready, name)
    kubectl("annotate", "llmdep", "triage", "look=again")
    kubectl.apply(an_llmdeployment("marker"))
    wait_for(kubectl, is_ready, "marker")
    assert (prunes(kubectl), pruned_for(kubectl)) == ({}, None)
    kubectl.patch("llmdep", "other", {"spec": {"cache": {"prune": "Unused"}}})
    eventually(lambda: pruned_for(kubectl))
    (kept,) = prunes(kubectl).values()
    assert kept == [f"Qwen--Qwen3-4B-Thinking-2507/{COMMIT}", f"tiny--other/{COMMIT}"]


def test_at_rest_nothing_is_written(kubectl: Kubectl, control_plane: ControlPlane) -> None:
    kubectl.apply(a_model())
    wait_for(kubectl, is_ready)
    start = entries(control_plane)
    kubectl("annotate", "llmdep", "triage", "look=again")
    kubectl.apply(an_llmdeployment("marker"))
    wait_for(kubectl, is_ready, "marker")
    written = written_since(control_plane, start, kubectl.namespace)
    assert [one for one in written if not str(one["objectRef"].get("name", "")).startswith("marker")] == []
