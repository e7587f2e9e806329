"""The manifests, pinned by golden files: run with UPDATE_GOLDEN=1 to accept a change, then read the diff."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from inference_server.settings import Settings
from llm_operator.api.crd import structural
from llm_operator.api.types import TEMPERATURE_PATTERN, TOP_P_PATTERN, Generation
from llm_operator.core import names
from llm_operator.core.children.deployment import build_deployment
from llm_operator.core.children.drift import first_difference
from llm_operator.core.children.pod_template import build_pod_template
from llm_operator.core.children.service import build_service
from llm_operator.core.names import Manifest
from llm_operator.core.revisions.revision import new_revision
from tests.unit.operator.builders import SETTINGS, a_manifest, a_parent, a_spec, a_verdict

GOLDEN = Path(__file__).parent / "golden"
SPECS: dict[str, dict[str, Any]] = {
    "minimal": {},
    "full": {
        "mode": "Qwen3-4B-Thinking-2507",
        "image": "registry.example.com/team/server:1.2",
        "imagePullPolicy": "Always",
        "imagePullSecrets": [{"name": "registry"}],
        "replicas": 3,
        "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": 1}},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"labelSelector": {"matchLabels": {"a": "b"}}, "topologyKey": "kubernetes.io/hostname"}
                ]
            }
        },
        "priorityClassName": "clinic-high",
        "rollout": {"strategy": "Recreate", "soakSeconds": 30, "progressDeadlineSeconds": 300},
        "rollback": {"enabled": False, "fallback": "Mock"},
    },
    "cached": {
        "mode": "qwen",
        "model": {"repository": "clinic/triage-4b", "revision": "v2", "endpoint": "https://hub.example.com"},
        "cache": {"claimName": "models", "size": "40Gi", "storageClassName": "efs-sc"},
    },
}


def pod_of(spec: dict[str, Any]) -> Manifest:
    pod: Manifest = a_manifest(a_spec(**spec))["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("name", SPECS)
def test_manifests_are_as_the_golden_file_says(name: str) -> None:
    spec = a_spec(**SPECS[name])
    deployment = a_manifest(spec)
    revision = str(names.revision_of(deployment))
    record = new_revision(a_parent(), spec, SETTINGS, name=revision, number=1, verdict=a_verdict()).live
    assert record["data"].pop("template") == deployment["spec"]["template"]
    manifests = [build_service(a_parent(spec=spec)), deployment, record]
    text = yaml.safe_dump_all(manifests, sort_keys=False)
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", SPECS)
def test_pods_meet_pod_security_restricted(name: str) -> None:
    pod = pod_of(SPECS[name])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_a_serving_pod_is_never_taken_away_before_its_successor_answers() -> None:
    strategy = a_manifest()["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_where_there_is_no_room_for_two_the_old_pod_goes_first() -> None:
    assert a_manifest(a_spec(rollout={"strategy": "Recreate"}))["spec"]["strategy"] == {"type": "Recreate"}


def test_kubernetes_keeps_the_time_of_the_soak_and_of_the_deadline() -> None:
    spec = a_manifest(a_spec(rollout={"soakSeconds": 7, "progressDeadlineSeconds": 70}))["spec"]
    assert (spec["minReadySeconds"], spec["progressDeadlineSeconds"]) == (7, 70)


def test_a_recorded_template_is_applied_word_for_word_and_names_its_revision() -> None:
    template = {"spec": {"containers": [], "anything": "else"}}
    spec = a_spec()
    made = build_deployment(a_parent(), replicas=2, rollout=spec.rollout, revision="abc", template=template)
    assert made["spec"]["template"] == template
    assert names.revision_of(made) == "abc"
    assert names.revision_of(build_pod_template("triage", spec, SETTINGS, revision="abc")) == "abc"


def test_the_server_is_told_the_mode_by_its_short_name() -> None:
    modes = {mode: pod_of({"mode": mode})["containers"][0]["env"] for mode in ("qwen", "Qwen3-4B-Thinking-2507")}
    assert modes["qwen"][0] == modes["Qwen3-4B-Thinking-2507"][0] == {"name": "LLM_MODE", "value": "qwen"}


def test_without_a_cache_each_pod_fetches_for_itself() -> None:
    pod = pod_of({"mode": "qwen", "model": {"repository": "a/b"}})
    (fetch,), (server,) = pod["initContainers"], pod["containers"]
    assert pod["volumes"][1] == {"name": "models", "emptyDir": {}}
    assert fetch["command"] == ["python", "-m", "inference_server", "fetch"]
    assert fetch["volumeMounts"][1] == {"name": "models", "mountPath": "/models"}
    assert server["volumeMounts"][1] == {"name": "models", "mountPath": "/models", "readOnly": True}
    assert {"name": "MODEL_REPOSITORY", "value": "a/b"} in server["env"]
    assert "HUGGINGFACE_TOKEN" not in str(server), "the server needs no token"


def test_a_model_in_the_image_is_not_fetched() -> None:
    for spec in (
        {"mode": "qwen", "model": {"source": "image"}},
        {"mode": "qwen", "model": {"source": "image"}, "cache": {}},
    ):
        pod = pod_of(spec)
        assert "initContainers" not in pod
        assert pod["containers"][0]["env"] == [{"name": "LLM_MODE", "value": "qwen"}]
        assert [one["name"] for one in pod["volumes"]] == ["tmp"]


GENERATION: dict[str, tuple[Any, str]] = {
    "maxNewTokens": (512, "512"),
    "thinkingBudget": (0, "0"),
    "temperature": ("0.70", "0.70"),
    "topP": ("0.9", "0.9"),
    "topK": (20, "20"),
    "doSample": (True, "true"),
}


@pytest.mark.parametrize("mode", ["mock", "qwen"])
@pytest.mark.parametrize("name", GENERATION)
def test_the_server_is_told_what_is_declared_of_the_generation_and_no_more(mode: str, name: str) -> None:
    value, text = GENERATION[name]
    plain, declared = (
        pod_of({"mode": mode, "generation": generation})["containers"][0]["env"] for generation in ({}, {name: value})
    )
    setting = re.sub("([A-Z])", r"_\1", name).upper()
    assert [one for one in declared if one not in plain] == [{"name": setting, "value": text}]
    assert [one for one in declared if one in plain] == plain


def heeded(value: Any, name: str) -> bool:
    """Whether the server takes this text for a setting."""
    try:
        return getattr(Settings.model_validate({name: value}), name) is not None
    except ValidationError:
        return False


@pytest.mark.parametrize("name", Generation.model_fields)
def test_the_server_has_a_setting_for_each_field(name: str) -> None:
    schema = structural(Generation.model_json_schema(by_alias=False), {})["properties"][name]
    if schema["type"] == "integer":
        texts = [str(schema["minimum"]), str(schema["maximum"])]
        assert not heeded(str(schema["maximum"] + 1), name)
    else:
        texts = {"string": ["0.0001", "0.7", "1.0"], "boolean": ["true", "false"]}[schema["type"]]
    assert all(heeded(text, name) for text in texts)


@pytest.mark.parametrize(("name", "pattern"), [("temperature", TEMPERATURE_PATTERN), ("top_p", TOP_P_PATTERN)])
def test_a_decimal_is_allowed_where_the_server_takes_it(name: str, pattern: str) -> None:
    edges = [*range(12), 99, 100, 101, 999, 1000, 1001, 9999, 10_000, 10_001, 19_999, 20_000, 20_001]
    decimals = [f"{number / 10_000:.4f}" for number in edges] + ["0", "0.0", "0.7", "1", "1.0", "2", "2.0", "3", "-1"]
    wrong = [text for text in decimals if heeded(text, name) != bool(re.search(pattern, text))]
    assert wrong == []


@pytest.mark.parametrize("text", ["", "nan", "inf", "1e0", "+1", ".5", "1.", "0.7 ", "0,7", "00.7", "0.00001"])
def test_a_decimal_is_written_in_one_way(text: str) -> None:
    assert not re.search(TEMPERATURE_PATTERN, text)
    assert not re.search(TOP_P_PATTERN, text)


def test_empty_strings_are_left_out_of_tolerations_as_the_api_server_does() -> None:
    pod = pod_of({"tolerations": [{"key": "gpu", "operator": "Exists", "value": ""}]})
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists"}]


def test_what_is_declared_empty_is_not_in_the_pod() -> None:
    empty = pod_of({"tolerations": [], "nodeSelector": {}, "affinity": {}, "imagePullSecrets": [], "resources": {}})
    assert empty == pod_of({})


def test_the_same_spec_always_gives_the_same_manifest() -> None:
    spec = a_spec()
    one, other = (
        build_deployment(
            parent,
            replicas=1,
            rollout=spec.rollout,
            revision="abc",
            template=build_pod_template(parent.name, spec, SETTINGS, revision="abc"),
        )
        for parent in (a_parent(), a_parent(generation=9, resource_version="10"))
    )
    assert one == other


def test_taking_a_field_out_of_the_spec_is_a_difference() -> None:
    with_field, without = a_manifest(a_spec(priorityClassName="high")), a_manifest()
    assert first_difference(without, with_field) is not None


def test_every_child_carries_the_label_by_which_it_is_watched() -> None:
    record = new_revision(a_parent(), a_spec(), SETTINGS, name="abc", number=1, verdict=a_verdict()).live
    assert all(names.is_managed(one) for one in (build_service(a_parent()), a_manifest(), record))
    assert not names.is_managed({"metadata": {}})
    assert not names.is_managed({"metadata": {"labels": {names.MANAGED_BY: "Helm"}}})
