"""What `kubectl apply -k` would send: least rights, the restricted pod profile, and nothing forgotten."""

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_operator.leader_election import LEASE_NAME, POD_NAME
from tests.images import kustomize

ROOT = Path(__file__).resolve().parents[3]
BASE = ROOT / "deploy" / "kustomize" / "base"
NAMESPACED = ROOT / "deploy" / "kustomize" / "overlays" / "namespaced"
CLUSTER_SCOPED = {"Namespace", "CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
NAMESPACE = "llm-operator-system"
READ = {"get", "list", "watch"}
APPLY = READ | {"create", "patch"}
WORK = {
    ("llm.carepath.ai", "llmdeployments"): READ,
    ("llm.carepath.ai", "llmdeployments/status"): {"patch"},
    # Not a write: lets owner references block the owner's deletion where the API server enforces it.
    ("llm.carepath.ai", "llmdeployments/finalizers"): {"update"},
    ("apps", "deployments"): APPLY,
    ("apps", "controllerrevisions"): APPLY | {"delete"},
    ("apps", "replicasets"): {"list"},
    ("", "services"): APPLY,
    ("", "pods"): {"list", "watch"},
    ("", "persistentvolumeclaims"): APPLY,
    ("batch", "jobs"): APPLY | {"delete"},
    ("events.k8s.io", "events"): {"create", "list"},
}
# Nothing is missing without it but the progress of fetches.
PROGRESS = {("", "pods/log"): {"get"}}

Manifest = dict[str, Any]


def render(folder: Path) -> list[Manifest]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not on PATH")
    done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=["base", "local"])
def manifests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """The base, and what one machine deploys with its own images."""
    if request.param == "base":
        return render(BASE)
    folder = tmp_path_factory.mktemp("local")
    images = {"operator": {"image": "localhost/llm-operator:dev-1"}, "server": {"image": "localhost/server:dev-2"}}
    (folder / "images.json").write_text(json.dumps(images))
    return render(kustomize.write(folder / "images.json", folder / "deploy").parent)


def the(manifests: list[Manifest], kind: str, name: str = "llm-operator") -> Manifest:
    (found,) = (one for one in manifests if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


@pytest.fixture(scope="module")
def of_one_namespace(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    """What the namespaced overlay gives to somebody who names a namespace of theirs."""
    folder = tmp_path_factory.mktemp("of_one_namespace")
    # kustomize takes no absolute path.
    overlay = os.path.relpath(NAMESPACED, folder.resolve())
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [overlay], "namespace": "clinic"}))
    return render(folder)


def granted(role: Manifest) -> dict[tuple[str, str], set[str]]:
    return {
        (group, resource): set(rule["verbs"])
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }


def test_the_operator_may_do_what_it_does_and_nothing_else(manifests: list[Manifest]) -> None:
    assert granted(the(manifests, "ClusterRole")) == WORK
    assert granted(the(manifests, "ClusterRole", "llm-operator-progress")) == PROGRESS


def test_the_lease_is_that_of_the_operator_in_its_own_namespace(manifests: list[Manifest]) -> None:
    role = the(manifests, "Role", "llm-operator-lease")
    lease = {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"]}
    assert role["rules"] == [
        {**lease, "resourceNames": [LEASE_NAME], "verbs": ["get", "update"]},
        {**lease, "verbs": ["create"]},
    ]
    assert [one["metadata"]["name"] for one in manifests if one["kind"] == "Role"] == ["llm-operator-lease"]


def test_in_one_namespace_the_same_rights_come_from_a_role(of_one_namespace: list[Manifest]) -> None:
    assert not [one["kind"] for one in of_one_namespace if one["kind"] in CLUSTER_SCOPED]
    assert {one["metadata"]["namespace"] for one in of_one_namespace} == {"clinic"}
    assert granted(the(of_one_namespace, "Role")) == WORK
    assert granted(the(of_one_namespace, "Role", "llm-operator-progress")) == PROGRESS
    bindings = [one for one in of_one_namespace if one["kind"] == "RoleBinding"]
    assert {one["metadata"]["name"] for one in bindings} == {
        "llm-operator",
        "llm-operator-lease",
        "llm-operator-progress",
    }
    for binding in bindings:
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": binding["metadata"]["name"]}
        assert binding["roleRef"] == role
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "llm-operator", "namespace": "clinic"}]


def test_in_one_namespace_the_operator_watches_that_one_alone(of_one_namespace: list[Manifest]) -> None:
    own_namespace = {"fieldRef": {"fieldPath": "metadata.namespace"}}
    assert environment(of_one_namespace)["LLMOP_NAMESPACES"] == own_namespace


@pytest.mark.parametrize(("over", "kind"), [(BASE, "ClusterRole"), (NAMESPACED, "Role")])
def test_the_right_to_read_logs_can_be_left_out_as_its_file_says(tmp_path: Path, over: Path, kind: str) -> None:
    said = (BASE / "progress_role.yaml").read_text().partition("#   patches:")[2].partition("# (upon")[0]
    patches = yaml.safe_load("patches:\n" + "\n".join(line.removeprefix("# ") for line in said.splitlines()))
    patches["patches"][0]["target"]["kind"] = f"{kind}.*"
    overlay = {"resources": [os.path.relpath(over, tmp_path.resolve())], **patches}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    left = [one["metadata"]["name"] for one in render(tmp_path) if one["kind"].startswith(kind)]
    assert "llm-operator" in left
    assert "llm-operator-progress" not in left


def test_no_role_has_a_wildcard_or_reads_secrets(manifests: list[Manifest]) -> None:
    rules = [rule for one in manifests if one["kind"].endswith("Role") for rule in one["rules"]]
    assert rules
    for rule in rules:
        words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert not [word for word in words if "*" in word or word == "secrets"]


def test_every_binding_gives_an_existing_role_to_the_operators_account_alone(manifests: list[Manifest]) -> None:
    bindings = [one for one in manifests if one["kind"].endswith("RoleBinding")]
    assert bindings
    for binding in bindings:
        assert the(manifests, binding["roleRef"]["kind"], binding["roleRef"]["name"])
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "llm-operator", "namespace": NAMESPACE}]
    assert the(manifests, "ServiceAccount")["metadata"]["namespace"] == NAMESPACE


def test_users_of_a_namespace_get_its_llmdeployments(manifests: list[Manifest]) -> None:
    for name, roles in {"view": {"view", "edit", "admin"}, "edit": {"edit", "admin"}}.items():
        labels = the(manifests, "ClusterRole", f"llmdeployment-{name}")["metadata"]["labels"]
        assert {
            role for role in ("view", "edit", "admin") if f"rbac.authorization.k8s.io/aggregate-to-{role}" in labels
        } == roles


def test_everything_stands_in_the_operators_namespace_or_in_none(manifests: list[Manifest]) -> None:
    for one in manifests:
        expected = None if one["kind"] in CLUSTER_SCOPED else NAMESPACE
        assert one["metadata"].get("namespace") == expected, one["metadata"]["name"]
    assert (
        the(manifests, "Namespace", NAMESPACE)["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        == "restricted"
    )


def test_the_crd_is_the_generated_one(manifests: list[Manifest]) -> None:
    generated = yaml.safe_load((ROOT / "crds" / "llmdeployments.yaml").read_text())
    assert the(manifests, "CustomResourceDefinition", generated["metadata"]["name"])["spec"] == generated["spec"]


def test_the_pod_meets_the_restricted_profile_on_a_read_only_root(manifests: list[Manifest]) -> None:
    pod = the(manifests, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    assert {volume["name"]: set(volume) - {"name"} for volume in pod["volumes"]} == {"tmp": {"emptyDir"}}


def test_the_pod_has_probes_on_a_port_it_opens_and_bounded_memory(manifests: list[Manifest]) -> None:
    (container,) = the(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    paths = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {probe["port"] for probe in paths.values()} <= ports
    assert {name: probe["path"] for name, probe in paths.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert container["resources"]["limits"].keys() == {"memory"}
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}


def environment(manifests: list[Manifest]) -> dict[str, Any]:
    """{variable: its value, or where it comes from}"""
    (container,) = the(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one.get("value") or one["valueFrom"] for one in container["env"]}


def test_whatever_selects_the_pods_matches_them(manifests: list[Manifest]) -> None:
    spec = the(manifests, "Deployment")["spec"]
    (spread,) = spec["template"]["spec"]["topologySpreadConstraints"]
    selectors = [
        spec["selector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
        the(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        the(manifests, "Service", "llm-operator-metrics")["spec"]["selector"],
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= spec["template"]["metadata"]["labels"].items()


def test_one_pod_stands_by_whatever_happens_to_the_other(manifests: list[Manifest]) -> None:
    spec = the(manifests, "Deployment")["spec"]
    assert spec["replicas"] == 2
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    (spread,) = spec["template"]["spec"]["topologySpreadConstraints"]
    # One node is enough to run on: it is a wish and no condition.
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    assert the(manifests, "PodDisruptionBudget")["spec"]["minAvailable"] < spec["replicas"]


def test_a_pod_is_known_by_its_name_in_the_lease(manifests: list[Manifest]) -> None:
    assert environment(manifests)[POD_NAME] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_the_ports_are_those_the_process_opens(manifests: list[Manifest]) -> None:
    (container,) = the(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    opened = {port["name"]: str(port["containerPort"]) for port in container["ports"]}
    settings = {name: environment(manifests)[f"LLMOP_{name.upper()}_PORT"] for name in ("health", "metrics")}
    assert opened == settings
    (port,) = the(manifests, "Service", "llm-operator-metrics")["spec"]["ports"]
    assert (str(port["port"]), port["targetPort"]) == (opened["metrics"], "metrics")


def test_the_base_names_the_images_of_this_version() -> None:
    (container,) = the(render(BASE), "Deployment")["spec"]["template"]["spec"]["containers"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (server,) = (entry["value"] for entry in container["env"] if entry["name"] == "LLMOP_SERVER_IMAGE")
    assert {container["image"].rpartition(":")[2], server.rpartition(":")[2]} == {version}
