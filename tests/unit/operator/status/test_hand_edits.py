"""What people type against a Deployment of ours, and what they are told to edit instead."""

import copy
import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from llm_operator.core import names
from llm_operator.core.names import Manifest
from llm_operator.core.revisions.state import State
from llm_operator.core.status.conditions import REVERTED_TOLD, build_status
from llm_operator.core.status.events import events_of
from llm_operator.core.status.hand_edits import FIELDS, HandEdit, hand_edit
from tests.unit.operator.builders import NOW, a_manifest, a_revision, a_spec, as_stored, running

SERVER = ("f:spec", "f:template", "f:spec", "f:containers", 'k:{"name":"server"}')
TIME = "2026-01-02T03:04:05Z"
SPEC = a_spec(resources={"limits": {"memory": "1Gi"}})
GOOD = a_revision(State.GOOD, spec=SPEC)


def owned(*path: str, by: str, at: str | None = TIME, **over: Any) -> Manifest:
    """An entry of managedFields that holds one field."""
    fields: Manifest = {}
    for part in reversed(path):
        fields = {part: fields}
    return {"manager": by, "operation": "Update", "fieldsV1": fields, **({"time": at} if at else {}), **over}


def edited(*entries: Manifest, **server: Any) -> tuple[Manifest, Manifest]:
    """The Deployment as declared, and as it is after somebody's edit of the server's container."""
    desired = a_manifest(SPEC)
    live = as_stored(desired)
    live["spec"]["template"]["spec"]["containers"][0] |= server
    live["metadata"]["managedFields"] = [owned("f:spec", "f:template", by=names.FIELD_MANAGER, at=None), *entries]
    return desired, live


def env(**values: str) -> list[Manifest]:
    return [{"name": name, "value": value} for name, value in values.items()]


def test_set_env_names_the_field_the_tool_and_the_time() -> None:
    entry = owned(*SERVER, "f:env", 'k:{"name":"LLM_MODE"}', "f:value", by="kubectl-set")
    found = hand_edit(*edited(entry, env=env(LLM_MODE="qwen")))
    assert found is not None
    assert found.message == (
        f"The variable LLM_MODE of Deployment triage was set by kubectl-set at {TIME} and is put back. "
        "Set spec.mode of the LLMDeployment: `kubectl edit llmdeployment triage`."
    )


def test_a_variable_that_no_field_stands_for_is_told_so() -> None:
    entry = owned(*SERVER, "f:env", 'k:{"name":"LISTEN_PORT"}', by="kubectl-set", at=None)
    found = hand_edit(*edited(entry, env=env(LLM_MODE="mock", LISTEN_PORT="9")))
    assert found is not None
    assert "set by kubectl-set and is put back. The LLMDeployment has no field for this variable." in found.message


def test_an_image_that_was_set_names_spec_image() -> None:
    found = hand_edit(*edited(owned(*SERVER, "f:image", by="kubectl-set"), image="x:9"))
    assert found is not None
    assert found.field == "spec.template.spec.containers[server].image"
    assert "Set spec.image of the LLMDeployment" in found.remedy


def test_what_stands_inside_of_a_field_belongs_to_who_set_it() -> None:
    entry = owned(*SERVER, "f:resources", "f:limits", "f:memory", by="kubectl-edit")
    found = hand_edit(*edited(entry, resources={"limits": {"memory": "2Gi"}}))
    assert found is not None
    assert "spec.resources" in found.remedy


def scaled(by: str) -> HandEdit | None:
    desired, live = edited(owned("f:spec", "f:replicas", by=by, subresource="scale"))
    live["spec"]["replicas"] = 7
    return hand_edit(desired, live)


def test_scale_names_the_scale_of_the_llmdeployment() -> None:
    found = scaled("kubectl")
    assert found is not None
    assert found.remedy == "Scale the LLMDeployment: `kubectl scale llmdeployment triage --replicas=N`."


def test_an_autoscaler_is_pointed_to_the_llmdeployment() -> None:
    found = scaled("kube-controller-manager")
    assert found is not None
    assert found.manager == "an autoscaler"
    assert "scaleTargetRef" in found.remedy


def test_a_pause_is_told_to_be_impossible() -> None:
    desired, live = edited(owned("f:spec", "f:paused", by="kubectl-rollout"))
    live["spec"]["paused"] = True
    found = hand_edit(desired, live)
    assert found is not None
    assert "cannot be paused" in found.remedy


def test_undo_names_the_record_of_the_revision_that_was_wanted() -> None:
    path = ("f:spec", "f:template", "f:metadata", "f:annotations", f"f:{names.REVISION}")
    image = owned(*SERVER, "f:image", by="kubectl-rollout", at="2026-01-02T09:00:00Z")
    desired, live = edited(owned(*path, by="kubectl-rollout"), image, image="old:1")
    live["spec"]["template"]["metadata"]["annotations"][names.REVISION] = "0123456789"
    found = hand_edit(desired, live)
    assert found is not None
    assert found.field == "spec.template"
    assert "`kubectl get controllerrevision triage-0123456789 -o jsonpath={.data.fields}`" in found.remedy
    # A new template that we ourselves bring is no undo, whoever set a field of the old one.
    del live["metadata"]["managedFields"][1]
    assert hand_edit(desired, live) is None


def test_of_several_edits_the_last_is_told() -> None:
    early = owned(*SERVER, "f:image", by="kubectl-set", at="2026-01-02T01:00:00Z")
    late = owned(*SERVER, "f:imagePullPolicy", by="kubectl-edit", at="2026-01-02T02:00:00Z")
    found = hand_edit(*edited(early, late, image="x:9", imagePullPolicy="Never"))
    assert found is not None
    assert found.manager == "kubectl-edit"


@pytest.mark.parametrize(
    "entries",
    [
        (),
        (owned(*SERVER, "f:image", by=names.FIELD_MANAGER),),
        (owned(*SERVER, "f:image", by="kubelet", subresource="status"),),
        (owned(*SERVER, "f:imagePullPolicy", by="kubectl-set"),),
        (owned(*SERVER[:3], "f:containers", 'k:{"name":"other"}', "f:image", by="kubectl-set"),),
        (owned(*SERVER[:3], "f:containers", "k:{not JSON", "f:image", by="kubectl-set"),),
        (owned(*SERVER[:3], "f:containers", "f:image", by="kubectl-set"),),
        ({"manager": "kubectl-set", "fieldsV1": {"f:spec": "?"}},),
    ],
    ids=["nobody", "ourselves or admission", "a status", "another field", "a container", "no key", "no item", "no map"],
)
def test_what_nobody_else_set_is_no_edit(entries: tuple[Manifest, ...]) -> None:
    assert hand_edit(*edited(*entries, image="x:9")) is None


def test_an_edit_of_a_field_that_is_as_declared_is_none() -> None:
    assert hand_edit(*edited(owned(*SERVER, "f:image", by="kubectl-set"))) is None


def test_what_no_longer_has_the_field_or_its_parents_is_read_all_the_same() -> None:
    desired, live = edited(owned("f:spec", "f:template", by="kubectl-edit"))
    live["spec"]["template"]["spec"] = {}
    assert hand_edit(desired, live) is None


def test_services_have_no_field_in_an_llmdeployment() -> None:
    service = {"kind": "Service", "metadata": {"name": "triage"}, "spec": {}}
    assert hand_edit(service, service) is None


def test_every_place_that_is_looked_at_is_one_that_we_declare_or_refuse() -> None:
    spec = {
        "mode": "mock",
        "resources": {"limits": {"memory": "1Gi"}},
        "imagePullSecrets": [{"name": "a"}],
        "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
    }
    manifest = json.dumps(a_manifest(a_spec(**spec)))
    for path, field in FIELDS:
        assert field is None or f'"{path[-1]}"' in manifest, path


EDIT = HandEdit("Deployment", "triage", "The variable LLM_MODE", "kubectl-set", TIME, "Set spec.mode.")


def test_what_was_put_back_is_told_for_an_hour_or_until_the_next_edit() -> None:
    observation = running(SPEC, GOOD)
    status = build_status(observation, None, EDIT)
    assert status["reverted"]["message"] == EDIT.message
    stored = replace(observation, parent=replace(observation.parent, status=status))
    assert build_status(stored, None)["reverted"] == status["reverted"]
    later = replace(stored, now=NOW + REVERTED_TOLD)
    assert "reverted" not in build_status(later, None)
    edited_since = replace(stored, parent=replace(stored.parent, generation=2))
    assert "reverted" not in build_status(edited_since, None)


def test_each_edit_that_is_put_back_makes_one_event() -> None:
    observation = running(SPEC, GOOD)
    well = build_status(observation, None)
    parent = replace(observation.parent, status=well)
    status = build_status(replace(observation, parent=parent), None, EDIT)
    (event,) = events_of(parent, status, NOW)
    assert (event["reason"], event["type"], event["note"]) == ("EditReverted", "Warning", EDIT.message)
    assert events_of(replace(parent, status=status), status, NOW) == []
    again = copy.deepcopy(status)
    again["reverted"]["time"] = (NOW + timedelta(seconds=9)).strftime("%Y-%m-%dT%H:%M:%SZ")
    (second,) = events_of(replace(parent, status=status), again, NOW)
    assert second["metadata"]["name"] != event["metadata"]["name"]
