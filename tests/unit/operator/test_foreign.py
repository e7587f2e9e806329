from typing import Any

import pytest

from llm_operator.core.children import build_service
from llm_operator.core.foreign import claim, drift, in_the_way, left_over, replace_template
from tests.unit.operator.builders import a_manifest, a_parent, as_stored

DESIRED = a_manifest()
SERVICE = build_service(a_parent())
POD = "/spec/template/spec"


def live() -> dict[str, Any]:
    return as_stored(DESIRED)


def pod(manifest: dict[str, Any]) -> Any:
    return manifest["spec"]["template"]["spec"]


def test_what_is_as_declared_needs_no_patch() -> None:
    for desired in (DESIRED, SERVICE):
        stored = as_stored(desired)
        assert in_the_way(desired, stored) == []
        assert left_over(desired, stored) == []
        assert drift(desired, stored) is None


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        ("container", "command", ["sleep", "1"]),
        ("container", "args", ["--quiet"]),
        ("container", "envFrom", [{"secretRef": {"name": "s"}}]),
        ("pod", "hostNetwork", True),
        ("pod", "initContainers", [{"name": "a"}]),
        ("spec", "paused", True),
    ],
)
def test_what_breaks_the_server_or_its_rollout_is_taken_out(where: str, key: str, value: object) -> None:
    stored = live()
    target = {"container": pod(stored)["containers"][0], "pod": pod(stored), "spec": stored["spec"]}[where]
    target[key] = value
    path = {"container": f"{POD}/containers/0/{key}", "pod": f"{POD}/{key}", "spec": f"/spec/{key}"}[where]
    assert in_the_way(DESIRED, stored) == [{"op": "remove", "path": path}]
    assert drift(DESIRED, stored) == path


def test_a_variable_that_is_not_ours_is_taken_out_of_our_container() -> None:
    stored = live()
    pod(stored)["containers"][0]["env"] += [{"name": "LISTEN_PORT", "value": "9"}, {"name": "B", "value": "1"}]
    found = [one["path"] for one in in_the_way(DESIRED, stored)]
    assert found == [f"{POD}/containers/0/env/2", f"{POD}/containers/0/env/1"]


def test_a_weaker_security_context_is_taken_out() -> None:
    stored = live()
    pod(stored)["securityContext"]["runAsUser"] = 0
    ours = pod(stored)["containers"][0]["securityContext"]
    ours["privileged"] = True
    ours["capabilities"]["add"] = ["NET_ADMIN"]
    found = {one["path"] for one in in_the_way(DESIRED, stored)}
    where = f"{POD}/containers/0/securityContext"
    assert found == {f"{POD}/securityContext/runAsUser", f"{where}/privileged", f"{where}/capabilities/add"}


def test_a_port_of_the_host_is_taken_out() -> None:
    stored = live()
    pod(stored)["containers"][0]["ports"][0]["hostPort"] = 80
    assert [one["path"] for one in in_the_way(DESIRED, stored)] == [f"{POD}/containers/0/ports"]


def test_the_whole_pod_can_be_put_in_place_of_one_that_cannot_be_merged() -> None:
    (operation,) = replace_template(DESIRED)
    assert operation == {"op": "replace", "path": POD, "value": pod(DESIRED)}
    assert replace_template(SERVICE) == []


def test_what_does_no_harm_stays() -> None:
    stored = live()
    pod(stored)["tolerations"] = [{"operator": "Exists"}]
    pod(stored)["containers"][0]["volumeMounts"].append({"name": "extra", "mountPath": "/extra"})
    stored["spec"]["paused"] = False
    assert drift(DESIRED, stored) is None


def test_containers_beside_the_server_go_the_last_one_first_after_the_apply() -> None:
    stored = live()
    pod(stored)["containers"] = [{"name": "a"}, *pod(stored)["containers"], {"name": "b"}]
    assert in_the_way(DESIRED, stored) == []
    assert [one["path"] for one in left_over(DESIRED, stored)] == [f"{POD}/containers/2", f"{POD}/containers/0"]
    assert drift(DESIRED, stored) is not None


def test_a_port_in_the_way_is_put_right_before_the_apply() -> None:
    stored = as_stored(SERVICE)
    stored["spec"]["ports"][0]["port"] = 80
    assert in_the_way(SERVICE, stored) == [{"op": "replace", "path": "/spec/ports", "value": SERVICE["spec"]["ports"]}]
    stored = live()
    pod(stored)["containers"][0]["ports"][0]["containerPort"] = 80
    (operation,) = in_the_way(DESIRED, stored)
    assert operation["path"] == f"{POD}/containers/0/ports"


def entry(operation: str, manager: str = "llm-operator", **more: str) -> dict[str, str]:
    return {"manager": manager, "operation": operation, **more}


OTHERS = [entry("Update", "kubectl"), entry("Update", subresource="status"), entry("Apply", "flux")]


def test_ownership_from_a_create_becomes_ownership_by_apply() -> None:
    stored = {"metadata": {"managedFields": [entry("Update"), *OTHERS]}}
    (operation,) = claim(stored)
    assert operation["value"] == [entry("Apply"), *OTHERS]


def test_ownership_from_a_patch_beside_that_by_apply_is_given_up() -> None:
    stored = {"metadata": {"managedFields": [entry("Apply"), *OTHERS, entry("Update")]}}
    (operation,) = claim(stored)
    assert operation["value"] == [entry("Apply"), *OTHERS]


def test_ownership_by_apply_alone_needs_no_patch() -> None:
    assert claim({"metadata": {"managedFields": [entry("Apply"), *OTHERS]}}) == []
    assert claim({"metadata": {}}) == []
