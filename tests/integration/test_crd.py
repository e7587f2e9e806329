"""What `kubectl apply` accepts and refuses, judged by a real API server."""

from pathlib import Path
from typing import Any

import pytest

from llm_operator.api.crd import custom_resource_definition
from tests.integration.conftest import ROOT
from tests.kubectl import Kubectl, Refused, an_llmdeployment

GOOD: dict[str, dict[str, Any]] = {
    "mode alone": {},
    "the seed's other name for qwen": {"mode": "Qwen3-4B-Thinking-2507"},
    "no replicas": {"replicas": 0},
    "many replicas": {"replicas": 100},
    "a tag": {"image": "registry.example.com:5000/team/server:1.2-rc_1"},
    "a digest": {"image": "server@sha256:" + "0" * 64},
    "requests equal to limits": {"resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "1024Mi"}}},
    "half of something": {"resources": {"requests": {"cpu": "0.5", "memory": "0.25Gi"}}},
    "an empty toleration value": {"tolerations": [{"key": "a", "operator": "Exists", "value": ""}]},
    "numbers as quantities": {"resources": {"requests": {"cpu": 1}, "limits": {"cpu": "1500m", "nvidia.com/gpu": 1}}},
    "a toleration of everything": {"tolerations": [{"operator": "Exists"}]},
    "affinity": {
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "gpu-memory", "operator": "Gt", "values": ["16"]}]}
                    ]
                }
            },
            "podAntiAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 1,
                        "podAffinityTerm": {
                            "topologyKey": "kubernetes.io/hostname",
                            "labelSelector": {"matchLabels": {"app.kubernetes.io/instance": "triage"}},
                        },
                    }
                ]
            },
        }
    },
    "a node selector": {"nodeSelector": {"kubernetes.io/arch": "amd64", "disk": "ssd"}},
    "nothing of the generation": {"generation": {}},
    "all of the generation at its least": {
        "generation": {
            "maxNewTokens": 1,
            "thinkingBudget": 0,
            "temperature": "0",
            "topP": "0.0001",
            "topK": 0,
            "doSample": False,
        }
    },
    "all of the generation at its most": {
        "generation": {
            "maxNewTokens": 32768,
            "thinkingBudget": 32768,
            "temperature": "2.0",
            "topP": "1.0000",
            "topK": 32768,
            "doSample": True,
        }
    },
    "a volume made by hand": {"mode": "qwen", "cache": {"storageClassName": ""}},
    "the seed's other name and its model": {
        "mode": "Qwen3-4B-Thinking-2507",
        "model": {"repository": "Qwen/Qwen3-4B-Thinking-2507"},
    },
    "names as the Hub has them": {"mode": "qwen", "model": {"repository": "a_b/Name_-_x.1", "revision": "v1.0+cu12"}},
    "a pull secret and a priority": {"imagePullSecrets": [{"name": "registry"}], "priorityClassName": "high"},
}

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown mode": ({"mode": "gpt"}, 'supported values: "mock", "qwen", "Qwen3-4B-Thinking-2507"'),
    "no mode": ({"mode": None}, "spec.mode: Required value"),
    "a misspelt field": ({"replica": 2}, 'unknown field "spec.replica"'),
    "fewer than no replicas": ({"replicas": -1}, "greater than or equal to 0"),
    "too many replicas": ({"replicas": 101}, "less than or equal to 100"),
    "half a replica": ({"replicas": 1.5}, "must be of type integer"),
    "an image with a space": ({"image": "a b"}, "must be a container image reference"),
    "an image in capitals": ({"image": "Server:1"}, "'Server:1': `image` must be in lower case"),
    "an image in capitals at a registry": (
        {"image": "ghcr.io/Team/server:1.0-RC1"},
        "'ghcr.io/Team/server:1.0-RC1': `image` must be in lower case; only its tag may have capitals",
    ),
    "an image as an address": (
        {"image": "https://ghcr.io/team/server:1"},
        "'https://ghcr.io/team/server:1': `image` is a reference without https://",
    ),
    "an empty image": ({"image": ""}, "spec.image"),
    "an unknown pull policy": ({"imagePullPolicy": "Sometimes"}, '"Always", "IfNotPresent", "Never"'),
    "requests over limits": (
        {"resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}}},
        "must be less than or equal to the entry of the same name in `limits`",
    ),
    "a misspelt resource": ({"resources": {"limits": {"memroy": "1Gi"}}}, "resource names must be cpu, memory"),
    "a quantity that is none": (
        {"resources": {"limits": {"memory": "much"}}},
        "spec.resources.limits[memory]: Invalid value: \"\": 'much': a quantity must not be negative, and is a number",
    ),
    "a quantity in another's units": ({"resources": {"limits": {"memory": "2GB"}}}, "'2GB': a quantity must not be"),
    "a request that is no quantity": (
        {"resources": {"requests": {"memory": "1 Gi"}, "limits": {"memory": "2Gi"}}},
        "'1 Gi': a quantity must not be",
    ),
    "a GPU that is no quantity": (
        {"resources": {"requests": {"nvidia.com/gpu": "one"}, "limits": {"nvidia.com/gpu": 1}}},
        "'one': a quantity must not be",
    ),
    "a cache in another's units": ({"mode": "qwen", "cache": {"size": "20GB"}}, "'20GB': a quantity must not be"),
    "a toleration without a key": ({"tolerations": [{"effect": "NoSchedule"}]}, "`operator` must be Exists"),
    "a toleration with Exists and a value": (
        {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]},
        "`value` must be empty when `operator` is Exists",
    ),
    "seconds without NoExecute": (
        {"tolerations": [{"key": "a", "operator": "Exists", "tolerationSeconds": 5}]},
        "`effect` must be NoExecute",
    ),
    "a quantity beyond all measure": ({"resources": {"limits": {"cpu": "999999999999999Pi"}}}, "must be less than 1Ei"),
    "soaking for longer than there is time": (
        {"rollout": {"soakSeconds": 60, "progressDeadlineSeconds": 60}},
        "`soakSeconds` must be less than `progressDeadlineSeconds`",
    ),
    "no time at all": ({"rollout": {"soakSeconds": 0, "progressDeadlineSeconds": 0}}, "greater than or equal to 1"),
    "a strategy of another kind": ({"rollout": {"strategy": "OnDelete"}}, '"RollingUpdate", "Recreate"'),
    "a fallback of another kind": ({"rollback": {"fallback": "Qwen"}}, '"None", "Mock"'),
    "no rollback ever": ({"rollback": {"maxPerHour": 0}}, "greater than or equal to 1"),
    "an empty retry token": ({"rollback": {"retryToken": ""}}, "spec.rollback.retryToken"),
    "a negative quantity": ({"resources": {"limits": {"cpu": -1}}}, "must not be negative"),
    "a quantity that would be rounded": ({"resources": {"limits": {"cpu": "0.0000001"}}}, "spec.resources.limits[cpu]"),
    "huge pages": ({"resources": {"limits": {"hugepages-2Mi": "4Mi"}}}, "resource names must be cpu, memory"),
    "half a GPU": ({"resources": {"limits": {"nvidia.com/gpu": "500m"}}}, "must be a whole number"),
    "a GPU requested without a limit": (
        {"resources": {"requests": {"nvidia.com/gpu": 1}}},
        "must stand in `limits`",
    ),
    "more GPUs allowed than requested": (
        {"resources": {"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 2}}},
        "only with the same value",
    ),
    "a priority class name that is none": ({"priorityClassName": "a..b"}, "spec.priorityClassName"),
    "a pod label that is none": (
        {
            "affinity": {
                "podAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [
                        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"a b": "c"}}}
                    ]
                }
            }
        },
        "keys must be label names",
    ),
    "a topology that is none": (
        {
            "affinity": {
                "podAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [
                        {"topologyKey": "a..b/zone", "labelSelector": {"matchLabels": {"a": "b"}}}
                    ]
                }
            }
        },
        "topologyKey",
    ),
    "a node selector key that is none": ({"nodeSelector": {"a b": "c"}}, "keys must be label names"),
    "a node selector key that is too long": ({"nodeSelector": {"a" * 64: "c"}}, "keys must be label names"),
    "a node selector value that is none": ({"nodeSelector": {"a": "b c"}}, "spec.nodeSelector.a"),
    "In without values": (
        {
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]
                    }
                }
            }
        },
        "`values` must not be empty",
    ),
    "a repository without an owner": ({"model": {"repository": "gpt2"}}, "'gpt2': `repository` must be owner/name"),
    "a repository's address": (
        {"model": {"repository": "https://huggingface.co/Qwen/Qwen3-4B"}},
        "`repository` must be owner/name as the Hub's page of the model shows it",
    ),
    "a repository with a name that is none": ({"model": {"repository": "a/b--c"}}, "`repository` must be owner/name"),
    "a revision that leaves the folder": ({"model": {"revision": "../x"}}, "'../x': `revision` must be a branch"),
    "a revision that leaves it later": ({"model": {"revision": "x/../y"}}, "`revision` must be a branch"),
    "the seed's other name with another model": (
        {"mode": "Qwen3-4B-Thinking-2507", "model": {"repository": "a/b"}},
        "`mode` Qwen3-4B-Thinking-2507 means the model Qwen/Qwen3-4B-Thinking-2507. For another `model.repository` set",
    ),
    "a source of another kind": ({"model": {"source": "s3"}}, '"hub", "image"'),
    "an endpoint without a scheme": (
        {"model": {"endpoint": "hub.example.com"}},
        "`endpoint` must be an address that begins with https:// or http://",
    ),
    "a cache of no size": ({"cache": {"size": "1"}}, "`size` must be 1Mi to 1Pi"),
    "a volume for one pod at a time with several": (
        {
            "mode": "qwen",
            "replicas": 2,
            "cache": {"accessModes": ["ReadWriteOnce"]},
            "rollout": {"strategy": "Recreate"},
        },
        "set `replicas` to 1 and `rollout.strategy` to Recreate, or use [ReadWriteMany]",
    ),
    "a volume for one pod at a time with a second one beside it": (
        {"mode": "qwen", "cache": {"accessModes": ["ReadWriteOnce"]}},
        "set `replicas` to 1 and `rollout.strategy` to Recreate, or use [ReadWriteMany]",
    ),
    "an answer of no tokens": ({"generation": {"maxNewTokens": 0}}, "greater than or equal to 1"),
    "an answer without an end": ({"generation": {"maxNewTokens": 32769}}, "less than or equal to 32768"),
    "a budget of less than nothing": ({"generation": {"thinkingBudget": -1}}, "greater than or equal to 0"),
    "fewer tokens than none": ({"generation": {"topK": -1}}, "greater than or equal to 0"),
    "half a token": ({"generation": {"topK": 0.5}}, "must be of type integer"),
    "a temperature without quotes": ({"generation": {"temperature": 0.7}}, "spec.generation.temperature"),
    "too hot": (
        {"generation": {"temperature": "2.1"}},
        '`temperature` must be a decimal in quotes from "0" to "2", such as "0.7"',
    ),
    "a temperature in words": ({"generation": {"temperature": "hot"}}, "`temperature` must be a decimal in quotes"),
    "an exponent": ({"generation": {"temperature": "1e0"}}, "`temperature` must be a decimal in quotes"),
    "too fine a temperature": ({"generation": {"temperature": "0.70000"}}, "at most 4 digits after the point"),
    "an empty temperature": ({"generation": {"temperature": ""}}, "spec.generation.temperature"),
    "nothing to draw from": (
        {"generation": {"topP": "0.0"}},
        '`topP` must be a decimal in quotes above "0", to "1", such as "0.9"',
    ),
    "more than all to draw from": ({"generation": {"topP": "1.01"}}, "`topP` must be a decimal in quotes"),
    "a doSample that is no answer": ({"generation": {"doSample": "no"}}, "must be of type boolean"),
    "not drawing at a temperature": (
        {"generation": {"doSample": False, "temperature": "0.7"}},
        "`doSample` and `temperature` must not say the opposite",
    ),
    "drawing the likeliest": (
        {"generation": {"doSample": True, "temperature": "0.0"}},
        "`doSample` and `temperature` must not say the opposite",
    ),
    "a misspelt way to generate": ({"generation": {"top_p": "0.9"}}, 'unknown field "spec.generation.top_p"'),
    "the same pull secret twice": ({"imagePullSecrets": [{"name": "a"}, {"name": "a"}]}, "Duplicate value"),
}

BAD_NAMES = ["a" * 41, "1st", "a.b", "has-a-dash-at-the-end-"]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_accepted(kubectl: Kubectl, path: Path) -> None:
    kubectl("apply", "--dry-run=server", "--validate=strict", "-f", str(path))


@pytest.mark.parametrize("spec", GOOD.values(), ids=GOOD)
def test_a_good_object_is_accepted(kubectl: Kubectl, spec: dict[str, Any]) -> None:
    kubectl.apply(an_llmdeployment(**spec), dry_run=True)


@pytest.mark.parametrize(("spec", "words"), BAD.values(), ids=BAD)
def test_a_bad_object_is_refused_and_told_what_is_allowed(kubectl: Kubectl, spec: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refused:
        kubectl.apply(an_llmdeployment(**spec), dry_run=True)
    assert words in str(refused.value)
    assert len(faults(str(refused.value))) == 1, "one mistake is told once"


def faults(message: str) -> list[str]:
    """The faults that a refusal tells, without what the API server adds: that it has not looked at everything, and what
    `kubectl scale` would say.
    """
    told = [line for line in message.splitlines() if line.startswith("* ")] or [message]
    return [
        line
        for line in told
        if "some validation rules were not" not in line and not line.startswith("* .spec.replicas")
    ]


# What the API server says of a wrong type or name nobody can word otherwise: docs/api.md tells what it means.
WORDS_OF_ITS_OWN: dict[str, dict[str, Any]] = {
    'must be of type string: "number"': {"generation": {"temperature": 0.7}},
    'must be of type integer: "string"': {"replicas": "2"},
    "accessor error": {"replicas": "2"},
    'must be of type integer,string: "number"': {"resources": {"limits": {"cpu": 0.5}}},
    'unknown field "spec.': {"replica": 2},
    "some validation rules were not checked": {"mode": "gpt"},
    'Invalid value: "object"': {"resources": {"limits": {"memroy": "1Gi"}}},
}


@pytest.mark.parametrize(("words", "spec"), WORDS_OF_ITS_OWN.items(), ids=list(WORDS_OF_ITS_OWN))
def test_the_api_servers_own_words_stand_in_the_manual(kubectl: Kubectl, words: str, spec: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        kubectl.apply(an_llmdeployment(**spec), dry_run=True)
    assert words in str(refused.value)
    assert f"`{words}`" in (ROOT / "docs/api.md").read_text()


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_children_cannot_bear_is_refused(kubectl: Kubectl, name: str) -> None:
    with pytest.raises(Refused, match=r"metadata\.name"):
        kubectl.apply(an_llmdeployment(name), dry_run=True)


def test_a_new_object_is_in_progress_before_anybody_looks_at_it(kubectl: Kubectl) -> None:
    kubectl.apply(an_llmdeployment())
    found = kubectl.get("llmdep", "triage")
    assert found is not None
    assert found["status"] == {"observedGeneration": -1}
    assert found["spec"] == {
        "mode": "mock",
        "replicas": 1,
        "imagePullPolicy": "IfNotPresent",
        "rollout": {"progressDeadlineSeconds": 900, "soakSeconds": 0, "strategy": "RollingUpdate"},
        "rollback": {"enabled": True, "fallback": "None", "maxPerHour": 3},
    }


def test_explain_is_a_manual(kubectl: Kubectl) -> None:
    text = kubectl("explain", "llmdeployment.spec", "--recursive")
    for field in ("mode", "replicas", "resources", "topologyKey"):
        assert field in text
    schema = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for level in ("spec", "spec.model", "spec.rollout"):
        told = "".join(kubectl("explain", f"llmdeployment.{level}").split())
        fields = schema
        for name in level.split("."):
            fields = fields["properties"][name]
        for field in fields["properties"].values():
            assert "".join(field["description"].split()) in told


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        ({"size": "10Gi"}, "`size` may only grow"),
        ({"storageClassName": "other"}, "`storageClassName` of a claim cannot change"),
        ({"storageClassName": None}, "`storageClassName` of a claim cannot change"),
        ({"accessModes": ["ReadWriteOnce"]}, "`accessModes` of a claim cannot change"),
    ],
)
def test_what_a_claim_cannot_become_is_refused(kubectl: Kubectl, cache: dict[str, Any], words: str) -> None:
    kubectl.apply(an_llmdeployment(cache={"storageClassName": "shared"}))
    with pytest.raises(Refused) as refused:
        kubectl.patch("llmdep", "triage", {"spec": {"cache": cache}})
    assert words in str(refused.value)
    kubectl.patch("llmdep", "triage", {"spec": {"cache": {"size": "30Gi"}}})
    kubectl.patch("llmdep", "triage", {"spec": {"cache": {**cache, "claimName": "other"}}})
