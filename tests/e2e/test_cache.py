"""Models from a Hub in the cluster onto a volume of the node, and what a fetch that fails does to those who serve.

The image is the one that runs models: another one refuses to fetch what it could not run.
"""

import json
from typing import Any

import pytest

from tests.e2e import a_hub, client
from tests.e2e.steps import edit, example, server_image, servers, triage, wait_ready, wait_rolled_back
from tests.kubectl import Kubectl, Manifest, condition, eventually

MOCK = {"mode": "mock", "image": None, "resources": example()["spec"]["resources"]}


def qwen(hub: str, image: str, repository: str, **over: Any) -> Manifest:
    model = {"repository": repository, "endpoint": hub, **over}
    resources = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}
    return {"mode": "qwen", "image": image, "model": model, "cache": a_hub.CACHE, "resources": resources}


def test_a_model_is_fetched_with_progress_and_found_by_the_servers(
    kubectl: Kubectl, hub: str, model_server: str, volume: str
) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    edit(kubectl, qwen(hub, model_server, "tiny/held"))
    halfway = eventually(lambda: triage(kubectl)["status"].get("cache", {}).get("percent", 0))
    assert 0 < halfway < 100, "the column moved"
    a_hub.release(kubectl, hub)
    eventually(lambda: condition(triage(kubectl), "ModelCached").get("status") == "True")
    wait_ready(kubectl, seconds=600)
    answer = client.ask_once(kubectl)["answer"]
    assert (answer["model"], answer["revision"]) == ("tiny/held", triage(kubectl)["status"]["model"]["commit"])


def test_an_image_that_runs_no_model_fetches_none(kubectl: Kubectl, admin: Kubectl, hub: str, volume: str) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    before = servers(kubectl)
    edit(kubectl, qwen(hub, server_image(admin), "tiny/qwen3"))
    found = wait_rolled_back(kubectl, "ModeNotSupported")
    assert "spec.image" in condition(found, "Ready")["message"], "what to set"
    assert condition(found, "ModelCached")["status"] == "False"
    assert servers(kubectl) == before


@pytest.mark.parametrize(
    ("repository", "why"),
    [("tiny/gated", "RepositoryGated"), ("tiny/qwen4", "TokenMissing"), ("tiny/encoder", "ModelNotSupported")],
)
def test_a_model_that_cannot_be_had_never_touches_who_serves(
    kubectl: Kubectl, hub: str, model_server: str, volume: str, repository: str, why: str
) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    before = servers(kubectl)
    with client.nothing_lost(kubectl):
        edit(kubectl, qwen(hub, model_server, repository))
        wait_rolled_back(kubectl, why)
        assert servers(kubectl) == before
    edit(kubectl, MOCK)
    wait_ready(kubectl)
    assert servers(kubectl) == before


def test_a_model_that_does_not_fit_is_refused_once_it_is_there(
    kubectl: Kubectl, hub: str, model_server: str, volume: str
) -> None:
    kubectl.apply(example())
    wait_ready(kubectl)
    before = servers(kubectl)
    edit(kubectl, {**qwen(hub, model_server, "tiny/qwen3"), "resources": {"limits": {"memory": "256Mi"}}})
    found = wait_rolled_back(kubectl, "MemoryLimitTooSmall")
    assert "1024Mi" in condition(found, "RolledBack")["message"], "the number that would do"
    assert condition(found, "ModelCached")["status"] == "True"
    assert found["status"]["cache"]["phase"] == "Ready"
    assert servers(kubectl) == before


def test_a_token_from_a_secret_opens_a_private_repository(
    kubectl: Kubectl, hub: str, model_server: str, volume: str
) -> None:
    kubectl("create", "secret", "generic", "own", "--from-literal=key=hf_test")
    kubectl.apply(example())
    wait_ready(kubectl)
    edit(kubectl, qwen(hub, model_server, "tiny/private", tokenSecretRef={"name": "own", "key": "key"}))
    eventually(lambda: condition(triage(kubectl), "ModelCached").get("status") == "True")
    assert "hf_test" not in kubectl("get", "llmdep,controllerrevisions,jobs,pods", "-o", "yaml")


def test_two_llmdeployments_share_one_fetch(kubectl: Kubectl, hub: str, model_server: str, volume: str) -> None:
    spec = {**example()["spec"], **qwen(hub, model_server, "tiny/held")}
    both = [{**example(), "metadata": {"name": name}, "spec": spec} for name in ("triage", "second")]
    kubectl.apply(*both)

    def cached(name: str) -> bool:
        found = kubectl.get("llmdep", name)
        return found is not None and condition(found, "ModelCached").get("status") == "True"

    def owners() -> list[set[str]]:
        return [{one["name"] for one in job["metadata"]["ownerReferences"]} for job in kubectl.list("jobs")]

    eventually(lambda: owners() == [{"triage", "second"}])
    # It is on its way for both.
    eventually(lambda: triage(kubectl)["status"].get("cache", {}).get("percent", 0))
    a_hub.release(kubectl, hub)
    eventually(lambda: cached("triage") and cached("second"))
    (job,) = kubectl.list("jobs")
    assert len(kubectl.list("pods", "-l", f"batch.kubernetes.io/job-name={job['metadata']['name']}")) == 1


def test_the_claim_outlives_its_llmdeployment_and_the_next_one_downloads_nothing(
    kubectl: Kubectl, hub: str, model_server: str, volume: str
) -> None:
    for _ in range(2):
        kubectl.apply({**example(), "spec": {**example()["spec"], **qwen(hub, model_server, "tiny/qwen3")}})
        eventually(lambda: condition(triage(kubectl), "ModelCached").get("status") == "True")
        (job,) = kubectl.list("jobs")
        logs = kubectl("logs", f"job/{job['metadata']['name']}")
        kubectl("delete", "llmdep", "triage", "--timeout=120s")
        eventually(lambda: not kubectl.list("jobs,deployments"))
        assert kubectl.get("pvc", "model-cache") is not None
    events = [json.loads(line).get("event") for line in logs.splitlines()]
    assert "progress" not in events
    assert events[-1] == "ready"
