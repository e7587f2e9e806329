"""The operator's rights are those of deploy/, all that it uses and nothing that it does not."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.integration.conftest import OPERATOR, ROOT, ControlPlane, running_operator
from tests.integration.subject import INSTANCE, entries, is_rolled_back, new_namespace
from tests.integration.subject import says as told
from tests.integration.test_cache import a_volume, release
from tests.kubectl import Kubectl, Manifest, an_llmdeployment, condition, eventually, is_ready

REVISION = "llm.carepath.ai/revision"
Right = tuple[str, str, str]  # group, resource, verb
# What the API server asks for only if it enforces the permission to block an owner's deletion.
NOT_SEEN = {("llm.carepath.ai", "llmdeployments/finalizers", "update")}


def granted(manifests: list[Manifest], account: str) -> set[Right]:
    """What the manifests grant to a service account."""
    roles = {(one["kind"], one["metadata"]["name"]): one for one in manifests if one["kind"].endswith("Role")}
    references = [
        (one["roleRef"]["kind"], one["roleRef"]["name"])
        for one in manifests
        if one["kind"].endswith("RoleBinding") and account in {subject["name"] for subject in one["subjects"]}
    ]
    return {
        (group, resource, verb)
        for reference in references
        for rule in roles[reference]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(requests: list[Manifest], user: str) -> set[Right]:
    """What a user asked for."""
    found = set()
    for one in requests:
        about = one.get("objectRef", {})
        if one["user"]["username"] == user and about.get("resource"):
            subresource = about.get("subresource")
            resource = f"{about['resource']}/{subresource}" if subresource else about["resource"]
            found.add((about.get("apiGroup", ""), resource, one["verb"]))
    return found


def refused(requests: list[Manifest], user: str) -> list[str]:
    """What a user was not allowed to do. A refusal by quota or policy has the same code, and other words."""
    return [
        f"{one['verb']} {one['requestURI']}: {one['responseStatus'].get('message')}"
        for one in requests
        if one["user"]["username"] == user
        and one.get("responseStatus", {}).get("code") == 403
        and one.get("annotations", {}).get("authorization.k8s.io/decision") != "allow"
    ]


def wait_for(kubectl: Kubectl, check: object, name: str = "triage") -> None:
    eventually(lambda: check(kubectl.get("llmdep", name)))  # type: ignore[operator]


def lead_for_a_moment(plane: ControlPlane, log: Path, **settings: str) -> None:
    """Take the lease and give it up: what comes after is longer, and goes without, in case this machine stands still.

    Once more if it stood still in this very moment, which costs a leader its lease, and its life.
    """
    settings |= {"LLMOP_LEADER_ELECTION": "true", "LLMOP_IDENTITY": "operator-of-the-tests"}
    for is_last in (False, False, True):
        try:
            with running_operator(plane, log, **settings):  # type: ignore[arg-type]
                return
        except AssertionError:
            if is_last or "ending at once" not in log.read_text():
                raise


def live_a_whole_life(kubectl: Kubectl, asked: Callable[[], set[Right]]) -> None:
    """Everything the operator ever does; `asked` tells what it asked for so far."""

    def ready_again(**spec: object) -> None:
        kubectl.patch("llmdep", "triage", {"spec": spec})
        wait_for(kubectl, is_ready)

    kubectl.apply(an_llmdeployment())
    wait_for(kubectl, is_ready)
    kubectl.patch("llmdep", "triage", {"spec": {"image": "kwok/crash:1"}})
    wait_for(kubectl, lambda found: is_rolled_back(found))
    denied = {"image": "kwok/denied:1", "imagePullSecrets": [{"name": "regcred"}], "rollback": {"maxPerHour": 9}}
    kubectl.patch("llmdep", "triage", {"spec": denied})
    wait_for(kubectl, lambda found: told("RolledBack", "ImagePullDenied")(found))
    kubectl.patch("llmdep", "triage", {"spec": {"imagePullSecrets": None}})
    for number in range(8):
        ready_again(image=f"registry.example.com/server:{number}")
    eventually(lambda: len(kubectl.list("controllerrevisions", "-l", f"{INSTANCE}=triage")) < 9)
    kubectl("delete", "service", "triage")
    kubectl("scale", "deployment", "triage", "--replicas=2")
    eventually(lambda: kubectl.get("service", "triage"))
    wait_for(kubectl, is_ready)
    kubectl("label", "service", "triage", "app.kubernetes.io/part-of=other", "--overwrite")
    eventually(lambda: "other" not in (kubectl.get("service", "triage") or {})["metadata"]["labels"].values())
    lose_the_mark(kubectl)
    kubectl("create", "quota", "pods", "--hard=pods=1")
    eventually(lambda: "hard" in (kubectl.get("quota", "pods") or {}).get("status", {}))
    kubectl.patch("llmdep", "triage", {"spec": {"image": "registry.example.com/server:no-room"}})
    refused_by_quota = told("Ready", "QuotaExceeded", "False")
    wait_for(kubectl, lambda found: refused_by_quota(found) or is_rolled_back(found))
    kubectl("delete", "quota", "pods")
    wait_for(kubectl, lambda found: is_ready(found) or is_rolled_back(found))
    keep_a_model(kubectl, asked)
    kubectl("delete", "llmdep", "triage", "--timeout=120s")
    eventually(lambda: not kubectl.list("deployments,services,pods,controllerrevisions"))


def keep_a_model(kubectl: Kubectl, asked: Callable[[], set[Right]]) -> None:
    """A model is fetched by two, with progress, fails, is tried again; its claim changes owners."""
    kubectl.apply(a_volume(kubectl, "model-cache"))
    spec: Manifest = {"mode": "qwen", "cache": {"deletionPolicy": "Delete"}, "model": {"revision": "held"}}
    kubectl.apply(an_llmdeployment("one", **spec), an_llmdeployment("two", **spec))
    eventually(lambda: ("", "pods/log", "get") in asked())
    release(kubectl)
    for name in ("one", "two"):
        wait_for(kubectl, is_ready, name)
    kubectl.patch("llmdep", "one", {"spec": {"model": {"revision": "code-22-RepositoryGated"}}})
    wait_for(kubectl, is_rolled_back, "one")
    kubectl.patch("llmdep", "one", {"spec": {"rollback": {"retryToken": "again"}}})
    wait_for(kubectl, lambda found: [one["attempts"] for one in found["status"]["rejected"]] == [2], "one")
    kubectl("delete", "llmdep", "one", "two", "--timeout=120s")
    kubectl("delete", "pv", f"{kubectl.namespace}-model-cache", "--wait=false")


def lose_the_mark(kubectl: Kubectl) -> None:
    """Somebody takes the mark off the record of what runs: it is found by its name, and marked again."""
    record = f"triage-{(kubectl.get('llmdep', 'triage') or {})['status']['activeRevision']}"
    kubectl("annotate", "controllerrevision", record, f"{REVISION}-")
    eventually(lambda: REVISION in (kubectl.get("controllerrevision", record) or {})["metadata"]["annotations"])


def test_every_right_is_used_and_none_is_missing(control_plane: ControlPlane, kubectl: Kubectl, tmp_path: Path) -> None:
    base = list(yaml.safe_load_all(kubectl("kustomize", str(ROOT / "deploy/kustomize/base"))))
    control_plane.kubectl("llm-operator-system")("delete", "lease", "llm-operator", "--ignore-not-found")
    start = entries(control_plane)
    lead_for_a_moment(control_plane, tmp_path / "log")
    with running_operator(control_plane, tmp_path / "log"):
        live_a_whole_life(kubectl, lambda: used(control_plane.requests(since=start), OPERATOR))
    requests = control_plane.requests(since=start)
    assert refused(requests, OPERATOR) == []
    asked, may = used(requests, OPERATOR), granted(base, "llm-operator")
    assert asked - may == set(), "allowed by something else"
    assert may - asked == NOT_SEEN, "granted and not used"


def test_without_the_right_to_read_logs_only_the_percent_is_missing(
    control_plane: ControlPlane, kubectl: Kubectl, tmp_path: Path
) -> None:
    role = "clusterrolebinding/llm-operator-progress"
    admin = control_plane.kubectl("llm-operator-system")
    binding = admin("get", role, "-o", "json")
    kubectl.apply(a_volume(kubectl, "model-cache"))
    admin("delete", role)
    start = entries(control_plane)
    asks_in_vain = ("", "pods/log", "get")
    try:
        with running_operator(control_plane, tmp_path / "log"):
            spec = {"mode": "qwen", "cache": {}, "model": {"revision": "held"}}
            kubectl.apply(an_llmdeployment(rollout={"progressDeadlineSeconds": 10, "soakSeconds": 1}, **spec))
            eventually(lambda: asks_in_vain in used(control_plane.requests(since=start), OPERATOR))
            # Longer than the deadline, and as long as it takes to be condemned after the start of the operator.
            began = time.monotonic()
            eventually(lambda: time.monotonic() - began > 45)
            found = kubectl.get("llmdep", "triage")
            assert found is not None
            assert (condition(found, "Ready")["reason"], found["status"]["rejected"]) == ("ModelFetching", [])
            assert found["status"]["cache"] == {"phase": "Fetching", "progress": "Fetching"}
            release(kubectl)
            wait_for(kubectl, is_ready)
    finally:
        kept = json.loads(binding)
        kept["metadata"] = {"name": kept["metadata"]["name"], "labels": kept["metadata"].get("labels", {})}
        admin.apply(kept)
        kubectl("delete", "pv", f"{kubectl.namespace}-model-cache", "--wait=false")
    told = refused(control_plane.requests(since=start), OPERATOR)
    assert all("pods/log" in one for one in told)
    assert len(told) <= 2, "it is asked once, and seldom after that; of one request both ends may be audited"
    assert (tmp_path / "log").read_text().count("how far fetches are is not shown") == 1


@pytest.fixture
def namespaced(control_plane: ControlPlane, tmp_path: Path) -> Iterator[tuple[Kubectl, ControlPlane]]:
    """A namespace with the namespaced overlay in it, and the control plane as its service account sees it."""
    kubectl = new_namespace(control_plane)
    overlay = tmp_path / "overlay"
    overlay.mkdir()
    base = os.path.relpath(ROOT / "deploy/kustomize/overlays/namespaced", overlay.resolve())
    kustomization = {"resources": [base], "namespace": kubectl.namespace}
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    manifests = list(yaml.safe_load_all(kubectl("kustomize", str(overlay))))
    assert {one["metadata"].get("namespace") for one in manifests} == {kubectl.namespace}, "nothing cluster-scoped"
    kubectl.apply(*(one for one in manifests if one["kind"] != "Deployment"))
    config = yaml.safe_load(control_plane.operator_kubeconfig.read_text())
    config["users"][0]["user"] = {"token": kubectl("create", "token", "llm-operator", "--duration=1h").strip()}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    yield kubectl, ControlPlane(control_plane.kubeconfig, kubeconfig, control_plane.audit_log)
    kubectl("delete", "namespace", kubectl.namespace, "--wait=false")


def test_a_role_is_enough_for_one_namespace(namespaced: tuple[Kubectl, ControlPlane], tmp_path: Path) -> None:
    kubectl, plane = namespaced
    account = f"system:serviceaccount:{kubectl.namespace}:llm-operator"
    deployment = next(
        one
        for one in yaml.safe_load_all(kubectl("kustomize", str(tmp_path / "overlay")))
        if one["kind"] == "Deployment"
    )
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    namespaces = next(one for one in container["env"] if one["name"] == "LLMOP_NAMESPACES")
    assert namespaces["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.namespace"
    start = entries(plane)
    settings = {"LLMOP_NAMESPACES": kubectl.namespace, "LLMOP_LEASE_NAMESPACE": kubectl.namespace}
    lead_for_a_moment(plane, tmp_path / "log", **settings)
    assert kubectl.get("lease", "llm-operator") is not None
    with running_operator(plane, tmp_path / "log", **settings):
        kubectl.apply(an_llmdeployment())
        wait_for(kubectl, is_ready)
        kubectl.patch("llmdep", "triage", {"spec": {"image": "kwok/crash:1"}})
        wait_for(kubectl, is_rolled_back)
        assert condition(kubectl.get("llmdep", "triage"), "Available")["status"] == "True"
    requests = plane.requests(since=start)
    assert refused(requests, account) == []
    assert {
        one["objectRef"].get("namespace")
        for one in requests
        if one["user"]["username"] == account and "objectRef" in one
    } <= {kubectl.namespace, None}
    assert json.loads(kubectl("get", "events.events.k8s.io", "-o", "json"))["items"] != []
