"""What a message advises works when it is done: whatever field it names, an edit of that has the revision tried again.

And so does a retry token, for what lies outside of the spec; the condition Ready names it.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm_operator.api.conditions import FETCH_REASONS, Cause, Reason
from llm_operator.core.actions import CreateRevision, SetVerdict
from llm_operator.core.cached_model import CachedModel
from llm_operator.core.diagnosis.awaited import awaited
from llm_operator.core.diagnosis.pods import diagnose
from llm_operator.core.diagnosis.refusals import read_refusal
from llm_operator.core.model_cache.memory import too_small
from llm_operator.core.observation import Observation
from llm_operator.core.planner import plan
from llm_operator.core.revisions.revision import Revision
from llm_operator.core.revisions.state import RolloutTerms, State, Verdict, decode
from llm_operator.core.status.conditions import build_status
from tests.unit.operator.builders import (
    COMMIT,
    FACTS,
    SETTINGS,
    WEIGHTS,
    a_cached_spec,
    a_claim,
    a_container_status,
    a_pod,
    a_revision,
    a_spec,
    after,
    injected,
    rolled_out,
    running,
    waiting,
)
from tests.unit.operator.diagnosis import test_pods, test_refusals

ROOT = Path(__file__).parents[4]
GOOD = a_revision(State.GOOD)
BAD = {"image": "bad:1", "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "64Mi"}}}
# An edit of each field that a message may name.
EDITS: dict[str, dict[str, Any]] = {
    "spec.image": {"image": "good:1"},
    "spec.imagePullSecrets": {"imagePullSecrets": [{"name": "regcred"}]},
    "spec.resources": {"resources": {"limits": {"memory": "128Mi"}}},
    "spec.resources.requests": {"resources": {"requests": {"cpu": "1"}, "limits": {"memory": "64Mi"}}},
    "spec.resources.limits.memory": {"resources": {"requests": {"cpu": "2"}, "limits": {"memory": "128Mi"}}},
    "spec.nodeSelector": {"nodeSelector": {"disk": "ssd"}},
    "spec.affinity": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}},
    "spec.tolerations": {"tolerations": [{"key": "gpu", "operator": "Exists"}]},
    "spec.priorityClassName": {"priorityClassName": "other"},
    "spec.rollout.strategy": {"rollout": {"strategy": "Recreate"}},
    "spec.rollout.progressDeadlineSeconds": {"rollout": {"progressDeadlineSeconds": 1800}},
    "spec.rollback.retryToken": {"rollback": {"retryToken": "once-more"}},
    "spec.cache": {"mode": "qwen", "cache": {}},
}


def causes() -> Iterator[Cause]:
    """What the operator says of pods that do not come up, in all the ways that its tests know."""
    for status, *_ in test_pods.CASES.values():
        found = diagnose([a_pod(**status)])
        assert found is not None
        yield found.told
    for _, words, _ in (*test_refusals.FINAL.values(), *test_refusals.PASSING.values()):
        yield read_refusal(words, "triage-5d8f").cause
    for words in test_pods.NODE_TROUBLE.values():
        found = diagnose([a_pod(containerStatuses=waiting("CreateContainerError", words))])
        assert found is not None
        yield found.told
    running_unready = a_container_status(state={"running": {}})
    for status in (
        {"containerStatuses": running_unready},
        {"initContainerStatuses": injected(running_unready, "fetch")},
        {"initContainerStatuses": injected(running_unready)},
        {"containerStatuses": waiting("ContainerCreating")},
    ):
        found = awaited([a_pod(**status)])
        assert found is not None
        yield found.told
    for status in (
        {"conditions": [test_pods.GATED]},
        {"containerStatuses": waiting("ErrImagePull", "401 Unauthorized")},
        {"containerStatuses": waiting("ErrImagePull", "503 Service Unavailable")},
        {"containerStatuses": injected(waiting("ErrImagePull", "not found"))},
    ):
        found = diagnose([a_pod(**status)])
        assert found is not None
        yield found.told


CAUSES = list(dict.fromkeys(causes()))


def ours(message: str) -> str:
    """Without somebody else's words."""
    return message.partition(" It says: ")[0]


def fields_in(text: str) -> set[str]:
    return set(re.findall(r"\bspec(?:\.[a-z][A-Za-z]*)+", text))


ADVISED = sorted({(str(one.reason), field) for one in CAUSES for field in fields_in(ours(one.message))})


def rejected(reason: str) -> Revision:
    """For that reason, on the terms that are declared by default."""
    return a_revision(
        State.REJECTED, number=2, spec=a_spec(**BAD), reason=reason, rollout=RolloutTerms("RollingUpdate", 900, 10)
    )


def attempts(observation: Observation) -> list[Verdict]:
    """The attempts that begin."""
    begun = []
    for action in plan(observation, SETTINGS).actions:
        if isinstance(action, SetVerdict):
            begun.append(decode(action.annotation))
        elif isinstance(action, CreateRevision):
            begun.append(decode(action.manifest["metadata"]["annotations"]["llm.carepath.ai/verdict"]))
    return [one for one in begun if one is not None and one.state is State.CANDIDATE]


def test_nothing_begins_without_an_edit() -> None:
    assert attempts(running(a_spec(**BAD), GOOD, rejected("CrashLoop"))) == []


@pytest.mark.parametrize(("reason", "field"), ADVISED)
def test_an_edit_of_the_field_that_a_message_names_has_it_tried_again(reason: str, field: str) -> None:
    spec = a_spec(**{**BAD, **EDITS[field]})
    observation = running(spec, GOOD, rejected(reason))
    assert len(attempts(observation)) == 1
    if field == "spec.cache":
        return  # Its model is fetched first.
    for _ in range(3):
        observation = after(observation, plan(observation, SETTINGS), **rolled_out(1, generation=99))
    status = build_status(observation, None)
    ready = next(one for one in status["conditions"] if one["type"] == "Ready")
    assert (ready["status"], status["desiredRevision"]) == ("True", status["lastKnownGoodRevision"])


@pytest.mark.parametrize("reason", sorted({str(one.reason) for one in CAUSES} | {str(one) for one in FETCH_REASONS}))
def test_a_token_has_it_tried_again_whatever_it_was_rejected_for_and_is_named(reason: str) -> None:
    bad = rejected(reason)
    told = build_status(running(a_spec(**BAD), GOOD, bad), None)["conditions"]
    (ready,) = [one for one in told if one["type"] == "Ready"]
    assert "edit the spec, or set another spec.rollback.retryToken once a cause outside is mended" in ready["message"]
    assert len(attempts(running(a_spec(**BAD, **EDITS["spec.rollback.retryToken"]), GOOD, bad))) == 1


# Of a model that could not be fetched, or does not fit.
MODEL_EDITS: dict[str, dict[str, Any]] = {
    "spec.model.repository": {"model": {"repository": "Qwen/Qwen3-0.6B"}},
    "spec.model.revision": {"model": {"revision": "v2"}},
    "spec.model.endpoint": {"model": {"endpoint": "https://mirror.example.com"}},
    "spec.model.tokenSecretRef": {"model": {"tokenSecretRef": {"name": "another"}}},
    "spec.model.memoryCheck": {"model": {"memoryCheck": "Skip"}},
    "spec.model.fetchResources": {"model": {"fetchResources": {"limits": {"memory": "2Gi"}}}},
    "spec.model.source": {"cache": None, "model": {"source": "image"}},
    "spec.cache.claimName": {"cache": {"claimName": "another"}},
    "spec.resources.limits.memory": {"resources": {"limits": {"memory": "64Gi"}}},
    "spec.image": {"image": "another:1"},
    "spec.rollout.progressDeadlineSeconds": {"rollout": {"progressDeadlineSeconds": 1800}},
    "spec.rollback.retryToken": {"rollback": {"retryToken": "once-more"}},
}


@pytest.mark.parametrize("edit", MODEL_EDITS.values(), ids=MODEL_EDITS)
def test_an_edit_of_what_a_fetch_depends_on_has_it_tried_again(edit: dict[str, Any]) -> None:
    terms = RolloutTerms("RollingUpdate", 900, 10)
    bad = a_revision(State.REJECTED, number=2, spec=a_cached_spec(), reason="TokenMissing", rollout=terms)
    assert attempts(running(a_cached_spec(), GOOD, bad, claim=a_claim())) == []
    assert len(attempts(running(a_cached_spec(**edit), GOOD, bad, claim=a_claim()))) == 1


def test_the_advice_for_a_model_that_does_not_fit_is_among_these() -> None:
    model = CachedModel("a/b", COMMIT, "/models/a--b", WEIGHTS, FACTS)
    misfit = too_small(a_cached_spec(resources={"limits": {"memory": "1Gi"}}), model)
    assert misfit is not None
    assert fields_in(misfit.message) <= set(MODEL_EDITS)


def test_every_fault_of_pods_has_a_message_here() -> None:
    start, end = list(Reason).index(Reason.INVALID_IMAGE_NAME), list(Reason).index(Reason.PROGRESS_DEADLINE_EXCEEDED)
    assert set(list(Reason)[start : end + 1]) == {one.reason for one in CAUSES}


# No remedy names what an LLMDeployment lacks.


@lru_cache
def schema() -> dict[str, Any]:
    crd = yaml.safe_load((ROOT / "crds/llmdeployments.yaml").read_text())
    found: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def is_declared(field: str) -> bool:
    node = schema()
    for step in field.split("."):
        if "additionalProperties" in node:
            return True
        if step not in node.get("properties", {}):
            return False
        node = node["properties"][step]
    return True


PAGES = ("docs/troubleshooting.md", "docs/rollback.md", "docs/model-cache.md")


@pytest.mark.parametrize("page", PAGES)
def test_every_field_that_the_docs_name_exists(page: str) -> None:
    assert [one for one in sorted(fields_in((ROOT / page).read_text())) if not is_declared(one)] == []


def test_every_field_that_a_message_names_exists() -> None:
    assert [field for _, field in ADVISED if not is_declared(field)] == []
