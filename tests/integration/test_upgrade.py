"""What an upgrade changes and what it must not: the operator's image, the defaults of the API."""

import copy
from pathlib import Path
from typing import Any

from llm_operator.api.crd import custom_resource_definition
from llm_operator.api.types import LLMDeploymentSpec
from llm_operator.core.revisions.declaration import declaration, says_the_same
from tests.integration.conftest import ControlPlane, running_operator
from tests.kubectl import Kubectl, Manifest, an_llmdeployment, condition, eventually, is_ready
from tests.unit.operator.next_version import NextSpec

WRONG = {"LLMOP_SERVER_IMAGE": "kwok/notfound:1", "LLMOP_CONFIRM_SECONDS": "1"}


def told(kubectl: Kubectl, check: Any) -> Manifest:
    def look() -> Manifest:
        found = kubectl.get("llmdep", "triage")
        assert found is not None
        assert check(found), found.get("status")
        return found

    return eventually(look)


def test_a_wrong_image_of_the_operator_is_healed_by_a_retry_once_it_is_corrected(
    kubectl: Kubectl, control_plane: ControlPlane, tmp_path: Path
) -> None:
    with running_operator(control_plane, tmp_path / "log", **WRONG):
        kubectl.apply(an_llmdeployment(name="triage"))
        found = told(kubectl, lambda one: condition(one, "Ready")["reason"] == "ImageNotFound" and is_stalled(one))
        wrong = found["status"]["activeRevision"]
    with running_operator(control_plane, tmp_path / "log"):
        kubectl.patch("llmdep", "triage", {"spec": {"rollback": {"retryToken": "corrected"}}})
        found = told(kubectl, is_ready)
        assert found["status"]["activeRevision"] == f"{wrong}-2"
        deployment: Any = kubectl.get("deployment", "triage")
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        assert container["image"] == "registry.example.com/server:1"
        (rejected,) = found["status"]["rejected"]
        assert (rejected["revision"], rejected["reason"]) == (wrong, "ImageNotFound")


def is_stalled(found: Manifest) -> bool:
    return any(one["type"] == "Stalled" for one in found["status"]["conditions"])


def test_what_an_api_server_makes_of_other_defaults_is_no_other_revision(kubectl: Kubectl) -> None:
    first = custom_resource_definition()
    first["metadata"]["name"] = "llmdeployments.upgrade.example.com"
    first["spec"]["group"] = "upgrade.example.com"
    first["spec"]["names"]["shortNames"], first["spec"]["names"]["categories"] = [], []
    later = copy.deepcopy(first)
    spec = later["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    spec["imagePullPolicy"]["default"] = "Always"
    spec["runtimeClassName"] = {"type": "string", "default": "runc"}
    spec["model"]["properties"]["repository"]["default"] = "Qwen/Qwen4-4B"
    spec["model"]["properties"]["loader"] = {"type": "string", "default": "safetensors"}
    kind = "llmdeployments.upgrade.example.com"
    specs: dict[str, Manifest] = {
        "unset": {"mode": "mock"},
        "old-default": {"mode": "mock", "imagePullPolicy": "IfNotPresent"},
        "new-default": {"mode": "mock", "imagePullPolicy": "Always"},
        "no-model": {"mode": "qwen", "cache": {}},
        "a-model": {"mode": "qwen", "cache": {}, "model": {"revision": "v1"}},
    }
    try:
        kubectl.apply(first)
        # kubectl's own wait fails where there are no conditions at all yet.
        eventually(lambda: kubectl("wait", "--for=condition=Established", f"crd/{kind}"))
        for name, one in specs.items():
            made = {**an_llmdeployment(name), "apiVersion": "upgrade.example.com/v1alpha1", "spec": one}
            eventually(lambda made=made: kubectl.apply(made))
        before = {name: stored(kubectl, kind, name) for name in specs}
        eventually(lambda: kubectl.apply(later))
        eventually(lambda: all("runtimeClassName" in stored(kubectl, kind, name) for name in specs))
        for name in specs:
            then = declaration(LLMDeploymentSpec.model_validate(before[name]))
            now = stored(kubectl, kind, name)
            assert now["runtimeClassName"] == "runc", "a new default is told of old objects, too"
            assert now["imagePullPolicy"] == before[name]["imagePullPolicy"], "an old one stays as it was stored"
            assert says_the_same(declaration(NextSpec.model_validate(now)), then.fields, then.values)
    finally:
        kubectl("delete", "crd", kind, "--ignore-not-found", "--wait=false")


def stored(kubectl: Kubectl, kind: str, name: str) -> Manifest:
    found = kubectl.get(kind, name)
    assert found is not None
    spec: Manifest = found["spec"]
    return spec
