"""What somebody else changed in a child is put right by one JSON patch, and what does no harm stays as it is."""

from typing import Any

import pytest

from llm_operator.core import names
from llm_operator.core.children.drift import ANY, change, compare
from llm_operator.core.children.service import build_service
from llm_operator.core.names import Manifest
from tests.unit.operator.builders import State, a_manifest, a_parent, a_revision, a_spec, as_stored
from tests.unit.operator.simulated_api import patched

DESIRED = a_manifest()
SERVICE = build_service(a_parent())
POD = "spec.template.spec"
OTHER = a_manifest(a_spec(generation={"max_new_tokens": 9}))


def live() -> dict[str, Any]:
    return as_stored(DESIRED)


def pod(manifest: dict[str, Any]) -> Any:
    return manifest["spec"]["template"]["spec"]


def container(manifest: dict[str, Any]) -> Any:
    return pod(manifest)["containers"][0]


def put_right(desired: Manifest, stored: Manifest) -> Manifest:
    """What the API server has after the one request."""
    compared = compare(desired, stored)
    after = patched(stored, list(change(stored, compared.put_right)))
    assert compare(desired, after).differences == (), "one request is enough"
    return after


def test_what_is_as_declared_needs_no_patch() -> None:
    for desired in (DESIRED, SERVICE):
        stored = as_stored(desired)
        compared = compare(desired, stored)
        assert (compared.differences, compared.path) == ((), None)
        assert change(stored, compared.put_right) == ()


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("container", "command", ["sleep", "1"]),
        ("container", "args", ["--quiet"]),
        ("container", "envFrom", [{"secretRef": {"name": "s"}}]),
        ("container", "workingDir", "/tmp"),
        ("pod", "hostNetwork", True),
        ("pod", "initContainers", [{"name": "a"}]),
        ("spec", "paused", True),
        ("spec", "minReadySeconds", 7),
    ],
)
def test_what_breaks_the_server_or_its_rollout_is_taken_out(where: str, key: str, value: object) -> None:
    desired = a_manifest(a_spec(rollout={"soakSeconds": 0}))
    stored = as_stored(desired)
    target = {"container": container(stored), "pod": pod(stored), "spec": stored["spec"]}[where]
    target[key] = value
    path = {"container": f"{POD}.containers[server].{key}", "pod": f"{POD}.{key}", "spec": f"spec.{key}"}[where]
    assert compare(desired, stored).path == path
    assert put_right(desired, stored) == as_stored(desired)


def test_a_variable_that_is_not_ours_is_taken_out_of_our_container() -> None:
    stored = live()
    container(stored)["env"] += [{"name": "LISTEN_PORT", "value": "9"}, {"name": "B", "value": "1"}]
    assert put_right(DESIRED, stored) == live()


def test_a_variable_that_comes_from_elsewhere_is_replaced_whole() -> None:
    stored = live()
    container(stored)["env"][0] = {"name": "LLM_MODE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    assert put_right(DESIRED, stored) == live()


def test_another_kind_of_probe_volume_or_strategy_is_replaced_whole() -> None:
    stored = live()
    container(stored)["livenessProbe"] = {"tcpSocket": {"port": "http"}, "periodSeconds": 10}
    pod(stored)["volumes"][0] = {"name": "tmp", "configMap": {"name": "x"}}
    stored["spec"]["strategy"] = {"type": "Recreate"}
    assert put_right(DESIRED, stored) == live()


def test_a_weaker_security_context_is_replaced() -> None:
    stored = live()
    pod(stored)["securityContext"]["runAsUser"] = 0
    container(stored)["securityContext"]["privileged"] = True
    found = {one.path for one in compare(DESIRED, stored).differences}
    assert found == {f"{POD}.securityContext", f"{POD}.containers[server].securityContext"}
    assert put_right(DESIRED, stored) == live()


def test_a_port_of_the_host_is_taken_out() -> None:
    stored = live()
    container(stored)["ports"][0]["hostPort"] = 80
    assert compare(DESIRED, stored).path == f"{POD}.containers[server].ports"
    assert put_right(DESIRED, stored) == live()


def test_what_does_no_harm_stays_also_when_something_else_is_put_right() -> None:
    stored = live()
    pod(stored)["tolerations"] = [{"operator": "Exists"}]
    container(stored)["volumeMounts"].append({"name": "extra", "mountPath": "/extra"})
    stored["metadata"]["labels"]["team"] = "a"
    stored["metadata"]["ownerReferences"].append({"uid": "another"})
    stored["spec"]["paused"] = False
    assert compare(DESIRED, stored).differences == ()
    container(stored)["image"] = "other:1"
    after = put_right(DESIRED, stored)
    assert container(after)["image"] == container(DESIRED)["image"]
    container(stored)["image"] = container(DESIRED)["image"]
    assert after == stored


def test_a_toleration_that_somebody_adds_stays_and_one_of_ours_comes_back() -> None:
    ours, theirs = {"key": "gpu", "operator": "Exists"}, {"key": "spot", "operator": "Exists"}
    desired = a_manifest(a_spec(tolerations=[ours]))
    stored = as_stored(desired)
    pod(stored)["tolerations"] = [theirs, ours]
    assert compare(desired, stored).differences == ()
    pod(stored)["tolerations"] = [theirs]
    compared = compare(desired, stored)
    assert pod(put_right(desired, stored))["tolerations"] == [theirs, ours]
    (missing,) = compared.differences
    accepted = {missing.path: (missing.ours, missing.theirs)}
    assert compare(desired, stored, accepted).differences == ()


def test_containers_beside_the_server_go() -> None:
    stored = live()
    pod(stored)["containers"] = [{"name": "a"}, *pod(stored)["containers"], {"name": "b"}]
    assert put_right(DESIRED, stored) == live()


def test_a_service_has_our_ports_and_chooses_our_pods_only() -> None:
    stored = as_stored(SERVICE)
    stored["spec"]["ports"][0]["port"] = 80
    stored["spec"]["selector"]["track"] = "stable"
    stored["spec"]["clusterIP"] = "10.0.0.1"
    assert put_right(SERVICE, stored)["spec"] == {**SERVICE["spec"], "clusterIP": "10.0.0.1"}


def test_another_revision_replaces_the_template_whole_in_one_patch() -> None:
    stored = as_stored(OTHER)
    stored["spec"]["template"]["metadata"]["annotations"]["foreign"] = "x"
    stored["metadata"]["annotations"]["foreign"] = "x"
    stored["spec"]["paused"] = True
    pod(stored)["tolerations"] = [{"operator": "Exists"}]
    compared = compare(DESIRED, stored)
    assert compared.path == "spec.template"
    after = put_right(DESIRED, stored)
    assert after["spec"] == DESIRED["spec"]
    assert after["metadata"]["annotations"] == {**DESIRED["metadata"]["annotations"], "foreign": "x"}
    assert [one["path"] for one in change(stored, compared.put_right)] == [
        "/metadata/annotations",
        "/spec/template",
        "/spec/paused",
    ]


def test_a_field_that_is_declared_no_more_goes() -> None:
    stored = as_stored(a_manifest(a_spec(rollout={"soakSeconds": 7})))
    after = put_right(a_manifest(a_spec(rollout={"soakSeconds": 0})), stored)
    assert "minReadySeconds" not in after["spec"]


def test_a_difference_that_is_accepted_stays_until_somebody_sets_a_third_value() -> None:
    stored = live()
    container(stored)["imagePullPolicy"] = "Always"
    (difference,) = compare(DESIRED, stored).differences
    for theirs in (difference.theirs, ANY):
        accepted = {difference.path: (difference.ours, theirs)}
        compared = compare(DESIRED, stored, accepted)
        assert compared.differences == ()
        assert change(stored, compared.put_right) == ()
    container(stored)["imagePullPolicy"] = "Never"
    assert compare(DESIRED, stored, accepted).differences == (), "of one that varies any value"
    accepted = {difference.path: (difference.ours, difference.theirs)}
    assert compare(DESIRED, stored, accepted).path == difference.path
    assert put_right(DESIRED, stored) == live()


def test_a_container_that_admission_adds_or_a_variable_that_it_takes_out_may_be_accepted() -> None:
    stored = live()
    pod(stored)["containers"].append({"name": "istio-proxy", "image": "p:1"})
    del container(stored)["livenessProbe"]
    container(stored)["env"] = container(stored)["env"][1:]
    found = compare(DESIRED, stored).differences
    accepted = {one.path: (one.ours, one.theirs) for one in found}
    compared = compare(DESIRED, stored, accepted)
    assert compared.differences == ()
    assert compared.put_right == stored


def test_a_template_without_a_revision_is_replaced() -> None:
    stored = live()
    del stored["spec"]["template"]["metadata"]["annotations"][names.REVISION]
    assert compare(DESIRED, stored).path == "spec.template"
    assert put_right(DESIRED, stored)["spec"] == DESIRED["spec"]


def test_what_a_good_revision_declares_is_what_is_compared() -> None:
    good = a_revision(State.GOOD)
    assert compare(a_manifest(revision=good), live()).differences == ()
